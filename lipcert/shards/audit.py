"""An audit shard after shard: read, certified, attacked, written and forgotten; then one report of all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from lipcert._version import __version__
from lipcert.attacks import Attack
from lipcert.certificates import certify
from lipcert.certificates.norms import each_norm_once
from lipcert.data import ImageSet, ImageSource
from lipcert.data.image_set import sha256_of
from lipcert.deployment import tensors_sha256
from lipcert.errors import InputError
from lipcert.harness import Budget, Subject, Workplace, run_audit
from lipcert.harness.audit import NOTHING_RIGHT, AuditInterrupted
from lipcert.harness.certifying import Certifier
from lipcert.harness.environment import environment
from lipcert.harness.journal import PARTIAL, discard
from lipcert.harness.rounds import seed_of
from lipcert.shards.merge import Sharded, merged
from lipcert.shards.store import ShardStore

FOLDER = "samples"


class ShardsInterrupted(KeyboardInterrupt):
    """Ctrl-C between the attacks of a shard, of which nothing is kept; the shards that are whole are."""


def audit_in_shards(  # noqa: PLR0913 - what every audit takes, and the shards
    network: nn.Module,
    images: ImageSource,
    directory: Path,
    *,
    shard_size: int,
    samples: int | None = None,
    attacks: Sequence[Attack] | None = None,
    budget: str | float | Budget = "quick",
    epsilons: Sequence[float] | None = None,
    certifier: Certifier = certify,
    subject: Subject | None = None,
    seed: int = 0,
    workplace: Workplace | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Sharded:
    """Audit a split a shard at a time, so that memory does not grow with the number of samples.

    Each shard is audited as :func:`lipcert.harness.run_audit` audits a split, and its budget is that of a shard: one
    sample a class for ``"quick"``, and where a stage takes a share, the closest calls of the shard. A single shard
    gives the audit of the split. Rows go to ``samples/00000.parquet`` and so on in the folder, where a shard counts
    once it is whole: a killed audit goes on with the next one, or with the finished chunks of the one that was at work.

    Args:
        network: plain network in eval mode; it is left as it is.
        images: what to certify, read a shard at a time.
        directory: of the report; it is made if there is none.
        shard_size: samples a shard.
        samples: attack the first so many of all, wherever shards end; by default those that the budget says.
        attacks: as there, and so are the next ones.
        budget: not a number of seconds.
        epsilons: see there.
        certifier: see there.
        subject: see there.
        seed: see there.
        workplace: processes that share each shard; where unfinished work is kept is said by the folder.
        settings: what else tells this audit from others, as JSON values, such as settings of the certifier.

    Returns:
        What was measured; its numbers are exactly those of all rows at once.

    Raises:
        InputError: as there; a budget in seconds, a shard that was made of other images, or pyarrow is not installed.
            That no image is classified right is known at the end, and not before.
        AuditInterrupted: Ctrl-C during the attacks of a shard; those that are finished are kept.
        ShardsInterrupted: Ctrl-C at another time.
        AuditWriteError: unfinished work cannot be kept any more.
        OSError: a shard cannot be written.
    """
    check_shards(shard_size, budget)
    subject = subject or Subject()
    if not subject.model_sha256:
        subject = replace(subject, model_sha256=tensors_sha256(network))
    tried = {"attacks": attacks, "budget": budget, "epsilons": epsilons, "seed": seed}
    identity = {
        "network": [subject.model_name, subject.model_sha256],
        "data": [subject.data_name, subject.data_split, len(images)],
        "shard size": shard_size,
        "samples": samples,
        **{name: repr(value) for name, value in tried.items()},
        "settings": dict(settings or {}),
        "versions": [__version__, torch.__version__],
    }
    workplace = replace(workplace or Workplace(), partial=directory / PARTIAL)
    store = ShardStore(directory / FOLDER, identity)
    _open(store, workplace)
    options = {**tried, "certifier": certifier, "subject": subject}
    work = _Work(network, images, shard_size, samples, store, workplace, options)
    try:
        with each_norm_once():
            sha256 = work.done()
        found = merged(
            store,
            work.count,
            subject=subject,
            data_sha256=sha256,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            environment=environment(workplace.team.device, processes=workplace.team.size),
        )
    except AuditInterrupted:
        raise
    except KeyboardInterrupt:
        raise ShardsInterrupted from None
    if not found.numbers.attacked:
        raise InputError(NOTHING_RIGHT)
    return found


def check_shards(shard_size: int, budget: str | float | Budget) -> None:
    """Refuse what cannot be audited in shards.

    Raises:
        InputError: no samples a shard, or a budget in seconds: how would they be shared?
    """
    if shard_size < 1:
        raise InputError(f"expected at least 1 sample a shard, got {shard_size}")
    if isinstance(budget, float | int) or (isinstance(budget, Budget) and budget.seconds is not None):
        raise InputError("expected a budget by its name for an audit in shards, got a number of seconds")


def _open(store: ShardStore, workplace: Workplace) -> None:
    if workplace.team.leads:
        store.open()
        if store.set_aside:
            workplace.announce(
                f"set aside shards of other {', '.join(store.set_aside)}: they are in {store.directory}.old"
            )


class _Work:
    """Shards, done in order."""

    def __init__(
        self,
        network: nn.Module,
        images: ImageSource,
        shard_size: int,
        samples: int | None,
        store: ShardStore,
        workplace: Workplace,
        options: Mapping[str, Any],
    ) -> None:
        self.network, self.images, self.size, self.samples = network, images, shard_size, samples
        self.store, self.workplace, self.options = store, workplace, options
        self.count = math.ceil(len(images) / shard_size)
        self._shape: tuple[int, ...] | None = None

    def done(self) -> str:
        """Do every shard that is not there yet; return the checksum of the split."""
        team = self.workplace.team
        there = team.agreed([self.store.images_sha256(number) for number in range(self.count)])
        if any(there):
            self.workplace.announce(
                f"going on with an unfinished audit; shards that are known: {sum(map(bool, there)):,} of {self.count:,}"
            )
        shape = (len(self.images), *self._read(0).images.shape[1:])
        labels = (columns.label for columns in self.store.blocks(self.count)) if team.leads else ()
        return sha256_of(shape, map(self._shard, range(self.count), there), labels)

    def _shard(self, number: int, known: str | None) -> ImageSet:
        """Return the images of a shard that is there, or is now."""
        images = self._read(number)
        if known is None:
            self._audit(number, images)
        elif known != images.sha256:
            raise InputError(f"expected the images of shard {number} to be those that were audited, got others")
        return images

    def _read(self, number: int) -> ImageSet:
        begin = number * self.size
        images = self.images.block(begin, min(begin + self.size, len(self.images)))
        shape = tuple(images.images.shape[1:])
        if self._shape not in (None, shape):
            raise InputError(f"expected all images to be of shape {self._shape}, got {shape} from image {begin} on")
        self._shape = shape
        return images

    def _audit(self, number: int, images: ImageSet) -> None:
        begun = replace(self.workplace, first=number == 0, part=True)
        first = None if self.samples is None else torch.arange(len(images))[: max(0, self.samples - number * self.size)]
        seed = self.options["seed"]
        options = {**self.options, "seed": seed_of(seed, number) if number else seed}
        result = run_audit(self.network, images, samples=first, workplace=begun, **options)
        if self.workplace.team.leads:
            self.store.write(number, result, images.sha256, begin=number * self.size)
            discard(self.store.directory.with_name(PARTIAL))
