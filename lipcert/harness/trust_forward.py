"""Is a network's forward pass a plain function that returns logits? One check for each way in which it may not be."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.overrides import TorchFunctionMode

PASSES = 5
BATCH = 500

SAME_PASS = 1e-5
SAME_BATCH = 1e-4
"""Largest difference of two logits that is put down to rounding, as a share of the largest logit."""

SUMS_TO_ONE = 1e-4


def training_mode(network: nn.Module) -> str | None:
    """Return a warning if a module is in training mode.

    Example:
        >>> training_mode(nn.Sequential(nn.Dropout()).eval()) is None
        True
        >>> training_mode(nn.Sequential(nn.Dropout()))[:42]
        'Training mode: Sequential and 1 more modul'
    """
    names = [name or type(module).__name__ for name, module in network.named_modules() if module.training]
    if not names:
        return None
    more = f" and {len(names) - 1:,} more modules" if len(names) > 1 else ""
    return (
        f"Training mode: {names[0]}{more} compute with batch statistics, dropout or moving weights; audit the network "
        "in eval mode."
    )


def not_finite(network: nn.Module, inputs: Tensor) -> str | None:
    """Return a warning if logits are nan or infinite: at the inputs, near them, or at the ends of the box.

    A comparison with nan is false, so a class that is nan is neither kept nor left.

    Args:
        network: in eval mode; it is left as it is.
        inputs: ``(N, C, H, W)`` in [0, 1].

    Example:
        >>> class Log(nn.Module):
        ...     def forward(self, inputs):
        ...         return inputs.flatten(1).log()
        >>> not_finite(Log().eval(), torch.full((2, 1, 1, 2), 0.5))[:67]
        'Logits that are not finite: at none of 2 inputs, at 1 of 4 other im'
    """
    network = copy.deepcopy(network)
    broken = len(inputs) - int(finite_logits(network, inputs).sum())
    others = _elsewhere(inputs)
    elsewhere = len(others) - int(finite_logits(network, others).sum())
    if not broken and not elsewhere:
        return None
    return (
        f"Logits that are not finite: at {broken or 'none'} of {len(inputs):,} inputs, at {elsewhere or 'none'} of "
        f"{len(others):,} other images (noise around the inputs, black and white). Where a logit is nan or infinite no "
        "class can be certified or attacked: find the overflow or the division by zero."
    )


def finite_logits(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return which inputs ``(N,)`` have logits that are all finite."""
    with torch.no_grad():
        return torch.cat([network(chunk).isfinite().flatten(1).all(1) for chunk in inputs.split(BATCH)])


def _elsewhere(inputs: Tensor) -> Tensor:
    few = inputs[:16]
    noise = torch.rand(few.shape, generator=torch.Generator().manual_seed(0)).to(few)
    return torch.cat([(few + 0.2 * noise - 0.1).clamp(0, 1), torch.zeros_like(few[:1]), torch.ones_like(few[:1])])


def randomised(network: nn.Module, inputs: Tensor) -> str | None:
    """Return a warning if passes over the same inputs give different logits.

    The same batch in the same shape is computed in the same order, so even rounding agrees on most devices.

    Args:
        network: in eval mode; it is left as it is, and so are torch's random numbers.
        inputs: ``(N, C, H, W)`` in [0, 1].

    Source: after Croce et al. (2021), arXiv 2010.09670, section 3: RobustBench wants a deterministic forward pass.

    Example:
        >>> inputs = torch.rand(8, 1, 2, 2)
        >>> randomised(nn.Flatten().eval(), inputs) is None
        True
        >>> randomised(nn.Sequential(nn.Flatten(), nn.Dropout().train()), inputs)[:42]
        'Randomised: 5 passes over the same 8 input'
    """
    network = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        logits = [network(inputs) for _ in range(PASSES)]
    largest = max(_relative_difference(other, logits[0]) for other in logits[1:])
    if largest <= SAME_PASS:
        return None
    changed = torch.stack([other.argmax(1) != logits[0].argmax(1) for other in logits]).any(0)
    return (
        f"Randomised: {PASSES} passes over the same {len(inputs):,} inputs give logits that differ by up to "
        f"{largest:.1%} of the largest, and {int(changed.sum()):,} change their class. No certificate holds for a "
        "class that is drawn, and an attack has to average over the draws: make eval mode deterministic."
    )


def _relative_difference(logits: Tensor, others: Tensor) -> float:
    """Return the largest difference over the largest logit; what is not finite in both is the same."""
    first, second = (item.double().nan_to_num(0.0, 0.0, 0.0) for item in (logits, others))
    scale = float(first.abs().max())
    return float((first - second).abs().max()) / scale if scale > 0 else float((second != 0).any())


def dynamic(network: nn.Module, inputs: Tensor) -> str | None:
    """Return a warning if the forward pass optimises: it computes gradients, or changes the network's own tensors.

    The pass runs without gradients, so whoever wants some has to switch them on; every call that does is seen, however
    it was imported. The first pass may still tidy up what a layer keeps for eval mode.

    Args:
        network: in eval mode; it is left as it is.
        inputs: ``(N, C, H, W)`` in [0, 1].

    Source: after Croce et al. (2022), arXiv 2202.13711: defences that optimise at test time.

    Example:
        >>> class Purify(nn.Module):
        ...     def forward(self, inputs):
        ...         with torch.enable_grad():
        ...             leaf = inputs.clone().requires_grad_()
        ...             (slope,) = torch.autograd.grad(leaf.square().sum(), leaf)
        ...         return (inputs - slope).flatten(1)
        >>> dynamic(Purify().eval(), torch.rand(2, 1, 2, 2))[:51]
        'Dynamic: one forward pass switches gradients on and'
    """
    network = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network(inputs)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        with _Watch() as watch:
            network(inputs)
    after = network.state_dict()
    moved = [name for name, tensor in before.items() if not _same(tensor, after.get(name))]
    said = []
    if watch.switched:
        said.append(f"switches gradients on and computes {watch.computed or 'no'} gradients")
    if moved:
        said.append(f"changes {len(moved):,} of its own tensors ({moved[0]})")
    if not said:
        return None
    return (
        f"Dynamic: one forward pass {' and '.join(said)}. Attacks follow the gradient of one fixed function and may "
        "fail for that reason alone: audit the network without its test-time optimisation too, or with an attack made "
        "for it."
    )


def _same(before: Tensor, after: Tensor | None) -> bool:
    return after is not None and before.shape == after.shape and torch.equal(before.nan_to_num(), after.nan_to_num())


class _Watch(TorchFunctionMode):
    """Sees gradients being switched on and computed.

    Attributes:
        switched: whether they were switched on.
        computed: how often they were computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.switched = False
        self.computed = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        self.switched |= name == "_set_grad_enabled" and args == (True,)
        self.computed += func in (torch.autograd.grad, torch.autograd.backward, Tensor.backward)
        return func(*args, **(kwargs or {}))


def softmax_outputs(network: nn.Module, inputs: Tensor) -> str | None:
    """Return a warning if the outputs are probabilities instead of logits.

    Args:
        network: in eval mode; it is left as it is.
        inputs: ``(N, C, H, W)`` in [0, 1].

    Example:
        >>> softmax_outputs(nn.Sequential(nn.Flatten(), nn.Softmax(1)).eval(), torch.rand(8, 1, 2, 2))[:49]
        'Softmax outputs: all 8 outputs lie in [0, 1] and '
    """
    with torch.no_grad():
        outputs = copy.deepcopy(network)(inputs).double()
    sums = (outputs.sum(1) - 1).abs()
    if not bool(((outputs >= 0) & (outputs <= 1)).all() and (sums <= SUMS_TO_ONE).all()):
        return None
    return (
        f"Softmax outputs: all {len(inputs):,} outputs lie in [0, 1] and sum to 1 (the largest is "
        f"{float(outputs.max()):.6f}). A saturated softmax hides the slope that attacks follow: hand over the logits, "
        "without the last softmax."
    )


def batch_dependent(network: nn.Module, inputs: Tensor) -> str | None:
    """Return a warning if an input's logits depend on what else is in its batch, beyond rounding.

    Args:
        network: in eval mode; it is left as it is.
        inputs: ``(N, C, H, W)`` in [0, 1].

    Example:
        >>> class Centred(nn.Module):
        ...     def forward(self, inputs):
        ...         return (inputs - inputs.mean(0)).flatten(1)
        >>> batch_dependent(Centred().eval(), torch.rand(8, 1, 2, 2))[:41]
        'Batch dependence: the logits of an input '
    """
    network = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        together = network(inputs)
        alone = torch.cat([network(chunk) for chunk in inputs.split(1)])
        turned = network(inputs.flip(0)).flip(0)
    largest = max(_relative_difference(other, together) for other in (alone, turned))
    if largest <= SAME_BATCH:
        return None
    changed = (alone.argmax(1) != together.argmax(1)) | (turned.argmax(1) != together.argmax(1))
    return (
        f"Batch dependence: the logits of an input differ by up to {largest:.1%} of the largest with what else is in "
        f"its batch, and {int(changed.sum()):,} of {len(inputs):,} inputs change their class. A certificate is about "
        "one input: use statistics from training instead of the batch's."
    )
