"""The processes that share an audit: each does every n-th piece of work, and all of them know all results."""

from __future__ import annotations

import logging
import subprocess
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from lipcert.errors import InputError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

PATIENCE = 20.0  # seconds in which the others have to end
LONGEST_WAIT = timedelta(days=2)  # for the slowest process, at the end of a turn


class Team:
    """One process of an audit among several; by itself, the only one.

    Attributes:
        rank: number of this process.
        size: number of processes.
        device: on which this one computes.

    Example:
        >>> Team().in_turn([3], lambda number: number + 1), Team().agreed("yes")
        ([4], 'yes')
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def leads(self) -> bool:
        """Whether this is the process that decides, writes and speaks."""
        return self.rank == 0

    def agreed(self, word: Result) -> Result:
        """Return what the leading process says."""
        return word

    def in_turn(self, pieces: Sequence[Piece], work: Callable[[Piece], Result]) -> list[Result]:
        """Do at most one piece of work a process; return all results, in the order of the pieces.

        What the work raises in one process is raised in all of them.
        """
        return [work(piece) for piece in pieces]


class FabricTeam(Team):
    """The processes that Lightning Fabric has launched."""

    def __init__(self, fabric: Any) -> None:
        self.rank, self.size, self.device = fabric.global_rank, fabric.world_size, fabric.device
        if self.device.type == "cuda":  # certificates are about float32 products as IEEE has them
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def agreed(self, word: Result) -> Result:
        """Return what the leading process says."""
        words = [word]
        if self.size > 1:
            with _lost_process_named():
                dist.broadcast_object_list(words, src=0)
        return words[0]

    def in_turn(self, pieces: Sequence[Piece], work: Callable[[Piece], Result]) -> list[Result]:
        """Do at most one piece of work a process; return all results, in the order of the pieces."""
        if self.size == 1:
            return super().in_turn(pieces, work)
        assert len(pieces) <= self.size
        own: Result | Exception | None = None
        if self.rank < len(pieces):
            try:
                own = work(pieces[self.rank])
            except (InputError, OSError) as error:
                own = error
            except Exception:  # a bug; its traceback would not survive the journey
                own = RuntimeError(f"in process {self.rank}:\n{traceback.format_exc()}")
        results: list[Any] = [None] * self.size
        with _lost_process_named():
            dist.all_gather_object(results, own)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results[: len(pieces)]


@contextmanager
def launched_team(*, devices: int = 1, nodes: int = 1, accelerator: str = "cpu") -> Iterator[Team]:
    """Start the processes of an audit through Lightning Fabric, and end them.

    The command is run once a device; all processes but the leading one are to be silent. Where torchrun or SLURM has
    started them already, they find one another, on any number of nodes.

    Args:
        devices: number of processes a node, each on a device of its own.
        nodes: number of nodes.
        accelerator: ``"cpu"``, ``"cuda"`` or what else Fabric knows.

    Raises:
        InputError: no such accelerator, or too few of its devices.
    """
    if devices * nodes == 1 and accelerator == "cpu":
        yield Team()
        return
    with _quiet():
        fabric = _launched(devices, nodes, accelerator)
    launcher = getattr(fabric.strategy, "launcher", None)
    processes: list[subprocess.Popen[bytes]] = list(getattr(launcher, "procs", ()))
    if processes and launcher is not None:
        launcher.procs.clear()  # Lightning's observer kills this process too when it sees that one of them has failed
    patience = 0.0
    try:
        yield FabricTeam(fabric)
        patience = PATIENCE
    finally:
        _end(processes, patience)
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def _launched(devices: int, nodes: int, accelerator: str) -> Any:
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    strategy = DDPStrategy(timeout=LONGEST_WAIT) if devices * nodes > 1 else "auto"
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy)
        fabric.launch()
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        where = f" on each of {nodes} nodes" if nodes > 1 else ""
        raise InputError(f"expected {devices} {accelerator} devices{where}: {error}") from error
    return fabric


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from telling at length that it has started two processes."""
    import lightning.pytorch  # noqa: F401 - which sets the levels when it is imported

    loggers = [logging.getLogger(name) for name in ("lightning.fabric", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _lost_process_named() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what waiting for a process that has died ends with
        raise InputError(
            "expected every process to finish, one has died; the same command continues where it was"
        ) from error


def _end(processes: Sequence[subprocess.Popen[bytes]], patience: float) -> None:
    deadline = time.monotonic() + patience
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
