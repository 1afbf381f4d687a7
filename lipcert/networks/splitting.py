"""The classifier that votes over all views that deterministic splitting noise makes of an 8-bit image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipcert.certificates import Certificate, SplittingNoise, hard_votes, l1_certificate, vote_counts
from lipcert.errors import InputError
from lipcert.networks.smoothed import check_precision, close_calls, numbers_at_once

VOTES_AT_ONCE = 2**22  # logits of all views of some images


class SplittingNetwork(nn.Module):
    r"""A classifier that elects the class for which most views of an 8-bit image vote, with certificates in L1.

    .. math:: f_k(x) = \sum_o [k = \arg\max h(v_o(x))]

    Views whose two largest logits are close vote alone, as in :class:`~lipcert.networks.SmoothedNetwork`, so that votes
    are functions of their view. The outputs are the votes themselves, of which :func:`torch.argmax` takes the first of
    several largest ones, which is the rule that certificates count with. They have no gradient; :meth:`view_logits` has
    one.

    Args:
        network: h, from views ``(M, C, H, W)`` in [0, 1] to logits ``(M, K)``; one whose outputs do not depend on what
            else is in a batch.
        levels: how many views there are, which is how wide the noise is in grey levels; see
            :class:`~lipcert.certificates.SplittingNoise`.
        seed: of the noise.
        num_classes: K.
        elements_at_once: numbers in a batch of views; bounds the memory, changes nothing else.

    Raises:
        InputError: a setting is out of range; later, inputs that are not 8-bit images, or another number of logits.

    Source: Levine and Feizi (2021), arXiv 2103.10834.

    Example:
        >>> network = SplittingNetwork(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), levels=20, num_classes=3).eval()
        >>> inputs = torch.randint(0, 256, (2, 1, 4, 4)) / 255
        >>> network(inputs).sum(1).tolist(), network.certificate(inputs).norm
        ([20.0, 20.0], 'l1')
    """

    threshold: float | None = None

    def __init__(
        self,
        network: nn.Module,
        levels: int,
        *,
        seed: int = 0,
        num_classes: int = 10,
        elements_at_once: int | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise InputError(f"expected at least 2 classes, got {num_classes}")
        if elements_at_once is not None and elements_at_once < 1:
            raise InputError(f"expected elements_at_once >= 1, got {elements_at_once}")
        self.network = network
        self.noise = SplittingNoise(levels, seed)
        self.num_classes = num_classes
        self.elements_at_once = elements_at_once

    def forward(self, inputs: Tensor) -> Tensor:
        """Return how many views vote for each class, ``(N, K)``, of the inputs' type."""
        return vote_counts(self.votes(inputs), num_classes=self.num_classes).to(inputs.dtype)

    @torch.no_grad()
    def votes(self, inputs: Tensor) -> Tensor:
        """Return the votes of all views of 8-bit images ``(N, C, H, W)``: ``(N, L)`` int64, the class of each."""
        check_precision(self.network, inputs)
        at_once = max(1, VOTES_AT_ONCE // (self.noise.levels * self.num_classes))
        return torch.cat([self._votes(part) for part in inputs.split(at_once)])

    def count_views(self, inputs: Tensor) -> int:
        """Return L, how many views vote."""
        return self.noise.levels

    def view_logits(self, inputs: Tensor) -> Tensor:
        """Return the logits of all views, ``(N, L, K)``; to gradients a view is as bright as its image."""
        offsets = torch.arange(self.noise.levels, device=inputs.device)
        at_once = self.elements_at_once or numbers_at_once(inputs)
        parts = offsets.split(max(1, at_once // max(1, inputs[:1].numel())))
        images = inputs.split(max(1, at_once // (len(parts[0]) * max(1, inputs[:1].numel()))))
        logits = torch.cat([torch.cat([self._logits(some, part) for part in parts], 1) for some in images])
        if logits.shape[-1] != self.num_classes:
            raise InputError(f"expected logits for {self.num_classes} classes, got {logits.shape[-1]}")
        return logits

    def one_view_logits(self, inputs: Tensor, views: Tensor) -> Tensor:
        """Return the logits ``(N, K)`` of one view ``(N,)`` int64 of each image, which is what is trained."""
        return self.network(self.noise.views(inputs, views[:, None]).squeeze(1))  # type: ignore[no-any-return]

    def certificate(self, inputs: Tensor) -> Certificate:
        """Return classes and the L1 radii within which they stay, in pixel units."""
        arithmetic = str(inputs.dtype).removeprefix("torch.")
        return l1_certificate(self.votes(inputs), self.noise, num_classes=self.num_classes, arithmetic=arithmetic)

    def _votes(self, inputs: Tensor) -> Tensor:
        logits = self.view_logits(inputs)
        for image, view in close_calls(logits).nonzero().tolist():
            alone = torch.tensor([view], device=inputs.device)
            logits[image, view] = self._logits(inputs[image : image + 1], alone)[0, 0]
        return hard_votes(logits)

    def _logits(self, inputs: Tensor, offsets: Tensor) -> Tensor:
        views = self.noise.views(inputs.detach(), offsets)
        if inputs.requires_grad:  # on average over all splits a view follows its image
            views = views + (inputs - inputs.detach())[:, None]
        logits: Tensor = self.network(views.flatten(0, 1))
        return logits.view(len(inputs), len(offsets), -1)

    def extra_repr(self) -> str:
        """Return the settings."""
        return repr(self.noise)
