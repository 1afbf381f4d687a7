"""The audit command's work: what is audited, where the report goes, and how it ends."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
import torch.nn as nn
from jsonargparse import Namespace

from lipcert.attacks import Attack
from lipcert.attacks.votes import Voting
from lipcert.certificates import certify
from lipcert.data import ImageSet
from lipcert.errors import EXIT_UNUSABLE, InputError
from lipcert.harness import AuditInterrupted, AuditResult, AuditWriteError, Subject, Workplace, launched_team, run_audit
from lipcert.harness.audit import EPSILONS
from lipcert.harness.budget import Budget, attack_classes, budget_of
from lipcert.harness.certifying import Certifier
from lipcert.harness.checks import spread
from lipcert.harness.detectors import REJECTED, certify_detected, check_rejects, false_alarms, load_detected
from lipcert.harness.foreign import NO_RULE, certify_or_not, check_runs, load_data, load_foreign
from lipcert.harness.joint_attack import joint_budget, jointly
from lipcert.harness.journal import discard
from lipcert.harness.power import INFLATIONS, power
from lipcert.harness.self_test import exit_code, self_test, table
from lipcert.harness.trust_comparisons import transfer_check
from lipcert.harness.voting import vote_certifier
from lipcert.logs import fields, logger_of
from lipcert.report import write_report
from lipcert.report.display import percent_down, rounded_down, rounded_up
from lipcert.runs import load_run

COMMAND = "lipcert audit"
EXIT_STOOD, EXIT_VIOLATED = 0, 1
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
    images: ImageSet
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
    doubts = compared(target, None if options["surrogate"] is None else load_surrogate(options["surrogate"]))

    def told(result: AuditResult) -> AuditResult:
        return replace(result, warnings=(*doubts, *remarks(target, result), *result.warnings))

    budget: str | float | Budget = options["budget"]
    epsilons = epsilons_of(options)
    if target.rejects:
        attacks = None if attacks is None else [jointly(attack) for attack in attacks]
        budget = joint_budget(budget_of(budget, epsilons=epsilons or EPSILONS))
    samples = options["samples"]
    if samples is not None and samples > len(target.images):
        raise InputError(f"expected --samples <= {len(target.images)}, the test images, got {samples}")
    directory = target.directory if options["output"] is None else Path(options["output"])
    partial = directory / "partial"
    with launched_team(devices=options["devices"], accelerator=options["accelerator"]) as team:
        if team.leads:
            prove_writable(directory)
            if options["restart"]:
                discard(partial)
        try:
            result = run_audit(
                target.network,
                target.images,
                samples=None if samples is None else torch.arange(samples),
                attacks=attacks,
                budget=budget,
                epsilons=epsilons,
                certifier=target.certifier,
                subject=target.subject,
                seed=options["seed"],
                workplace=Workplace(team, partial, say),
            )
        except AuditInterrupted as stop:
            return _conclude_early(told(stop.result), directory, "interrupted") if team.leads else EXIT_UNUSABLE
        except AuditWriteError as stop:
            return _conclude_early(told(stop.result), directory, f"{stop.strerror}: stopped")
        if not team.leads:
            return EXIT_STOOD
    return _conclude(told(result), directory)


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
        verdicts = planting(target.network, target.images, certifier=target.certifier)
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
    images = data.split("test")
    check_runs(foreign, images.inputs(torch.tensor([0])), len(data.class_names))
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
    return Target(run.network, data.split("test"), certifier, subject, directory / "audit")


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
    check_rejects(network, target.images.inputs(torch.tensor([0])), len(subject.class_names))
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
    inputs = target.images.inputs(spread(range(len(target.images)), COMPARED))
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


def unusable(message: str) -> int:
    """Say why there is no verdict, in one line, and return the exit code."""
    print(f"{COMMAND}: error: {message}", file=sys.stderr)
    return EXIT_UNUSABLE


def _conclude(result: AuditResult, directory: Path) -> int:
    page = write_report(result, directory)
    discard(directory / "partial")
    print(closing_block(result, page))
    _log_end(result, page, "done")
    return EXIT_VIOLATED if result.violations else EXIT_STOOD


def _log_end(result: AuditResult, page: Path, end: str) -> None:
    counts = {"samples": len(result.rows), "attacked": sum(row.attacked for row in result.rows)}
    told = fields(end=end, verdict=result.verdict, **counts, violations=len(result.violations), report=str(page))
    LOG.debug("the audit has ended", extra=told)


def _conclude_early(result: AuditResult, directory: Path, reason: str) -> int:
    """Conclude an audit that was stopped: what it refuted stays refuted, but that it refuted nothing is no pass."""
    attacked, violated = sum(row.attacked for row in result.rows), len(result.violations)
    found = f"{reason} after {attacked:,} samples, {f'{violated:,} violated' if violated else 'none violated'}"
    going_on = f"the same command goes on with what is in {directory / 'partial'}"
    try:
        page = write_report(result, directory)
    except OSError as error:
        return unusable(f"{found}; no report could be written ({error.strerror or error}); {going_on}")
    _log_end(result, page, reason)
    if violated:
        print(closing_block(result, page))
        return EXIT_VIOLATED
    return unusable(f"{found}; what is known is in {page}; {going_on}")


def closing_block(result: AuditResult, page: Path) -> str:
    """Return the last words of an audit: verdict, nearest miss, power, warnings, where the report is."""
    attacked = sum(row.attacked for row in result.rows)
    violated = len(result.violations)
    if violated:
        verdict = "FAIL, certificates violated"
    else:
        nothing = result.rule == NO_RULE
        verdict = "NO CERTIFICATES, attacked all the same" if nothing else "PASS, every attacked certificate stood"
    lines = [("verdict", f"{verdict}: {attacked:,} of {len(result.rows):,} attacked, {violated:,} violated")]
    nearest = min((row for row in result.rows if row.ratio is not None), key=lambda row: row.ratio or 0.0, default=None)
    distances = [row.distance for row in result.rows if row.distance is not None]
    if nearest is None and distances:
        lines.append(("distances", f"{rounded_up(min(distances))} at least, median {rounded_up(median(distances))}"))
    elif nearest is None:
        lines.append(("smallest ratio", "none, no adversarial example was found"))
    else:
        where = f"distance {rounded_up(nearest.distance)} over radius {rounded_down(nearest.radius)}"
        lines.append(("smallest ratio", f"{rounded_down(nearest.ratio)}, sample {nearest.index}: {where}"))
    strength = power(result.rows)
    if strength is not None:
        shares = zip(INFLATIONS, strength.shares, strict=True)
        refuted = ", ".join(f"{percent_down(share)} at {inflation:g}" for inflation, share in shares)
        lines.append(("power", f"refuted, had the radii been inflated: {refuted}"))
    lines += [("warning", warning) for warning in result.warnings]
    lines.append(("report", str(page)))
    return "\n".join(f"{title:<16}{text}" for title, text in lines)
