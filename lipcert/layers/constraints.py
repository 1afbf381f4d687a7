"""Parametrisations of matrices: from any matrix to one of spectral norm at most 1.

All but :class:`AlmostOrthogonal` return matrices with orthonormal rows, or columns if there are more rows, up to what
their docstrings say. They act on batches ``(..., m, n)`` and are meant for
``torch.nn.utils.parametrize.register_parametrization``. What a certificate uses is never these guarantees but a bound
recomputed from the weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipcert.errors import InputError
from lipcert.layers.polar import norm_squared_upper_bound

# Coefficients a, b, c of W (a I + b G + c G^2), G the Gram matrix.
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
)
_LARGEST_START = 2.0


class Constraint(nn.Module):
    """Maps a matrix to a constrained one; a matrix that meets the constraint is, up to rounding, its own preimage."""

    def forward(self, raw: Tensor) -> Tensor:
        """Return the constrained matrices ``(..., m, n)``."""
        if raw.shape[-2] >= raw.shape[-1]:
            return self.of_tall(raw)
        return self.of_tall(raw.mT).mT

    def of_tall(self, raw: Tensor) -> Tensor:
        """Return constrained matrices ``(..., m, n)``, m >= n."""
        raise NotImplementedError

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return a matrix that is mapped to ``weight``, where that meets the constraint."""
        return weight


class Bjorck(Constraint):
    r"""Nearest orthonormal matrix by Newton-Schulz steps, also called Björck orthonormalisation.

    .. math:: W_0 = X / s, \qquad W_{k+1} = W_k \left(\tfrac32 I - \tfrac12 W_k^\top W_k\right)

    with s = 1 where a proved bound of :math:`\|X\|_2^2` is at most 2, so that a matrix that is nearly orthonormal
    converges in a few steps; otherwise s divides the bound down to that. Singular values never exceed 1 after a step,
    and 12 steps take what is at least 0.03 after scaling to within 1e-5 of 1.

    Args:
        iterations: number of steps.

    Source: Björck & Bowie (1971), SIAM J. Numer. Anal. 8; Anil, Lucas & Grosse (2019), arXiv 1811.05381.

    Example:
        >>> Bjorck()(torch.diag(torch.tensor([0.5, 2.0]))).round(decimals=4).abs().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(self, iterations: int = 12) -> None:
        super().__init__()
        if iterations < 1:
            raise InputError(f"expected iterations >= 1, got {iterations}")
        self.iterations = iterations

    def of_tall(self, raw: Tensor) -> Tensor:
        """Return the nearest orthonormal matrices."""
        weight = raw / _start_scale(raw, _LARGEST_START)
        for _ in range(self.iterations):
            weight = _contracted(weight)
        return weight


class PolarExpress(Constraint):
    r"""Nearest orthonormal matrix by six polynomials of degree 5, then a Björck step.

    .. math:: W \leftarrow W (a_k I + b_k G + c_k G^2),\ G = W^\top W, \qquad W \leftarrow W (\tfrac32 I - \tfrac12 G)

    from a matrix divided by a proved bound of its norm. Singular values from 1e-3 of that bound come within 1e-5 of 1;
    the last step takes what the polynomials leave above 1 back below it.

    Source: Amsel, Persson, Musco & Gower (2025), arXiv 2505.16932.

    Example:
        >>> PolarExpress()(torch.diag(torch.tensor([0.01, 2.0]))).round(decimals=4).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    def of_tall(self, raw: Tensor) -> Tensor:
        """Return the nearest orthonormal matrices."""
        weight = raw / _start_scale(raw, 1.0)
        for first, second, third in _POLAR_EXPRESS:
            gram = weight.mT @ weight
            weight = first * weight + weight @ (second * gram + third * (gram @ gram))
        return _contracted(weight)


class Cholesky(Constraint):
    r"""Orthonormal columns by a Cholesky factor of the Gram matrix, then a Björck step.

    .. math:: L L^\top = X^\top X + \epsilon I, \qquad W = X L^{-\top}

    Singular values are :math:`\sigma / \sqrt{\sigma^2 + \epsilon} < 1`; with :math:`\epsilon` 1e-4 of the mean squared
    singular value, the Björck step leaves them within 1e-5 of 1 if no :math:`\sigma^2` is below a twentieth of the
    mean. A matrix of zeros gives numbers that are not finite.

    Source: Hu, Leino, Wang & Fredrikson (2023), arXiv 2310.02513; the Björck step is added here.

    Example:
        >>> Cholesky()(torch.diag(torch.tensor([1.0, 2.0]))).round(decimals=4).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    def of_tall(self, raw: Tensor) -> Tensor:
        """Return matrices with orthonormal columns."""
        gram = raw.mT @ raw
        shift = 1e-4 * gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        factor, _ = torch.linalg.cholesky_ex(gram + shift[..., None, None] * identity)
        weight = torch.linalg.solve_triangular(factor.mT, raw, upper=True, left=False)
        return _contracted(weight)


class Cayley(Constraint):
    r"""Orthonormal columns by the Cayley transform.

    .. math:: A = U - U^\top + V^\top V, \qquad
              W = \begin{pmatrix} (I - A)(I + A)^{-1} \\ -2 V (I + A)^{-1} \end{pmatrix}
              \text{ of } X = \begin{pmatrix} U \\ V \end{pmatrix}

    Exactly orthonormal for every X; square results have no eigenvalue -1. What is assigned to the weight becomes X,
    a start and not the result.

    Source: Trockman & Kolter (2021), arXiv 2104.07167.

    Example:
        >>> weight = Cayley()(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        >>> (weight.T @ weight).round(decimals=4).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    def of_tall(self, raw: Tensor) -> Tensor:
        """Return matrices with orthonormal columns."""
        order = raw.shape[-1]
        upper, lower = raw[..., :order, :], raw[..., order:, :]
        skew = upper - upper.mT + lower.mT @ lower
        identity = torch.eye(order, dtype=raw.dtype, device=raw.device)
        inverse = torch.linalg.inv_ex(identity + skew).inverse
        return torch.cat([2 * inverse - identity, -2 * lower @ inverse], dim=-2)


class BlockReflector(Constraint):
    r"""A fixed orthonormal matrix times a reflection of low rank that is learned.

    .. math:: W = \big(I - 2 V (V^\top V + \epsilon I)^{-1} V^\top\big) B

    on the larger side, with V of half as many columns as rows, or of as many as there are in B. The reflection is
    symmetric with eigenvalues in (-1, 1], hence :math:`\|W\|_2 \le \|B\|_2`; they are within 1e-5 of 1 or -1 if the
    squared singular values of V are at least a fifth of their mean. Assigning an orthonormal matrix sets B, so that the
    product is that matrix.

    Source: Lai, Huang, Kung & Chen (2025), arXiv 2505.15174; a fixed factor B in place of cropping.

    Example:
        >>> constraint = BlockReflector()
        >>> raw = constraint.right_inverse(torch.eye(2))
        >>> tuple(raw.shape), constraint(raw).round(decimals=4).abs().tolist()
        ((2, 1), [[1.0, 0.0], [0.0, 1.0]])
    """

    base: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("base", torch.empty(0))
        self.wide = False

    def forward(self, raw: Tensor) -> Tensor:
        """Return B reflected."""
        weight = self._reflected(raw, self.base)
        return weight.mT if self.wide else weight

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return V, and set B so that the result is ``weight``."""
        self.wide = weight.shape[-2] < weight.shape[-1]
        tall = weight.mT if self.wide else weight
        rank = max(1, min(tall.shape[-2] // 2, tall.shape[-1]))
        raw = tall[..., :rank].clone()
        self.base = self._reflected(raw, tall).detach().clone()
        return raw

    @staticmethod
    def _reflected(raw: Tensor, base: Tensor) -> Tensor:
        gram = raw.mT @ raw
        shift = 1e-6 * gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        factor, _ = torch.linalg.cholesky_ex(gram + shift[..., None, None] * identity)
        return base - 2 * raw @ torch.cholesky_solve(raw.mT @ base, factor)


class AlmostOrthogonal(Constraint):
    r"""Columns rescaled so that the norm is at most 1; orthogonality is left to training.

    .. math:: W = X D, \qquad D_{jj} = \Big(\sum_i |X^\top X|_{ij}\Big)^{-1/2}

    for tall matrices, rows for wide ones. By Gershgorin's theorem on :math:`D X^\top X D` the norm is at most 1, with
    equality for orthonormal columns.

    Source: Prach & Lampert (2022), arXiv 2208.03160, theorem 1.

    Example:
        >>> AlmostOrthogonal()(torch.tensor([[3.0, 0.0], [0.0, -2.0]])).tolist()
        [[1.0, 0.0], [0.0, -1.0]]
    """

    def of_tall(self, raw: Tensor) -> Tensor:
        """Return the rescaled matrices."""
        sums = (raw.mT @ raw).abs().sum(dim=-1)
        return raw * sums.clamp_min(torch.finfo(raw.dtype).tiny).rsqrt()[..., None, :]


ENGINES: dict[str, Callable[[], Constraint]] = {
    "bjorck": Bjorck,
    "polar_express": PolarExpress,
    "cholesky": Cholesky,
    "cayley": Cayley,
    "bro": BlockReflector,
    "aol": AlmostOrthogonal,
}
"""Parametrisations by the word that layers know them by."""


def _contracted(weight: Tensor) -> Tensor:
    """One Björck step: singular values up to 2 end at most at 1."""
    gram = weight.mT @ weight
    return 1.5 * weight - 0.5 * (weight @ gram)


def _start_scale(raw: Tensor, largest: float) -> Tensor:
    """What divides the matrix so that the bound of its squared norm is at most this."""
    ratio = norm_squared_upper_bound(raw.mT @ raw) / largest
    return ratio.clamp_min(1.0 if largest > 1 else torch.finfo(raw.dtype).tiny).sqrt()
