"""Training for the certificate of a vote: every image shows all of its views."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lipcert.certificates.ablations import Size
from lipcert.certificates.early import affected_sets
from lipcert.errors import InputError
from lipcert.losses import CertifiedVoteLoss
from lipcert.modules.classifier import Batch, at_least_single
from lipcert.modules.smoothing import DerandomizedSmoothing
from lipcert.networks import SmoothedNetwork


class CertifiedVote(DerandomizedSmoothing):
    r"""Trains a vote over ablated views for its certificate, best from weights that were trained on single views.

    :class:`DerandomizedSmoothing` asks every view for its best guess. What is certified is the lead that the views have
    together: a view that cannot tell should vote for nothing, and images far from a certificate are not worth one that
    is close. Here the loss is that of the lead against the worst patch; a step costs V passes an image, of which a few
    epochs are enough. What is validated, exported and certified is as there, and no less exact.

    Args:
        network: h and its views.
        loss: called with logits ``(N, V, K)`` of all views, classes ``(N,)`` and the sets of views ``(L, V)`` that a
            patch can touch; :class:`~lipcert.losses.CertifiedVoteLoss` with the network's threshold if None.
        patch: height and width, in pixels, against which is trained and validated.
        **options: see :class:`Classifier`.

    Raises:
        InputError: see :class:`DerandomizedSmoothing`; or splitting noise.
    """

    network: SmoothedNetwork

    def __init__(
        self, network: SmoothedNetwork, loss: nn.Module | None = None, *, patch: Size = 5, **options: Any
    ) -> None:
        if not isinstance(network, SmoothedNetwork):
            raise InputError(f"expected a SmoothedNetwork, got {type(network).__name__}")
        super().__init__(network, loss or CertifiedVoteLoss(network.threshold), patch=patch, **options)
        self._affected: dict[torch.Size, Tensor] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of all views of each image."""
        inputs, labels = batch
        count = self.network.count_views(inputs)
        views = torch.arange(count, device=inputs.device).repeat(len(inputs))
        logits = at_least_single(self.network.one_view_logits(inputs.repeat_interleave(count, 0), views))
        loss: Tensor = self.loss(logits.view(len(inputs), count, -1), labels, self._sets(inputs))
        meters = self.meters_of("train")
        meters["loss"].update(loss.detach(), len(labels))
        meters["view_accuracy"].update(logits.detach(), labels.repeat_interleave(count))
        return loss

    def _sets(self, inputs: Tensor) -> Tensor:
        size = inputs.shape[2:]
        if size not in self._affected:
            self._affected[size] = affected_sets(self.network.ablation, (size[0], size[1]), self.patch)
        return self._affected[size].to(inputs.device)
