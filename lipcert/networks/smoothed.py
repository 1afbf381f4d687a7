"""The derandomized smoothed classifier: a network votes on every ablated view of an image."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lipcert.certificates import (
    Ablation,
    Certificate,
    Encoding,
    encoded_channels,
    encoded_views,
    hard_votes,
    patch_certificate,
    threshold_votes,
    vote_counts,
)
from lipcert.certificates.ablations import Size
from lipcert.certificates.early import affected_sets, decide
from lipcert.certificates.votes import checked_threshold
from lipcert.errors import InputError
from lipcert.networks.crops import CropNetwork, crop_view_logits, cut
from lipcert.networks.token_views import TokenPlan, plan_tokens, retained_tokens, token_view_logits
from lipcert.networks.vit import VisionTransformer

CLOSE = 2.0**-14  # of the largest logit; the same view in another batch differs by about a hundredth of that in float32
A_THREAD, ON_ACCELERATOR = 2**20, 2**24  # numbers in a batch of views
CHECKS = 4  # how often it is asked whether the votes so far are enough


class PatchVerdict(NamedTuple):
    """What a vote says of a patch size.

    Attributes:
        prediction: ``(N,)`` int64.
        certified: ``(N,)`` bool, whether no patch of that size changes the prediction.
        views: ``(N,)`` int64, how many views had to vote.
    """

    prediction: Tensor
    certified: Tensor
    views: Tensor


class SmoothedNetwork(nn.Module):
    r"""A classifier that elects the class for which most views of an image vote.

    .. math:: f_k(x) = \sum_v [k \in \mathrm{votes}(h(x \odot m_v))]

    The outputs are the votes themselves: whole numbers, of which :func:`torch.argmax` takes the first of several
    largest ones, which is the rule that certificates count with. They have no gradient; :meth:`view_logits` has one.

    **Views in batches.** Views of many images are passed together, with bounded memory. A
    :class:`~lipcert.networks.VisionTransformer` is given the tokens that a view retains and no others, and embeds those
    wholly inside of several views once for all of them. A :class:`~lipcert.networks.CropNetwork` is given the retained
    window and its place, and no encoding.

    **Votes are functions of their view.** In another batch the logits of a view are rounded otherwise, and a
    certificate must not hang on that. A view whose two largest logits, or whose probability and the threshold, are
    closer than 2^-14 of its largest logit is passed once more, alone; all others are taken to be rounded by less than
    that. In half precision they are not, so half precision is refused. Train with it if you like.

    Args:
        network: h, from encoded views ``(M, C', H, W)`` to logits ``(M, K)``.
        ablation: which pixels the views retain.
        num_classes: K.
        encoding: of what they do not retain, see :func:`~lipcert.certificates.encoded_views`.
        null: value of a pixel that is not retained; of no account when doubled.
        threshold: a view votes for every class with at least this probability; None: for its most likely class.
        elements_at_once: numbers in a batch of views; bounds the memory, changes nothing else. If None, 2^20 for
            each thread of a processor, or 2^24 on an accelerator.

    Raises:
        InputError: a setting is out of range; later, images smaller than what is retained, inputs in half precision, a
            network for other views, or weights that were trained on other views.

    Source: Levine and Feizi (2020), arXiv 2002.10733.

    Example:
        >>> from lipcert.certificates import ColumnAblation
        >>> base = nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 8, 3))
        >>> network = SmoothedNetwork(base, ColumnAblation(3), num_classes=3).eval()
        >>> inputs = torch.rand(2, 1, 8, 8)
        >>> network(inputs).sum(1).tolist(), network.votes(inputs).shape
        ([8.0, 8.0], torch.Size([2, 8]))
        >>> network.certify(inputs, 2).certified.shape
        torch.Size([2])
    """

    def __init__(
        self,
        network: nn.Module,
        ablation: Ablation,
        *,
        num_classes: int = 10,
        encoding: Encoding = "doubled",
        null: float = 0.0,
        threshold: float | None = None,
        elements_at_once: int | None = None,
    ) -> None:
        super().__init__()
        encoded_channels(1, encoding)
        if num_classes < 2:
            raise InputError(f"expected at least 2 classes, got {num_classes}")
        if elements_at_once is not None and elements_at_once < 1:
            raise InputError(f"expected elements_at_once >= 1, got {elements_at_once}")
        self.network = network
        self.ablation = ablation
        self.num_classes = num_classes
        self.encoding: Encoding = encoding
        self.null = null
        self.threshold = None if threshold is None else checked_threshold(threshold)
        self.elements_at_once = elements_at_once
        self._cache: dict[Any, Any] = {}
        self.register_load_state_dict_pre_hook(_accept_plain_weights)  # type: ignore[no-untyped-call]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return how many views vote for each class, ``(N, K)``, of the inputs' type."""
        return vote_counts(self.votes(inputs), num_classes=self.num_classes).to(inputs.dtype)

    @torch.no_grad()
    def votes(self, inputs: Tensor) -> Tensor:
        """Return the votes of all views of images ``(N, C, H, W)``.

        Returns:
            ``(N, V)`` int64, the class of each view; with a threshold ``(N, V, K)`` bool.

        Raises:
            InputError: see the class.
        """
        views = torch.arange(len(self._masks(inputs)), device=inputs.device)
        return self._votes(inputs, views)

    def count_views(self, inputs: Tensor) -> int:
        """Return V, how many views of such images ``(N, C, H, W)`` vote."""
        return len(self._masks(inputs))

    def view_logits(self, inputs: Tensor) -> Tensor:
        """Return the logits of all views, ``(N, V, K)``; gradients flow through them to the inputs."""
        views = torch.arange(len(self._masks(inputs)), device=inputs.device)
        return self._logits(inputs, views)

    def one_view_logits(self, inputs: Tensor, views: Tensor) -> Tensor:
        """Return the logits of one view of each image, which is what is trained.

        Args:
            inputs: ``(N, C, H, W)`` in [0, 1], of any floating type.
            views: ``(N,)`` int64.

        Returns:
            ``(N, K)``.
        """
        if isinstance(self.network, CropNetwork):
            windows = self._windows(inputs)[views]
            return self.network(cut(inputs, windows[:, None]).squeeze(1), windows[:, :2])  # type: ignore[no-any-return]
        masks = self._masks(inputs)[views]
        shown = encoded_views(inputs, masks[:, None], encoding=self.encoding, null=self.null).squeeze(1)
        if isinstance(self.network, VisionTransformer):
            return self.network(shown, retained_tokens(masks, self.network.patch_size))  # type: ignore[no-any-return]
        return self.network(shown)  # type: ignore[no-any-return]

    @torch.no_grad()
    def certify(self, inputs: Tensor, patch: Size) -> PatchVerdict:
        """Return classes and whether a patch of a size can change them, from no more votes than are needed.

        Both are what all views would give, see :func:`~lipcert.certificates.early.decide`.

        Args:
            inputs: ``(N, C, H, W)`` in [0, 1].
            patch: its height and width.

        Raises:
            InputError: see the class; or a patch larger than the images.
        """
        affected = affected_sets(self.ablation, (inputs.shape[2], inputs.shape[3]), patch).to(inputs.device)
        rounds = _rounds(affected)
        prediction = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
        certified, used = torch.zeros_like(prediction, dtype=torch.bool), torch.zeros_like(prediction)
        open_, views, votes = torch.arange(len(inputs), device=inputs.device), rounds[0][:0], None
        for more in rounds:
            new = self._votes(inputs[open_], more)
            votes = new if votes is None else torch.cat([votes, new], dim=1)
            views = torch.cat([views, more])
            prediction[open_], certified[open_], final = decide(votes, views, affected, num_classes=self.num_classes)
            used[open_] = len(views)
            open_, votes = open_[~final], votes[~final]
            if len(open_) == 0:
                break
        return PatchVerdict(prediction, certified, used)

    def certificate(self, inputs: Tensor) -> Certificate:
        """Return classes and the sides of the largest square patches that cannot change them."""
        size = (inputs.shape[2], inputs.shape[3])
        arithmetic = str(inputs.dtype).removeprefix("torch.")
        return patch_certificate(
            self.votes(inputs), self.ablation, size, num_classes=self.num_classes, arithmetic=arithmetic
        )

    def _votes(self, inputs: Tensor, views: Tensor) -> Tensor:
        """Return the votes of some views ``(S,)`` of all images."""
        check_precision(self.network, inputs)
        images_at_once = max(1, self._at_once(inputs) // (len(views) * self.num_classes))
        return torch.cat([self._vote(part, views) for part in inputs.split(images_at_once)])

    def _vote(self, inputs: Tensor, views: Tensor) -> Tensor:
        logits = self._logits(inputs, views)
        for image, view in close_calls(logits, self.threshold).nonzero().tolist():
            logits[image, view] = self._logits(inputs[image : image + 1], views[view : view + 1])[0, 0]
        return hard_votes(logits) if self.threshold is None else threshold_votes(logits, self.threshold)

    def _logits(self, inputs: Tensor, views: Tensor) -> Tensor:
        """Return the logits of some views ``(S,)`` of all images, ``(N, S, K)``."""
        masks = self._masks(inputs)
        if isinstance(self.network, VisionTransformer):
            logits = token_view_logits(
                self.network,
                inputs,
                self._plan(masks, views),
                encoding=self.encoding,
                null=self.null,
                elements_at_once=self._at_once(inputs),
            )
        elif isinstance(self.network, CropNetwork):
            windows, at_once = self._windows(inputs)[views], self._at_once(inputs)
            logits = crop_view_logits(self.network, inputs, windows, elements_at_once=at_once)
        else:
            logits = self._dense_logits(inputs, masks[views])
        if logits.shape[-1] != self.num_classes:
            raise InputError(f"expected logits for {self.num_classes} classes, got {logits.shape[-1]}")
        return logits

    def _dense_logits(self, inputs: Tensor, masks: Tensor) -> Tensor:
        """Return the logits of whole encoded views, many at once."""
        numbers = encoded_channels(inputs.shape[1], self.encoding) * inputs[0, 0].numel() if len(inputs) else 1
        at_once = max(1, self._at_once(inputs) // numbers)
        rows = []
        for images in inputs.split(max(1, at_once // len(masks))):
            parts = [
                self.network(encoded_views(images, some, encoding=self.encoding, null=self.null).flatten(0, 1))
                for some in masks.split(at_once)
            ]
            rows.append(torch.cat([part.view(len(images), -1, part.shape[-1]) for part in parts], dim=1))
        return torch.cat(rows)

    def _at_once(self, inputs: Tensor) -> int:
        return self.elements_at_once or numbers_at_once(inputs)

    def _masks(self, inputs: Tensor) -> Tensor:
        """Return what the views of such images retain, ``(V, H, W)`` bool."""
        if inputs.ndim != 4:
            raise InputError(f"expected inputs (N, C, H, W), got shape {tuple(inputs.shape)}")
        key = (*inputs.shape[2:], inputs.device)
        if key not in self._cache:
            self._cache[key] = self.ablation.masks(*inputs.shape[2:]).to(inputs.device)
        masks: Tensor = self._cache[key]
        return masks

    def _windows(self, inputs: Tensor) -> Tensor:
        """Return the windows of the views of such images, ``(V, 4)``."""
        key = ("windows", *inputs.shape[2:], inputs.device)
        if key not in self._cache:
            self._cache[key] = self.ablation.windows(*inputs.shape[2:]).to(inputs.device)
        windows: Tensor = self._cache[key]
        return windows

    def _plan(self, masks: Tensor, views: Tensor) -> TokenPlan:
        assert isinstance(self.network, VisionTransformer)
        if len(views) == 1:
            return plan_tokens(masks[views], self.network.patch_size)
        key = (masks.shape, masks.device, tuple(views.tolist()))
        if key not in self._cache:
            self._cache[key] = plan_tokens(masks[views], self.network.patch_size)
        plan: TokenPlan = self._cache[key]
        return plan

    def get_extra_state(self) -> Tensor:
        """Return what the weights are for: the kind of views, as text in bytes."""
        return torch.tensor(list(self._views().encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Refuse weights that were trained on other views."""
        trained_on = bytes(state.tolist()).decode(errors="replace")
        if trained_on != self._views():
            raise InputError(f"expected weights for {self._views()}, got weights for {trained_on}")

    def _views(self) -> str:
        null = "" if self.encoding == "doubled" else f" on {self.null:g}"
        shown = "cropped" if isinstance(self.network, CropNetwork) else f"{self.encoding}{null}"
        return f"views of {type(self.ablation).__name__} {_shown(self.ablation.size)}, {shown}"

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"{self.ablation!r}, encoding={self.encoding!r}, threshold={self.threshold}"


def numbers_at_once(inputs: Tensor) -> int:
    """Return how many numbers a batch of views best has where some inputs are."""
    return A_THREAD * torch.get_num_threads() if inputs.device.type == "cpu" else ON_ACCELERATOR


def close_calls(logits: Tensor, threshold: float | None = None) -> Tensor:
    """Return which views ``(N, V)`` might vote otherwise if their logits ``(N, V, K)`` were rounded otherwise."""
    if threshold is None:
        first, second = logits.topk(2).values.unbind(-1)
        distance = first - second
    else:
        distance = (logits.softmax(-1) - threshold).abs().amin(-1)
    return distance <= CLOSE * logits.abs().amax(-1)


def check_precision(network: nn.Module, inputs: Tensor) -> None:
    """Refuse votes in a precision whose rounding could carry a view to another class.

    Raises:
        InputError: half precision, of inputs or weights, or autocast.
    """
    types = {inputs.dtype, *(parameter.dtype for parameter in network.parameters())}
    if torch.is_autocast_enabled(inputs.device.type) or not types <= {torch.float32, torch.float64}:
        named = ", ".join(sorted(str(each).removeprefix("torch.") for each in types))
        raise InputError(f"expected votes in float32 or float64, without autocast, got {named}")


def _shown(size: Size) -> str:
    return str(size) if isinstance(size, int) else " x ".join(map(str, size))


def _rounds(affected: Tensor) -> list[Tensor]:
    """Return the views in the order in which they are asked, spread evenly each time.

    An image whose views all agree is certified once those outside of a patch are half of all views: not before that
    is it worth asking whether the votes are enough.
    """
    count, largest = affected.shape[1], int(affected.sum(1).max())
    first = min(count, -(-(count * count) // (2 * max(1, count - largest))) if largest < count else count)
    order = torch.arange(count, device=affected.device)
    chosen = torch.zeros(count, dtype=torch.bool, device=affected.device)
    chosen[order[:first] * count // first] = True
    rest = order[~chosen]
    return [order[chosen], *(part for part in (rest[start::CHECKS] for start in range(CHECKS)) if len(part))]


def _accept_plain_weights(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a network that was trained on whole images be started from: its tensors are those of the base network."""
    assert isinstance(module, SmoothedNetwork)
    own = module.network.state_dict()
    if prefix or set(state) != set(own) or not own:
        return
    for name in list(state):
        state[f"network.{name}"] = state.pop(name)
    state["_extra_state"] = module.get_extra_state()
