"""Attacks the certificates of a network and keeps what was found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
import torch.nn as nn
from torch import Tensor
from tqdm import tqdm

from lipcert.attacks import Attack, CarliniWagner
from lipcert.attacks.task import check_batch
from lipcert.certificates import Certificate, certify
from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.harness.caveats import caveats
from lipcert.harness.environment import environment
from lipcert.harness.ledger import Ledger
from lipcert.harness.result import AuditResult
from lipcert.harness.selection import checked_positions, first_correct_of_each_class
from lipcert.metrics import check_epsilons

EPSILONS = (0.1, 0.25, 0.5, 1.0, 1.58)
CHUNK = 32  # samples attacked at a time: what Ctrl-C can lose


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


def run_audit(
    network: nn.Module,
    images: ImageSet,
    *,
    samples: Tensor | None = None,
    attacks: Sequence[Attack] = (CarliniWagner(),),
    epsilons: Sequence[float] = EPSILONS,
    certifier: Callable[[nn.Module, Tensor], Certificate] = certify,
    subject: Subject | None = None,
) -> AuditResult:
    """Certify all images, attack some of them, and compare.

    A certificate protects the predicted class, right or wrong, so that is the class an attack tries to leave. The
    verdict is ``"fail"`` as soon as one verified adversarial example, or a clean image that the deployed network
    classifies otherwise, lies strictly within its certified radius; ``"pass"`` proves nothing beyond that.

    Args:
        network: plain network in eval mode; it is left as it is.
        images: what to certify.
        samples: ``(M,)`` int64 positions of the images to attack; by default the first correctly classified image of
            each class.
        attacks: run one after the other; the nearest adversarial example of all of them counts.
        epsilons: L2 budgets at which the report gives accuracies, in [0,1] pixel units.
        certifier: returns the certificates under attack.
        subject: names for the report.

    Returns:
        Everything that was measured.

    Raises:
        InputError: unusable images, labels, samples, budgets or certificates, a network in training mode, or one that
            is never right although no samples were given.
        AuditInterrupted: Ctrl-C during the attacks; carries what was known until then.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
        >>> _ = network[1].weight.data.copy_(torch.eye(2)), network[1].bias.data.zero_()
        >>> pixels = torch.tensor([[200, 100], [50, 250]], dtype=torch.uint8).view(2, 1, 1, 2)
        >>> result = run_audit(network, ImageSet(pixels, torch.tensor([0, 1])))
        >>> result.verdict, [row.ratio >= 1 for row in result.rows]
        ('pass', [True, True])
    """
    budgets = checked_epsilons(epsilons)
    inputs = images.inputs()
    check_batch(network, inputs, images.labels)
    if samples is not None:
        checked_positions(samples, len(images))
    certificate = _checked(certifier(network, inputs), len(images))
    ledger = Ledger(images, certificate)
    ledger.check_predictions(network, inputs)
    if samples is None:
        samples = first_correct_of_each_class(images.labels, certificate.prediction)
        if len(samples) == 0:
            raise InputError("expected at least one correctly classified image, got none; say which samples to attack")
    interrupted = False
    try:
        _run_attacks(network, inputs, samples, attacks=attacks, ledger=ledger)
    except KeyboardInterrupt:
        interrupted = True
    result = _result(network, inputs, ledger, budgets=budgets, subject=subject or Subject(), interrupted=interrupted)
    if interrupted:
        raise AuditInterrupted(result)
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


def _checked(certificate: Certificate, samples: int) -> Certificate:
    """Return a certificate whose radii can be compared: a radius that is nan would never be refuted."""
    if certificate.prediction.shape != (samples,) or certificate.radius.shape != (samples,):
        found = f"{tuple(certificate.prediction.shape)} and {tuple(certificate.radius.shape)}"
        raise InputError(f"expected predictions and radii of shape ({samples},), got {found}")
    if not bool((certificate.radius >= 0).all()):
        raise InputError(f"expected radii >= 0, got {certificate.radius[~(certificate.radius >= 0)][0].item()}")
    return certificate


def _run_attacks(
    network: nn.Module, inputs: Tensor, samples: Tensor, *, attacks: Sequence[Attack], ledger: Ledger
) -> None:
    budgets = [attack.forward_budget(len(samples)) for attack in attacks]
    total = sum(budget or 0 for budget in budgets) if None not in budgets else None
    protected = ledger.certificate.prediction
    with tqdm(total=total, unit="pass", unit_scale=True, disable=None, leave=False) as bar:
        for attack in attacks:
            bar.set_description(attack.name)
            for chunk in torch.split(samples, CHUNK):
                outcome = attack(network, inputs[chunk], protected[chunk], on_forward=bar.update)
                ledger.enter(attack, chunk, outcome)


def _result(
    network: nn.Module,
    inputs: Tensor,
    ledger: Ledger,
    *,
    budgets: tuple[float, ...],
    subject: Subject,
    interrupted: bool,
) -> AuditResult:
    certificate, attacks = ledger.certificate, ledger.attack_rows()
    with torch.no_grad():
        classes = network(inputs[:1]).shape[-1]
    warnings = caveats(ledger.rows, attacks, classes=classes, boundary=ledger.boundary)
    if interrupted:
        warnings = ("The audit was interrupted: it holds what was known until then.", *warnings)
    return AuditResult(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=subject.command,
        model_name=subject.model_name,
        model_sha256=subject.model_sha256 or _tensors_sha256(network),
        model_parameters=sum(parameter.numel() for parameter in network.parameters()),
        data_name=subject.data_name,
        data_split=subject.data_split,
        data_sha256=ledger.images.sha256,
        class_names=subject.class_names or tuple(map(str, range(classes))),
        environment=environment(inputs.device),
        lipschitz_upper_bound=certificate.lipschitz_upper_bound,
        layers=certificate.layers,
        norm=certificate.norm,
        rule=certificate.rule,
        arithmetic=certificate.arithmetic,
        assumptions=certificate.assumptions,
        epsilons=budgets,
        rows=tuple(ledger.rows),
        attacks=attacks,
        gallery=ledger.gallery(),
        warnings=warnings,
    )


def _tensors_sha256(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
