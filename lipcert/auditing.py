"""The audit command's work: what is audited, where the report goes, and how it ends."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn as nn
from jsonargparse import Namespace

from lipcert.attacks import Attack
from lipcert.attacks.votes import Voting
from lipcert.certificates import certify
from lipcert.concluding import EXIT_STOOD, conclude, conclude_early, conclude_shards_early
from lipcert.data import ImageData, ImageSet, ImageSource
from lipcert.errors import EXIT_UNUSABLE, InputError
from lipcert.harness import AuditInterrupted, AuditResult, AuditWriteError, Subject, Workplace, launched_team, run_audit
from lipcert.harness.audit import EPSILONS
from lipcert.harness.budget import Budget, attack_classes, budget_of
from lipcert.harness.certifying import Certifier
from lipcert.harness.checks import spread
from lipcert.harness.detectors import REJECTED, certify_detected, check_rejects, false_alarms, load_detected
from lipcert.harness.foreign import certify_or_not, check_runs, load_data, load_foreign
from lipcert.harness.joint_attack import joint_budget, jointly
from lipcert.harness.journal import PARTIAL, discard
from lipcert.harness.self_test import exit_code, self_test, table
from lipcert.harness.trust_comparisons import transfer_check
from lipcert.harness.voting import vote_certifier
from lipcert.logs import logger_of
from lipcert.report.numbers import Numbers
from lipcert.runs import load_run
from lipcert.shards import Sharded, ShardsInterrupted, audit_in_shards
from lipcert.shards.audit import FOLDER as SHARDS

LOG = logger_of("audit")
COMPARED = 16  # images on which a surrogate is tried


@dataclass(frozen=True)
class Target:
    """What is audited, and where the report goes unless the user says otherwise.

    Attributes:
        network: in eval mode.
        images: on which.
        certifier: what is claimed.
        subject: names for the report.
        directory: of the report.
        rejects: whether the last of the network's logits says that it rejects an input.
    """

    network: nn.Module
    images: ImageSource
    certifier: Certifier
    subject: Subject
    directory: Path
    rejects: bool = False


def audit(options: Namespace, command: str) -> int:
    """Audit what the options say, write the report, and return the exit code.

    Args:
        options: those of the command line.
        command: what repeats the audit, for the report.

    Raises:
        InputError: something that is named cannot be used.
        OSError: the report cannot be written.
    """
    attacks = attacks_by_name(options["attacks"])
    if options["self_test"]:
        return audit_the_audit(options, attacks)
    target = rejecting(target_of(options, command), options)
    check_samples(options["samples"], target.images)
    doubts = compared(target, None if options["surrogate"] is None else load_surrogate(options["surrogate"]))

    def told(result: AuditResult) -> AuditResult:
        return replace(result, warnings=(*doubts, *remarks(target, result), *result.warnings))

    budget: str | float | Budget = options["budget"]
    epsilons = epsilons_of(options)
    if target.rejects:
        attacks = None if attacks is None else [jointly(attack) for attack in attacks]
        budget = joint_budget(budget_of(budget, epsilons=epsilons or EPSILONS))
    directory = target.directory if options["output"] is None else Path(options["output"])
    work = functools.partial(
        run_audit if options["shard_size"] is None else audit_in_shards,
        target.network,
        attacks=attacks,
        budget=budget,
        epsilons=epsilons,
        certifier=target.certifier,
        subject=target.subject,
        seed=options["seed"],
    )
    try:
        return carried_out(work, target.images, options, directory, told)
    except ShardsInterrupted:
        return conclude_shards_early(None, directory, "interrupted")


def carried_out(
    work: Callable[..., Any],
    images: ImageSource,
    options: Namespace,
    directory: Path,
    told: Callable[[AuditResult], AuditResult],
) -> int:
    """Audit with as many processes as the options say, write the report, and return the exit code.

    Args:
        work: the audit of a whole split, or that in shards, without the images and the workplace.
        images: what to certify.
        options: those of the command line.
        directory: of the report.
        told: adds to a result what only the options make possible to say of it.
    """
    machines = {"devices": options["devices"], "nodes": options["nodes"], "accelerator": options["accelerator"]}
    with launched_team(**machines) as team:
        if team.leads:
            begin(directory, restart=options["restart"])
        work = functools.partial(work, workplace=Workplace(team, directory / PARTIAL, say))
        early = conclude_early if options["shard_size"] is None else conclude_shards_early
        try:
            result, numbers = measured(work, images, options, directory)
        except AuditInterrupted as stop:
            return early(told(stop.result), directory, "interrupted") if team.leads else EXIT_UNUSABLE
        except AuditWriteError as stop:
            return early(told(stop.result), directory, f"{stop.strerror}: stopped")
        if not team.leads:
            return EXIT_STOOD
    return conclude(told(result), directory, numbers)


def check_samples(samples: int | None, images: ImageSource) -> None:
    """Refuse to attack more samples than there are images.

    Raises:
        InputError: there are fewer.
    """
    if samples is not None and samples > len(images):
        raise InputError(f"expected --samples <= {len(images)}, the test images, got {samples}")


def measured(
    work: Callable[..., Any], images: ImageSource, options: Namespace, directory: Path
) -> tuple[AuditResult, Numbers | None]:
    """Return what an audit measures, with numbers of all samples where it does not hold all of their rows.

    Args:
        work: the audit of a whole split, or that in shards, without the images.
        images: what to certify.
        options: those of the command line.
        directory: of the report.

    Raises:
        InputError: what the audit refuses.
        AuditInterrupted: see :func:`~lipcert.harness.run_audit`.
        AuditWriteError: see there.
    """
    samples = options["samples"]
    if options["shard_size"] is None:
        return work(images, samples=None if samples is None else torch.arange(samples)), None
    settings = {name: options[name] for name in ("arithmetic", "patch")}
    found: Sharded = work(images, directory, shard_size=options["shard_size"], samples=samples, settings=settings)
    return found.result, found.numbers


def begin(directory: Path, *, restart: bool) -> None:
    """Make sure of the folder of a report; forget what is unfinished in it if the audit starts over."""
    prove_writable(directory)
    if restart:
        discard(directory / PARTIAL)
        discard(directory / SHARDS)


def epsilons_of(options: Namespace) -> list[float] | None:
    """Return the budgets that the options ask for, the side of their patch if they name one; None for the usual ones.

    Example:
        >>> epsilons_of(Namespace(epsilons=None, patch=5)), epsilons_of(Namespace(epsilons=[0.5], patch=None))
        ([5.0], [0.5])
    """
    epsilons: list[float] | None = options["epsilons"]
    return [float(options["patch"])] if epsilons is None and options["patch"] is not None else epsilons


def attacks_by_name(names: Sequence[str] | None) -> list[Attack] | None:
    """Return attacks with their default settings.

    Raises:
        InputError: there is no attack of that name.

    Example:
        >>> [attack.name for attack in attacks_by_name(["carlini-wagner-l2"])]
        ['carlini-wagner-l2']
    """
    if names is None:
        return None
    known = attack_classes()
    for name in names:
        if name not in known:
            raise InputError(f"expected attacks among {', '.join(known)}, got {name!r}")
    return [known[name]() for name in dict.fromkeys(names)]


def audit_the_audit(options: Namespace, attacks: list[Attack] | None) -> int:
    """Plant defects in the network of the options, or in one of lipcert's own, say which were caught, and how."""
    planting = functools.partial(self_test, attacks=attacks, progress=lambda name: say(f"planted: {name}"))
    if options["run"] is None and options["model"] is None:
        verdicts = planting()
    else:
        target = target_of(options, "")
        _refuse_votes(target, "--self-test alone, which plants false votes of its own")
        verdicts = planting(target.network, cast(ImageSet, target.images), certifier=target.certifier)
    print(table(verdicts))
    return exit_code(verdicts)


def target_of(options: Namespace, command: str) -> Target:
    """Return what the options name: a run, or a network from elsewhere.

    Raises:
        InputError: it cannot be loaded, or does not fit its images.
    """
    return target_of_run(options, command) if options["model"] is None else target_of_model(options, command)


def target_of_model(options: Namespace, command: str) -> Target:
    """Return a network that no run of lipcert made, certified if that is possible.

    Raises:
        InputError: it cannot be loaded, or does not fit its images.
    """
    foreign = load_foreign(options["model"], weights=options["weights"], arguments=options["model_args"])
    data = load_data(options["data"], arguments=options["data_args"])
    images = images_of(data, options)
    check_runs(foreign, images.block(0, 1).inputs(), len(data.class_names))
    subject = Subject(foreign.name, foreign.sha256, data.name, "test", data.class_names, command)
    arithmetic, patch = options["arithmetic"], options["patch"]
    certifier = vote_certifier(foreign.network, arithmetic=arithmetic, patch=patch)
    certifier = certifier or functools.partial(certify_or_not, arithmetic=arithmetic)
    return Target(foreign.network, images, certifier, subject, Path("audits") / foreign.name)


def target_of_run(options: Namespace, command: str) -> Target:
    """Return what a run directory holds, with other images if the options name some.

    Raises:
        InputError: it is none, or something in it is missing.
    """
    directory = Path(options["run"])
    run = load_run(directory)
    data = run.data if options["data"] is None else load_data(options["data"], arguments=options["data_args"])
    subject = Subject(directory.resolve().name, run.network_sha256, data.name, "test", data.class_names, command)
    arithmetic, patch = options["arithmetic"], options["patch"]
    certifier = vote_certifier(run.network, arithmetic=arithmetic, patch=patch)
    certifier = certifier or functools.partial(certify, arithmetic=arithmetic)
    return Target(run.network, images_of(data, options), certifier, subject, directory / "audit")


def images_of(data: ImageData, options: Namespace) -> ImageSource:
    """Return the test images, in memory unless they are read a shard at a time."""
    return data.split("test") if options["shard_size"] is None else data.source("test")


def rejecting(target: Target, options: Namespace) -> Target:
    """Return the target with the detector that the options name, or as one that rejects inputs by itself.

    Raises:
        InputError: the detector cannot be loaded, or the network has no logit for rejection.
    """
    if options["detector"] is None and not options["rejects"]:
        return target
    _refuse_votes(target, "no detector beside a vote")
    network, certifier, subject = target.network, target.certifier, target.subject
    if options["detector"] is not None:
        network = load_detected(
            network,
            options["detector"],
            weights=options["detector_weights"],
            arguments=options["detector_args"],
            threshold=options["threshold"],
        )
        certifier = functools.partial(certify_detected, certifier=certifier)
        name = f"{subject.model_name} with {options['detector']} at {options['threshold']:g}"
        subject = replace(subject, model_name=name, model_sha256="")  # computed of all tensors, the detector's included
    check_rejects(network, target.images.block(0, 1).inputs(), len(subject.class_names))
    subject = replace(subject, class_names=(*subject.class_names, REJECTED))
    return replace(target, network=network, certifier=certifier, subject=subject, rejects=True)


def _refuse_votes(target: Target, what: str) -> None:
    """Refuse what is not there for networks that vote."""
    if isinstance(target.network, Voting):
        raise InputError(f"expected {what}, got one for {target.subject.model_name}, which votes over views")


def load_surrogate(name: str) -> nn.Module:
    """Return the network of a run directory or of an import path.

    Raises:
        InputError: it cannot be loaded.
    """
    return load_run(name).network if Path(name).is_dir() else load_foreign(name).network


def compared(target: Target, surrogate: nn.Module | None) -> tuple[str, ...]:
    """Return a warning if the adversarial examples of a surrogate are better than the network's own.

    Raises:
        InputError: the surrogate does not fit.
    """
    if surrogate is None:
        return ()
    _refuse_votes(target, "no surrogate beside a vote")
    chosen = spread(range(len(target.images)), COMPARED).tolist()
    inputs = torch.cat([target.images.block(place, place + 1).inputs() for place in chosen])
    said = transfer_check(target.network, surrogate, inputs)
    return () if said is None else (said,)


def remarks(target: Target, result: AuditResult) -> tuple[str, ...]:
    """Return what only the options make possible to say of a result."""
    said = false_alarms(result.rows, len(target.subject.class_names) - 1) if target.rejects else None
    return () if said is None else (said,)


def prove_writable(directory: Path) -> None:
    """Write and remove a small file, so that a full disk is noticed before minutes of work and not after."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".probe.") as probe:
        probe.write(bytes(4096))
        probe.flush()
        os.fsync(probe.fileno())


def say(line: str) -> None:
    """Tell the user something that is neither a result nor an error."""
    LOG.info(line)
