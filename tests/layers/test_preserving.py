"""Shifts, activations, heads and centring: values, gradients, and what they cost a certificate."""

import itertools
import multiprocessing
import sys

import pytest
import torch
import torch.nn.functional as F
from deel import torchlip
from reference import dense_matrix
from torch import nn

from lipcert.certificates import lipschitz_upper_bound, logit_errors
from lipcert.deployment import export
from lipcert.errors import InputError
from lipcert.layers import BatchCentering, HalfAbs, HouseHolder, MaxMin, MovedWindows, SpatialShift

ISOMETRIES = {
    "maxmin": MaxMin(),
    "half-abs": HalfAbs(),
    "abs": HalfAbs(1.0),
    "third-abs": HalfAbs(0.3),
    "windows": MovedWindows(),
    "windows-back": MovedWindows(-3),
    "shift": SpatialShift(),
    "shift-2": SpatialShift(2),
    "shift-zeros": SpatialShift(wrap=False),
    "shift-2-zeros": SpatialShift(2, wrap=False),
    "centering": BatchCentering(12),
    "centering-without-bias": BatchCentering(12, bias=False),
}


def images(channels: int = 12, **options: object) -> torch.Tensor:
    return torch.randn(3, channels, 4, 6, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("layer", ISOMETRIES.values(), ids=ISOMETRIES)
def test_constant_is_one(layer):
    plain = export(layer)
    assert lipschitz_upper_bound(plain, (12, 4, 6)).value <= 1 + 1e-12
    if not isinstance(layer, SpatialShift | MovedWindows):
        assert lipschitz_upper_bound(plain, (12,)).value <= 1 + 1e-12


@pytest.mark.parametrize("layer", [*ISOMETRIES.values(), HouseHolder(12)], ids=[*ISOMETRIES, "householder"])
def test_training_deployment_and_gradients_agree(layer):
    torch.manual_seed(0)
    double = nn.Sequential(layer).double()
    for parameter in double.parameters():
        nn.init.normal_(parameter)
    inputs = images(dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(double.train(), (inputs,))
    if isinstance(layer, BatchCentering):
        return  # another function in training
    plain = export(double)
    torch.testing.assert_close(double.train()(inputs), plain(inputs), rtol=0, atol=1e-12)
    torch.testing.assert_close(double.eval()(inputs), plain(inputs), rtol=0, atol=0)
    double.float()


@pytest.mark.parametrize("layer", [*ISOMETRIES.values(), HouseHolder(12)], ids=[*ISOMETRIES, "householder"])
def test_rounding_has_a_known_bound(layer):
    network = nn.Sequential(layer, nn.Flatten(), nn.Linear(288, 3)).float()
    assert torch.isfinite(logit_errors(export(network), (12, 4, 6)).constant).all()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_maxmin_by_its_definition(training):
    inputs = images()
    first, second = inputs[:, :6], inputs[:, 6:]
    expected = torch.cat([torch.maximum(first, second), torch.minimum(first, second)], 1)
    assert torch.equal(MaxMin().train(training)(inputs), expected)


def test_gradients_at_ties_are_those_of_the_identity():
    for layer in (MaxMin(), HalfAbs()):
        inputs = torch.zeros(1, 4, requires_grad=True)
        weights = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        (layer.train()(inputs) * weights).sum().backward()
        assert torch.equal(inputs.grad, weights)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shift", [1, 3])
def test_shift_by_its_definition(training, shift):
    inputs = images(11)
    moves = [(0, 0), (shift, 0), (-shift, 0), (0, shift), (0, -shift)]
    parts = inputs.split([3, 2, 2, 2, 2], dim=1)
    rolled = torch.cat([part.roll(move, (2, 3)) for part, move in zip(parts, moves, strict=True)], 1)
    assert torch.equal(SpatialShift(shift).train(training)(inputs), rolled)
    wide = [F.pad(part, [shift] * 4).roll(move, (2, 3)) for part, move in zip(parts, moves, strict=True)]
    cropped = torch.cat(wide, 1)[:, :, shift:-shift, shift:-shift]
    assert torch.equal(SpatialShift(shift, wrap=False).train(training)(inputs), cropped)


def test_shift_is_a_permutation_or_drops_pixels():
    matrix = dense_matrix(SpatialShift().eval(), (5, 3, 3))
    assert torch.equal(matrix @ matrix.T, torch.eye(45, dtype=torch.float64))
    matrix = dense_matrix(SpatialShift(wrap=False).eval(), (5, 3, 3))
    assert torch.equal(matrix @ matrix.T, torch.diag(matrix.sum(1)))
    assert matrix.sum() == 45 - 4 * 3


@pytest.mark.parametrize(("side", "move"), [(2, 1), (2, -3), (3, 2), (1, 1)])
def test_windows_by_their_definition(side, move):
    inputs = images(2 * side**2)
    pixels = torch.empty(3, 2, 4 * side, 6 * side)
    for row, column, channel in itertools.product(range(4 * side), range(6 * side), range(2)):
        place = ((row % side) * side + column % side) * 2 + channel
        pixels[:, channel, row, column] = inputs[:, place, row // side, column // side]
    moved = pixels.roll((move, move), (2, 3))
    outputs = MovedWindows(move, side)(inputs.contiguous(memory_format=torch.channels_last))
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    for row, column, channel in itertools.product(range(4 * side), range(6 * side), range(2)):
        place = ((row % side) * side + column % side) * 2 + channel
        assert torch.equal(outputs[:, place, row // side, column // side], moved[:, channel, row, column])


@pytest.mark.parametrize("channels", [3, 6])
def test_windows_of_other_numbers_of_channels_are_refused(channels):
    with pytest.raises(InputError, match="multiple of 4"):
        MovedWindows()(images(channels))


def test_shift_keeps_the_memory_format():
    inputs = images().contiguous(memory_format=torch.channels_last)
    layer = SpatialShift().train()
    outputs = layer(inputs)
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(outputs, layer(inputs.contiguous()))


def test_householder_starts_as_maxmin_and_is_torchlips():
    ours, theirs = HouseHolder(12), torchlip.HouseHolder(12)
    inputs = images()
    torch.testing.assert_close(ours(inputs), MaxMin()(inputs), rtol=0, atol=1e-6)
    torch.manual_seed(0)
    angles = torch.randn(6)
    with torch.no_grad():
        ours.angle.copy_(angles)
        theirs.theta.copy_(angles)
    # torchlip reflects the other side of the line: the reflection of our result
    normal = torch.stack([(angles / 2).sin(), -(angles / 2).cos()])[:, None, :, None, None]
    pairs = ours(inputs).unflatten(1, (2, -1)).transpose(0, 1)
    mirrored = pairs - 2 * (pairs * normal).sum(0) * normal
    torch.testing.assert_close(theirs(inputs), mirrored.transpose(0, 1).flatten(1, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(12,), (12, 4, 6)], ids=["vectors", "images"])
def test_householder_bound(shape):
    torch.manual_seed(0)
    layer = HouseHolder(12)
    nn.init.normal_(layer.angle)
    # two rotations rounded to float32
    assert lipschitz_upper_bound(export(layer), shape).value <= 1 + 1e-6


def test_a_planted_wrong_reflection_is_caught():
    layer = export(HouseHolder(4))
    with torch.no_grad():
        layer.turns[0] *= 1.5
    assert lipschitz_upper_bound(layer, (4,)).value > 1.2


def test_batch_centering_follows_the_batch_mean():
    layer = BatchCentering(12, momentum=0.25)
    inputs = images() + 3
    mean = inputs.mean((0, 2, 3))
    torch.testing.assert_close(layer(inputs), inputs - mean[:, None, None], rtol=0, atol=1e-5)
    torch.testing.assert_close(layer.running_mean, 0.25 * mean, rtol=1e-5, atol=0)
    nn.init.normal_(layer.bias)
    expected = inputs + (layer.bias - layer.running_mean)[:, None, None]
    assert torch.equal(export(layer)(inputs), expected)
    assert torch.equal(layer.eval()(inputs), expected)


def test_batch_centering_differentiates_the_mean():
    inputs = images().requires_grad_()
    BatchCentering(12)(inputs).sum().backward()
    torch.testing.assert_close(inputs.grad, torch.zeros_like(inputs), rtol=0, atol=1e-6)


def _centre_on(rank: int, store: str, results: "multiprocessing.Queue[object]") -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    part = images()[:1] if rank == 0 else images()[1:]
    part.requires_grad_()
    layer = BatchCentering(12)
    outputs = layer(part)
    (outputs**3).sum().backward()
    results.put((rank, outputs.detach().numpy(), part.grad.numpy(), layer.running_mean.numpy()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file")
def test_batch_centering_of_two_processes_is_that_of_one(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_centre_on, args=(rank, str(tmp_path / "s"), results)) for rank in range(2)]
    for process in processes:
        process.start()
    shares = sorted((results.get(timeout=120) for _ in processes), key=lambda share: share[0])
    for process in processes:
        process.join(timeout=60)
    inputs = images().requires_grad_()
    layer = BatchCentering(12)
    outputs = layer(inputs)
    (outputs**3).sum().backward()
    for position, expected in ((1, outputs.detach()), (2, inputs.grad)):
        joined = torch.cat([torch.from_numpy(share[position]) for share in shares])
        torch.testing.assert_close(joined, expected, rtol=1e-4, atol=1e-5)
    for share in shares:
        torch.testing.assert_close(torch.from_numpy(share[3]), layer.running_mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: MaxMin()(torch.zeros(2, 3)), "even number of channels, got 3"),
        (lambda: HouseHolder(5), "even number of channels, got 5"),
        (lambda: HalfAbs(1.5), r"share in \[0, 1\], got 1.5"),
        (lambda: SpatialShift(0), "shift >= 1, got 0"),
        (lambda: SpatialShift()(torch.zeros(1, 4, 6, 6)), "C >= 5"),
        (lambda: SpatialShift(3)(torch.zeros(1, 5, 6, 3)), "H and W >= 4"),
        (lambda: BatchCentering(3, momentum=0.0), r"momentum in \(0, 1\], got 0.0"),
    ],
)
def test_what_makes_no_sense_is_refused(act, message):
    with pytest.raises(InputError, match=message):
        act()
