"""``python -m lipcert.audit RUN``: attack the certificates of a run and write a report."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

from lipcert.errors import EXIT_UNUSABLE, InputError, one_line_errors
from lipcert.logs import logs

# What is heavy is imported once the arguments are known to be good: --help answers at once.

COMMAND = "lipcert audit"

DESCRIPTION = """
Certify the test images of a run, attack them, and check that no adversarial example lies within its certified radius.
Radii, distances and epsilons are L2, in units of pixels in [0, 1]. For networks that vote over ablated views of images
they are sides of square patches, in pixels, and for those that vote over splitting noise they are L1.

examples:
  python -m lipcert.audit runs/quickstart
        a first look: the first correctly classified test image of each class
  python -m lipcert.audit runs/quickstart --budget standard
        all test images, and more passes where refutation is most likely; minutes for 10,000 small ones
  python -m lipcert.audit runs/quickstart --budget 60 --devices 2
        what two processes can do in 60 seconds, the most promising work first
  python -m lipcert.audit runs/quickstart --samples 100 --attacks boundary-walk autoattack
        two attacks with their own settings, on the first 100 test images, right or wrong
  python -m lipcert.audit runs/mnist_columns --budget standard
        a vote over bands of columns: patches of the largest certified side of each image, which may turn no vote, and
        larger ones, which show how tight the certificates are
  python -m lipcert.audit runs/mnist_columns --patch 5 --samples 200
        the certificates of 5 x 5 patches alone, of the first 200 test images
  python -m lipcert.audit --model mine.networks:resnet --weights resnet.safetensors --data lipcert.data.CIFAR10
        a network from elsewhere: certified if that is possible, attacked in any case
  python -m lipcert.audit runs/imagenet --data /data/imagenet --budget standard --shard-size 10000
        more images than the memory holds: read, audited and written 10,000 at a time
  python -m lipcert.audit --self-test
        does the audit notice what is wrong? Unsound certificates and broken networks are planted

It writes report.html (to look at), report.json and samples.csv (to compute with) and adversarial.safetensors. An audit
that was stopped or killed leaves its finished chunks in partial/, and the same command goes on from there. In shards,
the rows are in samples/*.parquet in place of samples.csv, and the budget is that of each shard.

exit codes: 0 every attacked certificate stood; 1 at least one was violated, its adversarial input is saved, or the
            self-test missed a defect; 2 unusable input or stopped early, one line on stderr
"""


class _HelpFormatter(DefaultHelpFormatter):
    """Keeps the lines of the description as they are written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.strip().splitlines(keepends=True))


def audit_parser() -> ArgumentParser:
    """Return the command's parser; it imports nothing heavy."""
    parser = ArgumentParser(
        prog="python -m lipcert.audit", description=DESCRIPTION, formatter_class=_HelpFormatter, exit_on_error=False
    )
    parser.add_argument("run", metavar="RUN", type=str, nargs="?", help="run directory that lipcert.train has left")
    parser.add_argument(
        "--budget",
        metavar="BUDGET",
        type=Literal["quick", "standard", "thorough"] | float,
        default="quick",
        help="how hard to try: quick (one image a class), standard (all images, the closest calls again by deeper "
        "attacks), thorough (every attack there is), or a number of seconds",
    )
    parser.add_argument(
        "--samples",
        metavar="N",
        type=int | None,
        help="attack the first N test images; by default what the budget says",
    )
    parser.add_argument(
        "--attacks",
        metavar="NAME",
        type=str,
        nargs="+",
        help="attacks to run on all of them in place of the budget's own; those with a fixed budget at each epsilon",
    )
    parser.add_argument(
        "--epsilons",
        metavar="EPSILON",
        type=float,
        nargs="+",
        default=None,
        help="distances at which the report gives accuracies, in [0,1] pixel units, or sides of patches in pixels; by "
        "default 0.1 0.25 0.5 1 1.58 in L2, 0.5 1 1.5 2 3 4 in L1, 1 2 3 4 5 7 10 for patches, or that of --patch",
    )
    parser.add_argument(
        "--patch",
        metavar="SIDE",
        type=int | None,
        help="of a network that votes over ablated views: certify square patches of this side alone, in pixels; by "
        "default the largest side that each image withstands",
    )
    parser.add_argument(
        "--arithmetic",
        type=Literal["float32", "float64", "real"],
        default="float32",
        help="what is certified: the network as it executes, or with real numbers; float32 counts every rounding",
    )
    parser.add_argument(
        "--devices",
        metavar="N",
        type=int,
        default=1,
        help="processes that share the work; rows are those of one process, to the bit with as many threads in each",
    )
    parser.add_argument(
        "--nodes",
        metavar="N",
        type=int,
        default=1,
        help="machines that share the work, each with --devices processes that torchrun or SLURM has started",
    )
    parser.add_argument(
        "--accelerator", metavar="NAME", type=str, default="cpu", help="what they compute on: cpu, cuda, or auto"
    )
    parser.add_argument(
        "--shard-size",
        metavar="N",
        type=int | None,
        help="read, audit and write so many images at a time: memory does not grow with their number; needs pyarrow",
    )
    parser.add_argument("--seed", metavar="SEED", type=int, default=0, help="of everything that attacks draw at random")
    parser.add_argument(
        "--output", metavar="DIR", type=str | None, help="folder of the report; by default RUN/audit, or audits/FACTORY"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors; the exit code is the verdict")
    parser.add_argument("--log", metavar="FILE", type=str | None, help="append what happens to FILE, as lines of JSON")
    parser.add_argument(
        "--restart", action="store_true", help="start over, though an unfinished audit could be continued"
    )
    parser.add_argument(
        "--model",
        metavar="PACKAGE.MODULE:FACTORY",
        type=str | None,
        help="in place of RUN: import path of a class or function that returns a network, whose code is run",
    )
    parser.add_argument("--model-args", metavar="JSON", type=str | None, help="keyword arguments of the factory")
    parser.add_argument("--weights", metavar="FILE", type=str | None, help="its weights: .safetensors or a state dict")
    parser.add_argument(
        "--data",
        metavar="DATA",
        type=str | None,
        help="images: a data class such as lipcert.data.FashionMNIST, a folder or zip file with one folder a class, or "
        "an .npz or .safetensors file of arrays; by default those of RUN",
    )
    parser.add_argument("--data-args", metavar="JSON", type=str | None, help="keyword arguments of the data class")
    _add_detector_options(parser)
    parser.add_argument(
        "--surrogate",
        metavar="NETWORK",
        type=str | None,
        help="an undefended network for the same images, as a run directory or an import path that returns it trained: "
        "the report warns if its adversarial examples are better than the audited network's own",
    )
    parser.add_argument(
        "--self-test",
        action="store_true",
        help="audit the audit: plant defects in the network, by default in lipcert's own, and tell which were caught",
    )
    return parser


def _add_detector_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--detector",
        metavar="PACKAGE.MODULE:FACTORY",
        type=str | None,
        help="import path of a class or function that returns a module which flags inputs, as (N,) bool or scores: an "
        "adversarial example must not be flagged, and a flagged clean image counts as misclassified",
    )
    parser.add_argument("--detector-args", metavar="JSON", type=str | None, help="keyword arguments of that factory")
    parser.add_argument("--detector-weights", metavar="FILE", type=str | None, help="weights of the detector")
    parser.add_argument(
        "--threshold", metavar="SCORE", type=float, default=0.5, help="score above which the detector flags an input"
    )
    parser.add_argument(
        "--rejects",
        action="store_true",
        help="the network gives one logit more than there are classes: the last one says that it rejects the input",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1, or 2 after one clear line on stderr.

    Args:
        argv: command line without the program's name; ``sys.argv`` if None.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with one_line_errors(COMMAND):
            options = _parsed(arguments)
            if options.devices * options.nodes > 1 and _follows():
                return _in_silence(options)
            with logs(quiet=options.quiet, file=options.log):
                return _audit(options, "python -m lipcert.audit " + shlex.join(arguments))
    except SystemExit as stop:  # --help, or the one line
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        told = "interrupted; no report was written, and the same command goes on with what has been kept"
        print(f"{COMMAND}: error: {told}", file=sys.stderr)
    return EXIT_UNUSABLE


def _audit(options: Namespace, command: str) -> int:
    from lipcert.auditing import audit

    return audit(options, command)


def _follows() -> bool:
    """Return whether another process has launched this one to share its work, and is the one to speak."""
    return any(os.environ.get(name, "0") != "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def _in_silence(options: Namespace) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; what it means is decided elsewhere
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            return _audit(options, "")
        except Exception:  # the leading process has seen it, or has died
            return EXIT_UNUSABLE


def _parsed(arguments: list[str]) -> Namespace:
    try:
        options = audit_parser().parse_args(arguments)
    except ArgumentError as error:
        raise InputError(f"{_complaint(str(error))}; see python -m lipcert.audit --help") from error
    _check_target(options)
    for name, least in (("samples", 1), ("devices", 1), ("nodes", 1), ("seed", 0), ("patch", 1), ("shard_size", 1)):
        if options[name] is not None and options[name] < least:
            raise InputError(f"expected --{name.replace('_', '-')} >= {least}, got {options[name]}")
    if isinstance(options.budget, float) and not 0 < options.budget < float("inf"):
        raise InputError(f"expected a finite number of seconds above 0 for --budget, got {options.budget:g}")
    if options.shard_size is not None and isinstance(options.budget, float):
        raise InputError(f"expected a budget by its name beside --shard-size, got {options.budget:g} seconds")
    for name in ("self_test", "detector", "rejects"):
        if options.shard_size is not None and options[name]:
            raise InputError(f"expected --shard-size or --{name.replace('_', '-')}, got both")
    for epsilon in options.epsilons or ():
        if not 0 <= epsilon < float("inf"):
            raise InputError(f"expected every epsilon to be finite and >= 0, got {epsilon:g}")
    return options


def _check_target(options: Namespace) -> None:
    """Refuse options that name nothing to audit, or two things."""
    if options.run is not None and options.model is not None:
        raise InputError(f"expected RUN or --model, got both {options.run} and {options.model}")
    if options.run is None and options.model is None and not options.self_test:
        raise InputError("expected RUN, a run directory, or --model; see python -m lipcert.audit --help")
    if options.model is None:
        for name in ("weights", "model_args"):
            if options[name] is not None:
                raise InputError(f"expected --model beside --{name.replace('_', '-')}, got none")
    elif options.data is None:
        raise InputError("expected --data beside --model, got none")
    if options.data is None and options.data_args is not None:
        raise InputError("expected --data beside --data-args, got none")
    _check_rejection(options)
    if options.run is not None and not Path(options.run).is_dir():
        raise InputError(f"expected a run directory, found none at {options.run}")


def _check_rejection(options: Namespace) -> None:
    if options.detector is None:
        for name in ("detector_weights", "detector_args"):
            if options[name] is not None:
                raise InputError(f"expected --detector beside --{name.replace('_', '-')}, got none")
    elif options.rejects:
        raise InputError("expected --detector or --rejects, got both")
    if options.self_test and (options.detector is not None or options.rejects or options.surrogate is not None):
        raise InputError("expected no detector and no surrogate beside --self-test, got one")


_KINDS = {
    "threshold": "a number",
    "budget": "quick, standard, thorough or a number of seconds",
    "epsilons": "numbers",
    "arithmetic": "float32, float64 or real",
    "attacks": "names",
}


def _complaint(message: str) -> str:
    """Say in one line what jsonargparse says in several: the option and the value that it does not take."""
    found = re.search(r'Parser key "(\w+)".*value: (.*)', message, re.DOTALL)
    if found is None:
        return message.strip().splitlines()[0]
    return f"expected {_KINDS.get(found[1], 'a whole number')} for --{found[1].replace('_', '-')}, got {found[2]}"


if __name__ == "__main__":
    sys.exit(main())
