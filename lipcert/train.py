"""``python -m lipcert.train``: train a classifier from a configuration and leave a run directory."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lipcert.errors import EXIT_UNUSABLE, InputError, one_line_errors
from lipcert.logs import logs

QUICKSTART = Path(__file__).with_name("quickstart.yaml")

DESCRIPTION = """
Train a classifier and leave a run directory: checkpoints, resolved configuration, metrics, exported network, summary.

Without --config it runs the embedded quickstart: a 1-Lipschitz network on 6,000 Fashion-MNIST images, about a minute.
Every value of a configuration can be set on the command line, for example:

  python -m lipcert.train --config experiments/fashion_mnist/hkr.yaml --trainer.max_epochs 15
  python -m lipcert.train --model.init_args.loss deel.torchlip.SoftHKRMulticlassLoss --name soft
  python -m lipcert.train --print_config > mine.yaml     # then edit it
  python -m lipcert.train --resume runs/quickstart --trainer.max_epochs 40
  python -m lipcert.train --config hardened.yaml --weights runs/plain   # a new run that starts from trained weights
  python -m lipcert.train --quiet --log train.jsonl      # prints nothing but errors; what happens goes to a file
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 after one clear line on stderr.

    Args:
        argv: command line without the program's name; ``sys.argv`` if None.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = shlex.join(["python", "-m", "lipcert.train", *arguments])
    with one_line_errors("lipcert train"):
        resume, arguments = _split_option(arguments, "--resume", "a run directory")
        log, arguments = _split_option(arguments, "--log", "a file")
        quiet, arguments = "--quiet" in arguments, [each for each in arguments if each != "--quiet"]
        if resume is not None:
            from lipcert.runs import RunPaths, read_config

            read_config(resume)
            arguments = ["--config", str(RunPaths(resume).config), *arguments]
        elif not any(argument.split("=")[0] in ("-c", "--config") for argument in arguments):
            arguments = ["--config", str(QUICKSTART), *arguments]
        from lipcert.training import train

        with logs(quiet=quiet, file=log):
            return train(arguments, resume=resume, command=command)
    return EXIT_UNUSABLE


def _split_option(arguments: list[str], option: str, what: str) -> tuple[Path | None, list[str]]:
    """Take out an option of the command itself, which is none of the run's configuration."""
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == option:
            rest = arguments[position + 1 :]
            if not value:
                if not rest:
                    raise InputError(f"expected {option} to be followed by {what}")
                value, rest = rest[0], rest[1:]
            return Path(value), arguments[:position] + rest
    return None, arguments


if __name__ == "__main__":
    sys.exit(main())
