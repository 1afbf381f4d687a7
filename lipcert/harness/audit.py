"""Attacks the certificates of a network and keeps what was found."""

from __future__ import annotations

import copy
import errno
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from lipcert._version import __version__
from lipcert.attacks import Attack
from lipcert.attacks.votes import Voting
from lipcert.certificates import Certificate, certify
from lipcert.data import ImageSet
from lipcert.deployment import tensors_sha256
from lipcert.errors import InputError
from lipcert.harness.budget import Budget, budget_of
from lipcert.harness.certifying import Certifier, certified
from lipcert.harness.checks import checks_after, checks_before
from lipcert.harness.clock import Clock, Interrupts
from lipcert.harness.environment import environment
from lipcert.harness.journal import Journal
from lipcert.harness.ledger import Ledger
from lipcert.harness.result import AuditResult
from lipcert.harness.rounds import End, Rounds
from lipcert.harness.selection import checked_positions, first_correct_of_each_class
from lipcert.harness.voting import budget_on_votes
from lipcert.harness.workplace import Workplace
from lipcert.metrics import check_epsilons

EPSILONS = (0.1, 0.25, 0.5, 1.0, 1.58)
EPSILONS_OF: Mapping[str, tuple[float, ...]] = {
    "patch": (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0),
    "l1": (0.5, 1.0, 1.5, 2.0, 3.0, 4.0),
}
"""Budgets for which accuracies are reported: in L2, and in the norms that are named."""
NOTHING_RIGHT = "expected at least one correctly classified image, got none; say which samples to attack"


@dataclass(frozen=True, slots=True)
class Subject:
    """Names for the report: what is audited, and who asked.

    Attributes:
        model_name: the network's name.
        model_sha256: checksum of its file; computed from its tensors if empty.
        data_name: the data set's name.
        data_split: the split's name.
        class_names: one name a class; their numbers if empty.
        command: command line that repeats the audit.
    """

    model_name: str = "network"
    model_sha256: str = ""
    data_name: str = "images"
    data_split: str = "test"
    class_names: tuple[str, ...] = ()
    command: str = ""


class AuditInterrupted(KeyboardInterrupt):
    """Ctrl-C during the attacks.

    Attributes:
        result: what was known until then, with a warning that says so.
    """

    def __init__(self, result: AuditResult) -> None:
        super().__init__("the audit was interrupted")
        self.result = result


class AuditWriteError(OSError):
    """The file system refused a record of the audit.

    Attributes:
        result: what was known until then, with a warning that says so.
    """

    def __init__(self, error: OSError, result: AuditResult) -> None:
        super().__init__(error.errno or errno.EIO, error.strerror or str(error), error.filename)
        self.result = result


def run_audit(
    network: nn.Module,
    images: ImageSet,
    *,
    samples: Tensor | None = None,
    attacks: Sequence[Attack] | None = None,
    budget: str | float | Budget = "quick",
    epsilons: Sequence[float] | None = None,
    certifier: Certifier = certify,
    subject: Subject | None = None,
    seed: int = 0,
    workplace: Workplace | None = None,
) -> AuditResult:
    """Certify all images, attack some of them, and compare.

    A certificate protects the predicted class, right or wrong, so that is the class an attack tries to leave. The
    verdict is ``"fail"`` as soon as one verified adversarial example, or a clean image that the deployed network
    classifies otherwise, lies strictly within its certified radius, or, of certificates of votes, at that radius;
    ``"pass"`` proves nothing beyond that. Distances are in the norm of the certificates: for those against patches, the
    side of the smallest square that holds what an attack has changed. Attacks see a network that votes as
    :class:`~lipcert.attacks.votes.SoftVote` shows it.

    Args:
        network: plain network in eval mode; it is left as it is.
        images: what to certify.
        samples: ``(M,)`` int64 positions of the images to attack; by default those that the budget says: all, or the
            first correctly classified image of each class.
        attacks: run on all of these samples in place of the budget's own stages; for each sample the nearest
            adversarial example of all attacks counts.
        budget: ``"quick"``, ``"standard"``, ``"thorough"``, a number of seconds, or a :class:`Budget`.
        epsilons: budgets at which the report gives accuracies, and which attacks with a fixed budget get; in units of
            [0,1] pixels, or sides of patches in pixels. By default some for each norm.
        certifier: returns the certificates under attack.
        subject: names for the report.
        seed: of everything random.
        workplace: processes that share the work, and where unfinished work is kept.

    Returns:
        Everything that was measured.

    Raises:
        InputError: unusable images, labels, samples, budgets or certificates, a network in training mode, one that is
            never right although no samples were given, or too little time.
        AuditInterrupted: Ctrl-C during the attacks; carries what was known until then.
        AuditWriteError: so does this, if unfinished work cannot be kept any more.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> _ = network[1].weight.data.copy_(torch.eye(2)), network[1].bias.data.zero_()
        >>> pixels = torch.tensor([[200, 100], [50, 250]], dtype=torch.uint8).view(2, 1, 1, 2)
        >>> result = run_audit(network, ImageSet(pixels, torch.tensor([0, 1])))
        >>> result.verdict, [row.ratio >= 1 for row in result.rows]
        ('pass', [True, True])
    """
    accuracies = checked_epsilons(EPSILONS if epsilons is None else epsilons)
    workplace, subject = workplace or Workplace(), subject or Subject()
    if samples is not None and not (workplace.part and samples.numel() == 0):
        checked_positions(samples, len(images))
    spent = budget_of(budget, epsilons=accuracies, attacks=attacks)
    clock = Clock(spent.seconds)
    if workplace.team.device.type != "cpu":
        network = copy.deepcopy(network).to(workplace.team.device)
    certificate, clean = certified(network, images, certifier, team=workplace.team)
    if epsilons is None:
        accuracies = EPSILONS_OF.get(certificate.norm, EPSILONS)
    spent = budget_of(budget, epsilons=accuracies, attacks=attacks, norm=certificate.norm)
    if isinstance(network, Voting):
        spent = budget_on_votes(spent, grid=certificate.grid if certificate.norm == "l1" else None)
    attacked = _attacked(images, certificate, samples, everything=spent.everything)
    if not attacked and not workplace.part:
        raise InputError(NOTHING_RIGHT)
    names = _named(subject, network)
    identity = _identity(names, images, certificate, attacked, spent, seed=seed)
    journal = _journal(workplace, identity, images)
    try:
        ledger = Ledger(images, certificate, journal)
        ledger.enter_clean(clean)
        interrupts = Interrupts(ignore=not workplace.team.leads)
        doubts: tuple[str, ...] = ()
        if workplace.first:
            looked_at = attacked or range(len(images))
            doubts = checks_before(network, images, looked_at, certificate, device=workplace.team.device)
        rounds = Rounds(network, ledger, journal, workplace.team, clock, seed, interrupts)
        end = rounds.run(spent, attacked)
        if end == "time" and not any(row.attacked for row in ledger.rows):
            raise InputError(f"expected more than {clock.elapsed:.2g} s, which is what certification alone takes")
        result = _result(network, ledger, epsilons=accuracies, subject=names, workplace=workplace)
        doubts = (*_END_WARNINGS.get(end, ()), *_left_out(rounds), *doubts)
        result = replace(result, warnings=(*doubts, *result.warnings), doubts=doubts)
    finally:
        journal.close()
    if end == "interrupted":
        raise AuditInterrupted(result)
    if end == "unwritable":
        raise AuditWriteError(rounds.failure or OSError(errno.EIO, "the leading process cannot write"), result)
    return result


def checked_epsilons(epsilons: Sequence[float]) -> tuple[float, ...]:
    """Return the budgets in ascending order, each once.

    Raises:
        InputError: one is negative or not finite.

    Example:
        >>> checked_epsilons([0.5, 0.1, 0.5])
        (0.1, 0.5)
    """
    return tuple(sorted(set(map(float, check_epsilons(epsilons)))))


def _attacked(images: ImageSet, certificate: Certificate, samples: Tensor | None, *, everything: bool) -> list[int]:
    if samples is None:
        if everything:
            return list(range(len(images)))
        samples = first_correct_of_each_class(images.labels, certificate.prediction, certificate.radius)
    chosen: list[int] = samples.tolist()
    return chosen


def _identity(
    subject: Subject, images: ImageSet, certificate: Certificate, samples: Sequence[int], budget: Budget, *, seed: int
) -> dict[str, Any]:
    """Return what makes two audits the same, in values of JSON; the number of processes and the time do not count."""
    return {
        "network": [subject.model_name, subject.model_sha256],
        "images": images.sha256,
        "certificates": [certificate.norm, certificate.rule, certificate.arithmetic, f"{certificate.radius.sum():.6g}"],
        "samples": hashlib.sha256(repr(list(samples)).encode()).hexdigest(),
        "stages": [repr(stage) for stage in (*budget.stages, *budget.again)],
        "seed": seed,
        "versions": [__version__, torch.__version__],
    }


def _journal(workplace: Workplace, identity: dict[str, Any], images: ImageSet) -> Journal:
    example = images.inputs(torch.tensor([0]))[0].numpy()
    directory = workplace.partial if workplace.team.leads else None
    journal = Journal(directory, identity, shape=example.shape, dtype=np.dtype(example.dtype))
    if journal.set_aside:
        workplace.announce(
            f"set aside an unfinished audit of other {', '.join(journal.set_aside)}: it is in {journal.directory}.old"
        )
    if journal.records:
        workplace.announce(f"going on with an unfinished audit; chunks that are known: {len(journal.records):,}")
    return journal


def _result(
    network: nn.Module,
    ledger: Ledger,
    *,
    epsilons: tuple[float, ...],
    subject: Subject,
    workplace: Workplace,
) -> AuditResult:
    certificate, team = ledger.certificate, workplace.team
    with torch.no_grad():
        classes = network(ledger.images.inputs(torch.tensor([0])).to(team.device)).shape[-1]
    return AuditResult(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=subject.command,
        model_name=subject.model_name,
        model_sha256=subject.model_sha256,
        model_parameters=sum(parameter.numel() for parameter in network.parameters()),
        data_name=subject.data_name,
        data_split=subject.data_split,
        data_sha256=ledger.images.sha256,
        class_names=subject.class_names or tuple(map(str, range(classes))),
        environment=environment(team.device, processes=team.size),
        lipschitz_upper_bound=certificate.lipschitz_upper_bound,
        layers=certificate.layers,
        norm=certificate.norm,
        rule=certificate.rule,
        arithmetic=certificate.arithmetic,
        grid=certificate.grid,
        assumptions=certificate.assumptions,
        epsilons=epsilons,
        rows=tuple(ledger.rows),
        attacks=ledger.attack_rows(),
        gallery=ledger.gallery(),
        warnings=checks_after(ledger, classes=classes),
        boundary=frozenset(ledger.boundary),
    )


def _left_out(rounds: Rounds) -> tuple[str, ...]:
    return tuple(f"{name} was left out, as it could not be run: {reason}." for name, reason in rounds.left_out.items())


_END_WARNINGS: dict[End, tuple[str, ...]] = {
    "interrupted": ("The audit was interrupted: it holds what was known until then.",),
    "unwritable": ("The audit was stopped by a file system that took no more: it holds what was known until then.",),
}


def _named(subject: Subject, network: nn.Module) -> Subject:
    return subject if subject.model_sha256 else replace(subject, model_sha256=tensors_sha256(network))
