"""Two processes that work on one thing, and do not hang for ever."""

import time

import pytest
import torch.multiprocessing as mp


def in_two_processes(work, folder, *, seconds):
    """Call ``work(rank, folder)`` in two processes and wait for both.

    Args:
        work: a function of a module, which a process can import.
        folder: where it finds and leaves its files.
        seconds: after which the processes are ended, and the test fails.
    """
    context = mp.spawn(work, (str(folder),), nprocs=2, join=False)
    deadline = time.monotonic() + seconds
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("two processes hang")
