"""The architectures: what is exported has the proved norm, reloads from JSON arguments, and trains from a command."""

import json
import math

import pytest
import torch
from reference import steepest_slope
from torch import nn

from lipcert import certify, export, load_network, save_network
from lipcert.certificates import lipschitz_upper_bound
from lipcert.deployment import build_network, check_export
from lipcert.errors import InputError
from lipcert.layers import retract_
from lipcert.networks import (
    conv_network,
    dense_network,
    residual_network,
    residual_network_large,
    shift_network,
    shift_network_large,
    window_network,
)
from lipcert.train import main

SHAPE = (2, 8, 8)
TINY = {"input_shape": [2, 8, 8], "num_classes": 3, "widths": [6]}
DENSE = (dense_network, TINY)
CONV = (conv_network, {**TINY, "stages": [[6, 1], [8, 1]]})
SHIFT = (shift_network, {**TINY, "stages": [[6, 1], [10, 2]]})
RESIDUAL = (residual_network, {**TINY, "channels": [6, 8], "blocks": 2})
WINDOW = (window_network, {**TINY, "patch": 2, "channels": 8, "blocks": 3})
POOLED = {"downsampling": "pool", "neck": "norm", "head": "normalized", "activation": "half-abs"}


def with_options(case, **options):
    build, arguments = case
    return build, {**arguments, **options}


CASES = {
    "dense": DENSE,
    "dense-bjorck": with_options(DENSE, constraint="bjorck"),
    "conv": CONV,
    "conv-aol": with_options(CONV, constraint="aol", activation="half-abs"),
    "conv-normalized": with_options(CONV, patch=1, kernel_size=5, head="normalized", widths=[]),
    "shift": SHIFT,
    "shift-pooled": with_options(SHIFT, **POOLED),
    "shift-patch-4": with_options(SHIFT, patch=4, stages=[[6, 1]], widths=[]),
    "shift-cayley": with_options(SHIFT, constraint="cayley"),
    "window": WINDOW,
    "window-patch-4": with_options(WINDOW, patch=4, channels=36, widths=[]),
    "residual": RESIDUAL,
    "residual-fixed": with_options(RESIDUAL, learned_shares=False, share=0.3),
    "residual-rko": with_options(RESIDUAL, constraint="rko"),
    "residual-normalized": with_options(RESIDUAL, head="normalized", widths=[]),
}
ALL = pytest.mark.parametrize(("build", "arguments"), CASES.values(), ids=CASES)
EACH = pytest.mark.parametrize(
    ("build", "arguments"), [DENSE, CONV, SHIFT, WINDOW, RESIDUAL], ids=["dense", "conv", "shift", "window", "residual"]
)


def trained(build, arguments, steps=4):
    torch.manual_seed(0)
    network = build(**arguments)
    inputs, labels = torch.rand(12, *SHAPE), torch.arange(12) % 3
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
        retract_(network)
    return network


@ALL
def test_the_proof_covers_the_slopes_and_is_one(build, arguments):
    plain = export(trained(build, arguments))
    bound = lipschitz_upper_bound(plain, SHAPE).value
    assert steepest_slope(plain, SHAPE) <= bound
    # a head of three rows of norm 1
    allowed = math.sqrt(3) if arguments.get("head") == "normalized" else 1
    assert bound <= allowed * (1 + 1e-5)


@ALL
def test_certificates_hold_as_the_network_executes(build, arguments):
    plain = export(trained(build, arguments))
    inputs = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(2))
    executed, real = (certify(plain, inputs, arithmetic=name) for name in ("float32", "real"))
    assert torch.equal(executed.prediction, plain(inputs).argmax(1))
    assert (executed.radius <= real.radius).all()
    # float32 costs a small part of the radius, not all of it
    assert executed.radius.max() > 0.9 * real.radius.max() > 0


@ALL
def test_networks_reload_from_json_arguments(build, arguments, tmp_path):
    network = trained(build, arguments)
    save_network(export(network), tmp_path / "n.safetensors", build, **json.loads(json.dumps(arguments)))
    reloaded = load_network(tmp_path / "n.safetensors")
    check_export(network, reloaded, torch.rand(5, *SHAPE))


@EACH
def test_unconstrained_twins_have_the_same_shapes(build, arguments):
    twin = build(**arguments, constraint="none")
    plain = export(build(**arguments))
    assert [(name, tuple(item.shape)) for name, item in export(twin).named_parameters()] == [
        (name, tuple(item.shape)) for name, item in plain.named_parameters()
    ]
    assert [type(layer) for layer in export(twin)] == [type(layer) for layer in plain]
    assert not any(hasattr(module, "constraint") for module in twin.modules())
    assert twin(torch.rand(2, *SHAPE)).shape == (2, 3)


def test_twins_of_normalized_heads_are_plain():
    for build, arguments in (with_options(SHIFT, **POOLED), with_options(RESIDUAL, head="normalized")):
        assert type(build(**arguments, constraint="none")[-1]) is nn.Linear


@EACH
def test_a_planted_weight_is_caught(build, arguments):
    plain = export(trained(build, arguments))
    before = lipschitz_upper_bound(plain, SHAPE).value
    with torch.no_grad():
        plain[-1].weight *= 1.5
    assert lipschitz_upper_bound(plain, SHAPE).value == pytest.approx(1.5 * before, rel=1e-6)


def test_an_isometry_loses_nothing():
    """Where no layer has fewer outputs than inputs, every singular value of the Jacobian is 1."""
    torch.manual_seed(0)
    for activation in ("maxmin", "half-abs"):
        network = shift_network(
            (6, 4, 4), 96, patch=1, stages=((6, 2), (24, 2)), widths=(96,), activation=activation
        ).double()
        for parameter in network.parameters():
            if parameter.ndim == 1:
                nn.init.normal_(parameter)
        point = torch.randn(1, 6, 4, 4, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(export(network), point).reshape(96, 96)
        values = torch.linalg.svdvals(jacobian)
        torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-6)


def test_numbers_of_parameters():
    """Weights and biases, layer by layer."""
    counts = {
        dense_network: [128 * 6 + 6, 6 * 3 + 3],
        shift_network: [8 * 6 + 6, 42, 24 * 10 + 10, 110, 110, 40 * 6 + 6, 6 * 3 + 3],
        residual_network: [50 * 6 + 6, 1, 54 * 6 + 6, 1, 54 * 6 + 6, 24 * 8 + 8, 32 * 6 + 6, 6 * 3 + 3],
    }
    for build, arguments in (DENSE, SHIFT, RESIDUAL):
        assert sum(parameter.numel() for parameter in build(**arguments).parameters()) == sum(counts[build])


@pytest.mark.parametrize("build", [shift_network_large, residual_network_large])
def test_large_networks_are_as_large_as_they_say(build):
    with torch.device("meta"):
        millions = sum(parameter.numel() for parameter in build().parameters()) / 1e6
    assert f"{millions:.0f} million parameters" in build.__doc__


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        (DENSE, {"widths": [5]}, r"^expected even widths, got \[5\]$"),
        (DENSE, {"constraint": "spectral"}, "^expected a constraint among none, projection, .* got 'spectral'$"),
        (SHIFT, {"constraint": "spectral"}, "^expected a constraint among none, projection, .* got 'spectral'$"),
        (SHIFT, {"constraint": "rko"}, "^expected a constraint among none, projection, .* got 'rko'$"),
        (SHIFT, {"stages": []}, "^expected at least one stage"),
        (SHIFT, {"stages": [[6]]}, "^expected at least one stage"),
        (SHIFT, {"stages": [[7, 1]]}, "^expected even channels, got"),
        (SHIFT, {"stages": [[4, 1]]}, "^expected stages of at least 6 channels"),
        (SHIFT, {"stages": [[6, -1]]}, "^expected stages of at least 6 channels"),
        (SHIFT, {"stages": [[6, 1]] * 4}, "^expected images whose sides are multiples of 16, got 8 x 8$"),
        (SHIFT, {"stages": [[6, 1]], "patch": 8}, "^expected images of at least 16 x 16, got 8 x 8$"),
        (SHIFT, {"patch": 0}, "^expected patch >= 1, got 0$"),
        (SHIFT, {"input_shape": [64]}, r"^expected an input shape \(C, H, W\), got \(64,\)$"),
        (SHIFT, {"downsampling": "max"}, "^expected downsampling among patch, pool, got 'max'$"),
        (SHIFT, {"neck": "mean"}, "^expected neck among flatten, norm, got 'mean'$"),
        (SHIFT, {"head": "none"}, "^expected a head among orthogonal, normalized, got 'none'$"),
        (SHIFT, {"activation": "relu"}, "^expected an activation among maxmin, half-abs, got 'relu'$"),
        (CONV, {"constraint": "projection"}, "^expected a constraint among none, aoc, aol, rko, got 'projection'$"),
        (CONV, {"kernel_size": 2}, "^expected patch >= 1 and an odd kernel size, got 2 and 2$"),
        (CONV, {"stages": []}, "^expected at least one stage"),
        (CONV, {"stages": [[7, 1]]}, "^expected even channels"),
        (RESIDUAL, {"constraint": "projection"}, "^expected a constraint among none, aol, rko, got 'projection'$"),
        (RESIDUAL, {"channels": [6]}, "^expected channels of the blocks and of the neck"),
        (RESIDUAL, {"blocks": -1}, "^expected channels of the blocks and of the neck"),
        (RESIDUAL, {"channels": [6, 7]}, "^expected even channels"),
        (RESIDUAL, {"share": 1.0}, r"^expected a share in \(0, 1\), got 1.0$"),
        (RESIDUAL, {"input_shape": [1, 6, 8]}, "^expected images whose sides are multiples of 4, got 6 x 8$"),
    ],
)
def test_what_does_not_fit_is_refused(case, options, message):
    build, arguments = with_options(case, **options)
    with pytest.raises(InputError, match=message) as caught:
        build_network(f"lipcert.networks.{build.__name__}", arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("shift_network", {"stages": [[6, 1], [8, 1]], "widths": [8]}),
        ("residual_network", {"channels": [6, 8], "blocks": 1, "widths": [8]}),
    ],
)
def test_training_by_the_command(name, options, tmp_path):
    sizes = [f"--model.init_args.network.init_args.{key}={json.dumps(value)}" for key, value in options.items()]
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=9", "--trainer.enable_progress_bar=false"]
    assert main([f"--output={tmp_path}", f"--model.init_args.network=lipcert.networks.{name}", *sizes, *short]) == 0
    summary = json.loads((tmp_path / "quickstart" / "summary.json").read_text())
    assert summary["status"] == "completed"
    plain = load_network(tmp_path / "quickstart" / "network.safetensors")
    assert all(bool(torch.isfinite(parameter).all()) for parameter in plain.parameters())
    assert lipschitz_upper_bound(plain, (1, 28, 28)).value <= 1 + 1e-5
