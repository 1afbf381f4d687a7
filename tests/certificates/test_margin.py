"""Margin certificates against geometry that is known exactly: linear classifiers."""

import math

import pytest
import torch
from torch import nn

from lipcert import InputError, certify
from lipcert.certificates import MARGIN_RULES, class_pair_upper_bounds, float64_logits, margin_radius


def linear_classifier(classes: int = 5, pixels: int = 12, seed: int = 0) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return network.requires_grad_(False).eval()


def images(count: int = 50, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 1, 3, 4, generator=torch.Generator().manual_seed(seed))


def exact_distance(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Distance to the nearest of the hyperplanes on which another class draws level."""
    weight, bias = network[1].weight.detach().double(), network[1].bias.detach().double()
    logits = inputs.flatten(1).double() @ weight.T + bias
    distances = []
    for row in logits:
        best = int(row.argmax())
        others = [j for j in range(len(row)) if j != best]
        distances.append(min(float((row[best] - row[j]) / (weight[best] - weight[j]).norm()) for j in others))
    return torch.tensor(distances, dtype=torch.float64)


def test_pairwise_rule_is_exact_for_a_linear_classifier():
    network, inputs = linear_classifier(), images()
    certificate = certify(network, inputs, arithmetic="real")
    exact = exact_distance(network, inputs)
    assert (certificate.radius <= exact).all()
    # the bounds are rounded up by some 1e-6 at most
    torch.testing.assert_close(certificate.radius, exact, rtol=2e-6, atol=0)


@pytest.mark.parametrize("rule", MARGIN_RULES)
def test_no_rule_exceeds_the_exact_distance(rule):
    network, inputs = linear_classifier(), images()
    assert (certify(network, inputs, rule=rule).radius <= exact_distance(network, inputs)).all()


def test_pairwise_is_never_below_the_other_rules():
    network, inputs = linear_classifier(), images()
    radius = {rule: certify(network, inputs, rule=rule, arithmetic="real").radius for rule in MARGIN_RULES}
    assert (radius["pairwise"] >= radius["joint"] * (1 - 1e-6)).all()
    assert (radius["pairwise"] >= radius["per-class"] * (1 - 1e-6)).all()
    assert torch.equal(radius["best"], torch.stack([radius[rule] for rule in MARGIN_RULES]).amax(0))


@pytest.mark.parametrize(("rule", "divisor"), [("joint", math.sqrt(2)), ("per-class", 2.0)])
def test_rules_of_orthonormal_heads(rule, divisor):
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False)).eval()
    network[1].weight.data = torch.eye(3, 12)
    certificate = certify(network, images(), rule=rule, arithmetic="real")
    logits = network(images()).double()
    top = logits.topk(2, dim=1).values
    torch.testing.assert_close(certificate.radius, (top[:, 0] - top[:, 1]) / divisor, rtol=2e-6, atol=0)


def test_a_point_just_outside_of_the_exact_distance_changes_class():
    """The reference itself is not vacuous: the exact distance is reached."""
    network, inputs = linear_classifier(), images(20)
    weight = network[1].weight.double()
    prediction = network(inputs).argmax(1)
    distance = exact_distance(network, inputs)
    for row, best, length in zip(inputs.flatten(1).double(), prediction, distance, strict=True):
        directions = [weight[j] - weight[best] for j in range(len(weight)) if j != best]
        moved = torch.stack([row + d / d.norm() * length * (1 + 1e-9) for d in directions])
        logits = moved @ weight.T + network[1].bias.double()
        assert (logits.argmax(1) != best).any()


def test_ties_and_undefined_logits_certify_nothing():
    bounds = torch.ones(3, 3, dtype=torch.float64)
    logits = torch.tensor([[1.0, 1.0, 0.0], [math.nan, 0.0, 1.0], [math.inf, 0.0, 0.0], [2.0, 0.0, 0.5]])
    _, radius = margin_radius(logits, bounds)
    assert radius[:3].tolist() == [0, 0, 0]
    assert 1.5 * (1 - 1e-12) < radius[3] <= 1.5


def test_a_body_that_scales_is_counted():
    class Twice(nn.Module):
        def forward(self, inputs):
            return 2 * inputs

    network, inputs = linear_classifier(), images()
    scaled = nn.Sequential(Twice(), *network).eval()
    exact = exact_distance(nn.Sequential(nn.Flatten(), network[1]), 2 * inputs) / 2
    radius = certify(scaled, inputs, arithmetic="real").radius
    assert (radius <= exact).all()
    torch.testing.assert_close(radius, exact, rtol=2e-6, atol=0)


def test_tiny_weights_do_not_underflow_to_a_certificate():
    network = linear_classifier()
    for parameter in network.parameters():
        parameter.data = parameter.data.double() * 1e-200
    network.double()
    bounds, _ = class_pair_upper_bounds(network, (1, 3, 4))
    differences = network[1].weight[:, None] - network[1].weight
    exact = (differences * 1e200).norm(dim=2) * 1e-200
    off_diagonal = ~torch.eye(5, dtype=torch.bool)
    assert (bounds >= exact)[off_diagonal].all()
    assert (bounds > 0)[off_diagonal].all()


def test_rows_that_nearly_agree_keep_a_positive_bound():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False, dtype=torch.float64)).eval()
    network[1].weight.data = torch.zeros(3, 12, dtype=torch.float64)
    network[1].weight.data[0, 0], network[1].weight.data[1, 1], network[1].weight.data[2, 1] = 1.0, 1e-170, 3e-170
    bounds, _ = class_pair_upper_bounds(network, (1, 3, 4))
    assert 2e-170 <= bounds[1, 2] < 2.1e-170


def test_parametrised_networks_are_certified_as_they_execute():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.orthogonal(nn.Linear(12, 4))).eval()
    logits = float64_logits(network, images())
    weight = network[1].weight.detach().double()
    expected = images().double().flatten(1) @ weight.T + network[1].bias.detach().double()
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-14)  # float64 rounding; float32's would be 1e-8
    assert hasattr(network[1], "parametrizations")


def test_without_a_linear_head_only_the_joint_rule_applies():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU()).eval()
    bounds, proof = class_pair_upper_bounds(network, (1, 3, 4))
    assert torch.allclose(bounds, torch.full((4, 4), math.sqrt(2) * proof.value, dtype=torch.float64))
    with pytest.raises(InputError, match="ends in a linear layer"):
        class_pair_upper_bounds(network, (1, 3, 4), rule="pairwise")


BAD_INPUTS = [
    pytest.param(torch.full((1, 1, 3, 4), math.nan), "finite", id="nan"),
    pytest.param(torch.full((1, 1, 3, 4), 1.5), r"\[0, 1\]", id="above-one"),
    pytest.param(torch.full((1, 1, 3, 4), -0.1), r"\[0, 1\]", id="negative"),
    pytest.param(torch.zeros(0, 1, 3, 4), "non-empty", id="empty"),
    pytest.param(torch.zeros(1, 1, 3, 4, dtype=torch.uint8), "floating-point", id="integers"),
]


@pytest.mark.parametrize(("inputs", "message"), BAD_INPUTS)
def test_unusable_inputs_are_refused(inputs, message):
    with pytest.raises(InputError, match=message):
        certify(linear_classifier(), inputs)


def test_an_unknown_rule_is_refused():
    with pytest.raises(InputError, match="expected a rule among"):
        certify(linear_classifier(), images(), rule="optimistic")


def test_training_mode_is_refused():
    with pytest.raises(InputError):
        certify(linear_classifier().train(), images())


class After(nn.Module):
    """A linear layer and something after it."""

    def __init__(self, last):
        super().__init__()
        self.linear, self.last = linear_classifier(), last

    def forward(self, inputs):
        return self.last(self.linear(inputs))


AFTER = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "abs": torch.abs,
    "softplus": nn.functional.softplus,
    "leaky": lambda logits: nn.functional.leaky_relu(logits, -3.0),
    "double": lambda logits: 2 * logits,
    "negate": torch.neg,
    "flip": lambda logits: logits.flip(1),
    "repeat-one": lambda logits: logits[:, [0, 0, 1, 2, 3]],
    "log-softmax": lambda logits: logits.log_softmax(1),
    "minus-first": lambda logits: logits - logits[:, :1],
    "weights-a-class": lambda logits: logits * torch.tensor([1.0, -1.0, 3.0, 0.5, 1.0]),
    "sorted": lambda logits: logits.sort(1).values,
    "residual": lambda logits: logits + torch.relu(logits),
}


@pytest.mark.parametrize("name", AFTER)
def test_whatever_follows_the_head_is_counted(name):
    network = After(AFTER[name]).eval()
    bounds, _ = class_pair_upper_bounds(network, (1, 3, 4))
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(2000, 1, 3, 4, generator=generator)
    step = 1e-2 * torch.randn(start.shape, generator=generator)
    network.double()
    before, after = network(start.double()), network((start + step).double())
    change = (after - before)[:, :, None] - (after - before)[:, None]
    lengths = ((start + step).double() - start.double()).flatten(1).norm(dim=1)
    slopes = (change.abs() / lengths[:, None, None]).amax(0)
    # the largest slopes among random directions, and those along the rows of the head, which are extreme
    off_diagonal = ~torch.eye(5, dtype=torch.bool)
    assert (slopes <= bounds)[off_diagonal].all()
    weight = network.linear[1].weight
    for i in range(5):
        for j in range(5):
            direction = (weight[i] - weight[j]).view(1, 1, 3, 4)
            if i != j:
                moved = network(start.double() + 1e-3 * direction / direction.norm()) - before
                slope = ((moved[:, i] - moved[:, j]).abs() / 1e-3).max()
                assert slope <= bounds[i, j] * (1 + 1e-9)
