"""A compact vision transformer that pays only for the tokens it is shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.errors import InputError


class VisionTransformer(nn.Module):
    """Patches as tokens, learned positions, a class token, pre-norm blocks, and a head on the class token.

    A token that is not kept does not exist: its pixels are never read, and no token attends to it. Images that keep
    equally many tokens are passed together, so that none is padded. In the last block only the class token asks, since
    nothing else is read.

    Args:
        input_shape: ``(C, H, W)``, sides multiples of the patch size.
        num_classes: K.
        patch_size: side of a patch, in pixels.
        width: features of a token, a multiple of ``heads``.
        depth: number of blocks.
        heads: of the attention.
        mlp_ratio: features of the hidden layer of a block, in units of ``width``.
        stochastic_depth: probability that a branch of a block is left out for a sample in training, which grows
            linearly up to this from block to block.

    Raises:
        InputError: sizes that do not fit.

    Source: Dosovitskiy et al. (2021), arXiv 2010.11929; tokens that are not kept: Salman et al. (2021), arXiv
    2110.07719, section 4; stochastic depth: Huang et al. (2016), arXiv 1603.09382.

    Example:
        >>> network = VisionTransformer((1, 8, 8), 3, width=16, depth=2, heads=2).eval()
        >>> inputs, keep = torch.rand(2, 1, 8, 8), torch.tensor([[True, True, False, False], [True, False, True, True]])
        >>> network(inputs).shape, network(inputs, keep).shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        input_shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        *,
        patch_size: int = 4,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        _check(input_shape, num_classes, patch_size, width, depth, heads, mlp_ratio, stochastic_depth)
        channels, height, image_width = input_shape
        self.input_shape = (channels, height, image_width)
        self.num_classes = num_classes
        self.patch_size = patch_size
        self.grid = (height // patch_size, image_width // patch_size)
        self.embedding = nn.Linear(channels * patch_size**2, width)
        self.positions = nn.Parameter(0.02 * torch.randn(self.grid[0] * self.grid[1], width))
        self.class_token = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(
            Block(width, heads, int(width * mlp_ratio), stochastic_depth * (number + 1) / depth)
            for number in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)

    def forward(self, inputs: Tensor, keep: Tensor | None = None, *, drop: bool = True) -> Tensor:
        """Return logits.

        Args:
            inputs: ``(N, C, H, W)``.
            keep: ``(N, T)`` bool, which tokens exist, row by row; all if None. An image may keep none.
            drop: leave out the tokens that are not kept; otherwise they are computed and not attended to, which costs
                a whole pass and gives the same, up to rounding.

        Returns:
            ``(N, K)``.

        Raises:
            InputError: images of another shape, or a selection that does not fit.
        """
        if inputs.ndim != 4 or inputs.shape[1:] != self.input_shape:
            expected = ", ".join(map(str, self.input_shape))
            raise InputError(f"expected images (N, {expected}) for this network, got {tuple(inputs.shape)}")
        patches = self.patches(inputs)
        every = torch.arange(patches.shape[1], device=inputs.device).expand(patches.shape[:2])
        if keep is None:
            return self.classify(self.embedding(patches), every)
        if keep.shape != patches.shape[:2] or keep.dtype != torch.bool:
            raise InputError(f"expected {tuple(patches.shape[:2])} bool tokens to keep, got {tuple(keep.shape)}")
        if not drop:
            return self.classify(self.embedding(patches), every, attended=keep)
        counts = keep.sum(1)
        order, logits = [], []
        for count in counts.unique().tolist():
            images = (counts == count).nonzero().flatten()
            places = keep[images].nonzero()[:, 1].view(len(images), count)
            order.append(images)
            logits.append(self.classify(self.embedding(patches[images[:, None], places]), places))
        if not order:
            return self.classify(self.embedding(patches), every)
        return torch.cat(logits)[torch.cat(order).argsort()]

    def patches(self, images: Tensor) -> Tensor:
        """Return the patches of images ``(N, C, H, W)`` as ``(N, T, C * patch_size ** 2)``, row by row."""
        (rows, columns), size = self.grid, self.patch_size
        split = images.reshape(len(images), -1, rows, size, columns, size)
        return split.permute(0, 2, 4, 1, 3, 5).reshape(len(images), rows * columns, -1)

    def classify(self, tokens: Tensor, places: Tensor, *, attended: Tensor | None = None) -> Tensor:
        """Return the logits of embedded tokens.

        Args:
            tokens: ``(M, t, width)``, any t >= 0.
            places: ``(M, t)`` int64, which token of the image each one is.
            attended: ``(M, t)`` bool, which of them exist; all if None.

        Returns:
            ``(M, K)``.
        """
        first = self.class_token.expand(len(tokens), 1, -1).to(tokens.dtype)
        hidden = torch.cat([first, tokens + self.positions[places].to(tokens.dtype)], dim=1)
        mask = None if attended is None else F.pad(attended, (1, 0), value=True)[:, None, None]
        for number, block in enumerate(self.blocks, start=1):
            hidden = block(hidden, mask, queries=1 if number == len(self.blocks) else hidden.shape[1])
        return self.head(self.norm(hidden[:, 0]))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and two linear layers, each behind a norm and beside the identity.

    Args:
        width: features of a token.
        heads: of the attention.
        hidden: features between the linear layers.
        skip: probability that a branch is left out for a sample in training.
    """

    def __init__(self, width: int, heads: int, hidden: int, skip: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.skip = skip
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.projection = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor, mask: Tensor | None, *, queries: int) -> Tensor:
        """Return the first ``queries`` of the tokens ``(M, t, width)``, having seen all of them."""
        normed = self.attention_norm(tokens)
        keys, values = self.key_value(normed).chunk(2, dim=-1)
        asking = self._by_head(self.query(normed[:, :queries]))
        seen = F.scaled_dot_product_attention(asking, self._by_head(keys), self._by_head(values), attn_mask=mask)
        tokens = tokens[:, :queries] + self._left_out(self.projection(seen.transpose(1, 2).flatten(2)))
        return tokens + self._left_out(self.mlp(tokens))

    def _by_head(self, features: Tensor) -> Tensor:
        count, tokens, width = features.shape
        return features.view(count, tokens, self.heads, width // self.heads).transpose(1, 2)

    def _left_out(self, branch: Tensor) -> Tensor:
        if not self.training or self.skip == 0:
            return branch
        return F.dropout1d(branch.flatten(1)[:, None].transpose(0, 1), self.skip)[0].view_as(branch)


def vit_small_images(
    input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, *, stochastic_depth: float = 0.0
) -> nn.Module:
    """Return a :class:`VisionTransformer` for 28 x 28 or 32 x 32 pixels: 4 x 4 patches, 2.7 million parameters.

    Args:
        input_shape: ``(C, H, W)``, sides multiples of 4.
        num_classes: K.
        stochastic_depth: see :class:`VisionTransformer`.

    Example:
        >>> vit_small_images((2, 28, 28))(torch.rand(1, 2, 28, 28)).shape
        torch.Size([1, 10])
    """
    return VisionTransformer(
        input_shape, num_classes, patch_size=4, width=192, depth=6, heads=3, stochastic_depth=stochastic_depth
    )


def vit_large_images(
    input_shape: Sequence[int] = (3, 224, 224), num_classes: int = 1000, *, stochastic_depth: float = 0.0
) -> nn.Module:
    """Return a :class:`VisionTransformer` for 224 x 224 pixels: 16 x 16 patches, the size that is known as ViT-S/16.

    Args:
        input_shape: ``(C, H, W)``, sides multiples of 16.
        num_classes: K.
        stochastic_depth: see :class:`VisionTransformer`.

    Example:
        >>> sum(parameter.numel() for parameter in vit_large_images().parameters())
        22050280
    """
    return VisionTransformer(
        input_shape, num_classes, patch_size=16, width=384, depth=12, heads=6, stochastic_depth=stochastic_depth
    )


def _check(
    input_shape: Sequence[int],
    num_classes: int,
    patch_size: int,
    width: int,
    depth: int,
    heads: int,
    mlp_ratio: float,
    stochastic_depth: float,
) -> None:
    if min(patch_size, width, depth, heads) < 1 or mlp_ratio <= 0:
        raise InputError("expected patch_size, width, depth, heads >= 1 and mlp_ratio > 0")
    if len(input_shape) != 3 or min(input_shape) < 1 or any(side % patch_size for side in input_shape[1:]):
        raise InputError(
            f"expected an input shape (C, H, W) with sides that are multiples of {patch_size}, got {tuple(input_shape)}"
        )
    if num_classes < 2:
        raise InputError(f"expected at least 2 classes, got {num_classes}")
    if width % heads:
        raise InputError(f"expected a width that is a multiple of {heads} heads, got {width}")
    if not 0 <= stochastic_depth < 1:
        raise InputError(f"expected stochastic_depth in [0, 1), got {stochastic_depth}")
