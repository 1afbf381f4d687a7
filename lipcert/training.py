"""The training command's work: LightningCLI around a run directory."""

from __future__ import annotations

import itertools
import logging
import platform
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError
from jsonargparse._deprecated import JsonargparseDeprecationWarning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lipcert._version import __version__
from lipcert.callbacks import EpochSeed, FiniteLoss, Progress, RunRecorder
from lipcert.checkpoints import AtomicCheckpointIO, load_checkpoint
from lipcert.data import ImageData
from lipcert.deployment import check_export, export, load_network, save_network
from lipcert.distributed import (
    EndsOnSigterm,
    WholeBatchLoss,
    check_launcher,
    fit_on_devices,
    is_rank_zero,
    serving_rank_zero,
)
from lipcert.errors import InputError
from lipcert.files import write_atomically
from lipcert.logs import fields, is_quiet, logger_of
from lipcert.modules import Classifier
from lipcert.runs import RunPaths, write_summary
from lipcert.strategies import check_splitting, check_strategy
from lipcert.summary import measure_certificates
from lipcert.weights import start_from

LOG = logger_of("train")


class TrainCLI(LightningCLI):
    """LightningCLI without subcommands that owns a run directory.

    Args:
        arguments: the command line.
        resume: run directory to continue; None for a new run.
    """

    def __init__(self, arguments: list[str], *, resume: Path | None) -> None:
        self.resume = resume
        self.recorder: RunRecorder | None = None
        self.paths: RunPaths | None = None
        from lipcert.train import DESCRIPTION

        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults={"devices": 1, "max_epochs": 10, "num_sanity_val_steps": 0, "enable_model_summary": False},
            parser_kwargs={"exit_on_error": False, "prog": "lipcert train", "description": DESCRIPTION},
            args=arguments,
            run=False,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the run directory."""
        parser.add_argument("--name", type=str, default="run", help="name of the run; its directory is OUTPUT/NAME")
        parser.add_argument("--output", type=str, default="runs", help="folder in which run directories are made")
        parser.add_argument(
            "--weights",
            type=str | None,
            help="network to start from, in a new run: a run directory, a .ckpt, or a .safetensors of its weights",
        )
        parser.add_argument(
            "--monitor",
            type=str | None,
            help="metric whose largest value chooses the best checkpoint; by default the classifier's own: "
            "val/average_certified_radius, or val/accuracy for one without certificates",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and turn every complaint about the configuration into one line."""
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise InputError(complaint(str(error))) from error

    def instantiate_classes(self) -> None:
        """Make model, data and trainer; what a constructor refuses comes back as one line."""
        try:
            super().instantiate_classes()
        except ModuleNotFoundError as error:  # a logger or a callback that works with another package
            raise InputError(f"expected an installed package: {error}") from error
        except ValueError as error:
            if isinstance(error, InputError) or "Does not validate" not in str(error):
                raise
            raise InputError(complaint(str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the run directory once the data is known to be usable, and the trainer that writes to it."""
        if isinstance(self.datamodule, ImageData):
            self.datamodule.split("train")
        if self.config["weights"] and self.resume is None:
            start_from(self.config["weights"], self.model)
        if self.config_init["trainer"].get("fast_dev_run"):
            return self._trainer(**kwargs)
        if self.resume is not None:
            self._check_checkpoint(RunPaths(self.resume).last)
            return self._trainer_of(self.resume)
        directory = Path(self.config["output"]) / self.config["name"]
        if not is_rank_zero():  # which claims the directory, and tells the others where its checkpoints are
            return self._trainer_of(directory)
        directory = claim_directory(directory)
        try:
            return self._trainer_of(directory)
        except InputError:
            directory.rmdir()
            raise

    def _trainer_of(self, directory: Path) -> Trainer:
        config = self.config_init["trainer"]
        self.recorder = RunRecorder(directory.resolve(), monitor=self._monitor())
        given = config.get("callbacks") or []
        config["callbacks"] = [given] if isinstance(given, Callback) else list(given)
        config["callbacks"] += self._callbacks(
            config["callbacks"], bar=config.get("enable_progress_bar") is not False and not is_quiet()
        )
        config["logger"] = _loggers(config.get("logger"), directory)
        plugins = [*(config.get("plugins") or []), AtomicCheckpointIO()]
        bar = {"enable_progress_bar": False} if is_quiet() else {}
        trainer = self._trainer(default_root_dir=directory, plugins=plugins, **bar)
        if trainer.is_global_zero:
            self.paths = RunPaths(directory)
            write_atomically(self.paths.config, self.parser.dump(self.config, skip_none=False).encode())
            LOG.debug("the training begins", extra=fields(directory=str(directory), devices=trainer.world_size))
        return trainer

    def _trainer(self, **options: Any) -> Trainer:
        check_strategy(self.config_init["trainer"].get("strategy"))
        try:
            trainer = super().instantiate_trainer(**options)
        except (MisconfigurationException, ValueError) as error:
            raise InputError(str(error)) from error
        check_launcher(trainer)
        check_splitting(trainer, self.model)
        if isinstance(self.datamodule, ImageData):
            self.datamodule.check_devices(trainer.world_size)
        return trainer

    def _check_checkpoint(self, path: Path) -> None:
        """Refuse a checkpoint that does not fit before anything of the run is touched."""
        try:
            self.model.load_state_dict(load_checkpoint(path)["state_dict"])
        except RuntimeError as error:
            raise InputError(f"expected a checkpoint of this configuration's network at {path}: {error}") from error

    def _monitor(self) -> str | None:
        if isinstance(self.datamodule, ImageData) and not self.datamodule.val_dataloader():
            return None
        own = self.model.monitor if isinstance(self.model, Classifier) else None
        return self.config["monitor"] or own

    def network_recipe(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments of the configured network."""
        model = self.config["model"].as_dict()
        network = model.get("init_args", {}).get("network")
        if not isinstance(network, dict) or "class_path" not in network:
            raise InputError(
                f"expected a network by class path in the configuration of {model['class_path']} to export"
            )
        return network["class_path"], network.get("init_args") or {}

    def _callbacks(self, given: list[Callback], *, bar: bool) -> list[Callback]:
        assert self.recorder is not None
        callbacks: list[Callback] = [EpochSeed(self.seed), WholeBatchLoss(), FiniteLoss(), EndsOnSigterm()]
        callbacks.append(self.recorder)
        if bar and not any(isinstance(callback, ProgressBar) for callback in given):
            callbacks.append(Progress())
        return callbacks

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed_everything"])


def train(arguments: list[str], *, resume: Path | None = None, command: str = "") -> int:
    """Train by the command line ``arguments`` and return the exit code.

    Args:
        arguments: options of the command, ``--config`` among them.
        resume: run directory to continue.
        command: what the user typed, for the record.

    Raises:
        InputError: unusable configuration, data or checkpoint, or a loss that is not finite.
    """
    with quiet_lightning():
        if is_rank_zero():
            return _train(TrainCLI(arguments, resume=resume), command)
        with serving_rank_zero():
            return _train(TrainCLI(arguments, resume=resume), command)


def _train(cli: TrainCLI, command: str) -> int:
    checkpoint = None if cli.resume is None else RunPaths(cli.resume).last
    fit_on_devices(cli.trainer, cli.model, cli.datamodule, checkpoint=checkpoint)
    if cli.paths is None:
        if cli.trainer.interrupted:
            raise KeyboardInterrupt
        return 0
    if not isinstance(cli.model, Classifier) or not isinstance(cli.datamodule, ImageData):
        print(f"checkpoints are in {cli.paths.directory}; only a lipcert Classifier on ImageData is exported")
        return 0
    return _finish(cli, cli.paths, cli.model, cli.datamodule, command=command)


def _finish(cli: TrainCLI, paths: RunPaths, model: Classifier, data: ImageData, *, command: str) -> int:
    """Export the best network, prove the export, measure it on the test split, and say where everything is."""
    assert cli.recorder is not None
    chosen = paths.best if paths.best.is_file() else paths.last
    checkpoint = load_checkpoint(chosen)
    model.undo_split()
    model.cpu().load_state_dict(checkpoint["state_dict"])
    plain = export(model.network)
    class_path, init_args = cli.network_recipe()
    save_network(plain, paths.network, class_path, **init_args)
    deployed = load_network(paths.network)
    test = data.split("test")
    check_export(model.network, deployed, test.inputs(torch.arange(min(256, len(test)))))
    figures = model.figures(deployed, test)
    if "clean_accuracy" not in figures:
        figures = measure_certificates(deployed, test, epsilons=getattr(model, "epsilons", ())) | figures
    summary = {
        "status": "interrupted" if cli.trainer.interrupted else "completed",
        **figures,
        "seconds": round(cli.recorder.seconds, 2),
        "images_per_second": round(cli.recorder.images_per_second, 1),
        "epochs": len(cli.recorder.rows),
        "best_epoch": checkpoint["epoch"],
        "train_samples": len(data.split("train")),
        "command": command,
        "seed": cli.seed,
        "versions": versions(),
    }
    write_summary(paths.directory, summary)
    LOG.debug("the training has ended", extra=fields(directory=str(paths.directory), **summary))
    _print_summary(paths, summary)
    if cli.trainer.interrupted:
        raise InputError(
            f"interrupted after {len(cli.recorder.rows)} epochs; {paths.directory} holds the best network so far; "
            f"continue with --resume {paths.directory}"
        )
    return 0


def _print_summary(paths: RunPaths, summary: Mapping[str, Any]) -> None:
    print(f"clean accuracy {summary['clean_accuracy']:.4f} on {summary['samples']} test images")
    for epsilon, share in summary.get("certified_accuracy", {}).items():
        print(f"certified accuracy at {epsilon}: {share:.4f}")
    if "average_certified_radius" in summary:
        print(f"average certified radius {summary['average_certified_radius']:.4f}")
    print(f"run directory: {paths.directory}\naudit it with: python -m lipcert.audit {paths.directory}")


def claim_directory(wanted: Path) -> Path:
    """Make and return ``wanted``, or ``wanted-2``, ``wanted-3`` and so on: an earlier run is never overwritten."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        directory = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        return directory
    raise AssertionError("unreachable")


_PARSER_NOISE = re.compile(
    r"Does not validate|Subtypes:|Errors:|Expected a <class 'NoneType'>|Expected a path but|Given value type:|"
    r"Given value: (NestedArg|Namespace|.{60})"
)
_OTHER_THAN_ONE_LOGGER = " Expected a <class 'collections.abc.Iterable'> Expected a <class 'bool'>"


def complaint(message: str) -> str:
    """Return in one line what a parser complains about, without all that would have been fine."""
    lines = (line.strip().removeprefix("- ") for line in message.splitlines())
    told = " ".join(line for line in lines if line and not _PARSER_NOISE.match(line))
    return told.replace(_OTHER_THAN_ONE_LOGGER, "") or "unusable configuration"


def versions() -> dict[str, str]:
    """Return the versions of what the figures depend on."""
    from importlib.metadata import version

    packages = ("torch", "lightning", "deel-torchlip", "torchmetrics")
    return {"python": platform.python_version(), "lipcert": __version__} | {name: version(name) for name in packages}


def _loggers(configured: Any, directory: Path) -> list[Logger] | bool:
    if configured is False:
        return False
    given = [] if configured in (None, True) else configured if isinstance(configured, list) else [configured]
    return [*given, TensorBoardLogger(directory, name="", version="tensorboard")]


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advertisements and the deprecations inside of its own code off the screen."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.. is deprecated")
        warnings.filterwarnings("ignore", message="It is recommended to use `self.log")  # the metrics are synchronised
        warnings.filterwarnings("ignore", message="The number of training batches")  # nothing is logged by the step
        warnings.filterwarnings("ignore", message="Found .* module.s. in eval mode")  # teachers: they only answer
        warnings.filterwarnings("ignore", category=JsonargparseDeprecationWarning)
        yield
