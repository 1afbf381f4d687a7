import random

import numpy as np
import pytest
import torch
from deel import torchlip
from linear_problem import linear_network, linear_problem
from torch import nn

from lipcert import certify, export
from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.harness import AttackRow
from lipcert.harness.planted import own_images, planted_models, tight_network
from lipcert.harness.trust import (
    SAMPLES,
    TITLES,
    false_constant,
    nearer_without_gradients,
    result_checks,
    too_few_classes,
    trust_checks,
)
from lipcert.harness.trust_forward import batch_dependent, dynamic, not_finite, randomised, softmax_outputs
from lipcert.harness.trust_gradient import margin_slopes, masked_gradients, vanishing_gradients, zero_gradients
from lipcert.networks import hkr_convnet

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = ImageSet(torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=GENERATOR), torch.arange(60) % 4)
INPUTS = IMAGES.inputs()[:SAMPLES]


def built(make):
    torch.manual_seed(0)
    return export(make())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 3)

    def forward(self, inputs):
        flat = inputs.flatten(1)
        return self.second(flat + self.first(flat).relu())


class Guarded(nn.Module):
    """Switches gradients off inside, clamps its input and works in place: all of it harmless."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 3)

    def forward(self, inputs):
        with torch.no_grad(), torch.set_grad_enabled(False):
            scale = self.layer.weight.norm()
        return self.layer(inputs.clamp(0, 1).flatten(1)).mul_(2).div_(scale)


SOUND = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)),
    "two classes": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 2)),
    "torchlip": lambda: hkr_convnet(input_shape=(1, 8, 8), channels=(2, 4), hidden=8),
    "groupsort": lambda: torchlip.Sequential(
        nn.Flatten(), torchlip.SpectralLinear(64, 16), torchlip.GroupSort2(), torchlip.FrobeniusLinear(16, 4)
    ),
    "relu, never constrained": lambda: nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 32), nn.ReLU(), nn.Linear(32, 4)
    ),
    "steep": lambda: nn.Sequential(nn.Flatten(), Scaled(100), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)),
    "dropout and batch norm in eval mode": lambda: nn.Sequential(
        nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(64), nn.Linear(64, 4)
    ),
    "tanh": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 4)),
    "residual": Residual,
    "guarded": Guarded,
    "log-softmax": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.LogSoftmax(1)),
}


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, inputs):
        return inputs * self.factor


def titles(warnings):
    return [warning.partition(":")[0] for warning in warnings]


def checked(network, inputs=INPUTS, **options):
    with torch.no_grad():
        labels = network(inputs).argmax(1)
    return trust_checks(network, inputs, labels, **options)


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_network_raises_no_alarm(name):
    assert checked(built(SOUND[name])) == ()


@pytest.mark.parametrize("samples", [1, 2, 60])
def test_a_sound_network_raises_no_alarm_on_few_inputs_or_many(samples):
    assert checked(built(SOUND["linear"]), IMAGES.inputs()[:samples]) == ()


def test_certified_constants_raise_no_alarm():
    for network, inputs in ((built(SOUND["torchlip"]), INPUTS), (linear_problem()[0], torch.rand(8, 1, 4, 4))):
        constant = certify(network, inputs).lipschitz_upper_bound
        assert checked(network, inputs, lipschitz_upper_bound=constant) == ()


TIGHT = tight_network(IMAGES)
PLANTED = {
    f"{planted.name} in {name}": planted
    for name, host in (("maxmin", None), ("relu", own_images(built(SOUND["relu, never constrained"]), IMAGES)))
    for planted in planted_models(TIGHT, host)
    if planted.warnings
}


BLINDING = ("rounded input", "saturated output", "replaced backward pass")
FAILING = {title for title in TITLES if title.startswith(("Accuracy", "Black box", "Random noise", "Iterated"))}


@pytest.mark.parametrize("name", PLANTED)
def test_every_planted_defect_is_named(name):
    planted = PLANTED[name]
    inputs = planted.images.inputs()
    claimed = planted.certifier(planted.network, inputs)
    said = titles(
        trust_checks(planted.network, inputs, claimed.prediction, lipschitz_upper_bound=claimed.lipschitz_upper_bound)
    )
    assert set(said) & set(planted.warnings)
    # what is claimed is the host's constant, which the spoiled one may exceed
    also = {"Softmax outputs", "False Lipschitz constant"} | (FAILING if planted.name in BLINDING else set())
    assert set(said) <= {*planted.warnings, *also}


def test_every_title_is_known():
    for planted in PLANTED.values():
        assert set(planted.warnings) <= set(TITLES)


@pytest.mark.parametrize("name", [name for name in PLANTED if name.endswith("maxmin")])
def test_checks_leave_everything_as_it_is(name):
    network, inputs = PLANTED[name].network, PLANTED[name].images.inputs()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    asking = [parameter.requires_grad for parameter in network.parameters()]
    drawn = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    trust_checks(network, inputs, torch.zeros(len(inputs), dtype=torch.int64), lipschitz_upper_bound=100.0)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert modes == [module.training for module in network.modules()]
    assert asking == [parameter.requires_grad for parameter in network.parameters()]
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(drawn[0], torch.get_rng_state())
    assert drawn[1:] == (random.getstate(), np.random.get_state()[1].tolist())


class By(nn.Module):
    """A network given by a function of flat images."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.layer = built(SOUND["linear"])[1]
        self.register_buffer("calls", torch.zeros(()))
        self.eval()

    def forward(self, inputs):
        return self.function(self, inputs.flatten(1))


def purified_by_hand(self, flat):
    with torch.enable_grad():
        leaf = flat.detach().clone().requires_grad_()
        self.layer(leaf).amax(1).sum().backward()
    return self.layer(flat + 0.01 * leaf.grad)


def purified_by_functorch(self, flat):
    slope = torch.func.grad(lambda some: self.layer(some).amax(1).sum())(flat)
    return self.layer(flat + 0.01 * slope)


def purified_by_search(self, flat):
    with torch.set_grad_enabled(True):
        leaf = flat.detach().clone().requires_grad_()
        optimiser = torch.optim.SGD([leaf], lr=0.1)
        for _ in range(2):
            optimiser.zero_grad()
            self.layer(leaf).square().sum().backward()
            optimiser.step()
    return self.layer(leaf.detach())


def learning(self, flat):
    with torch.no_grad():
        self.calls += 1
    return self.layer(flat)


MOVING = {
    "backward": (purified_by_hand, "switches gradients on and computes 1 gradients"),
    "functorch": (purified_by_functorch, "switches gradients on"),
    "optimiser": (purified_by_search, "computes 2 gradients"),
    "own tensors": (learning, "changes 1 of its own tensors (calls)"),
}


@pytest.mark.parametrize("name", MOVING)
def test_every_way_to_optimise_is_seen(name):
    function, text = MOVING[name]
    assert text in dynamic(By(function), INPUTS)


NOT_FINITE = {
    "nan at the inputs": (lambda self, flat: self.layer(flat) / 0 * 0, "at 32 of 32 inputs"),
    "infinite at the inputs": (lambda self, flat: self.layer(flat) + torch.inf, "at 32 of 32 inputs"),
    "only where it is black": (lambda self, flat: self.layer(flat) + 0 / flat.amax(1, keepdim=True), "at none of 32"),
    "only where it is white": (
        lambda self, flat: self.layer(flat) + 0 / (1 - flat.amin(1, keepdim=True)),
        "at 1 of 18",
    ),
}


@pytest.mark.parametrize("name", NOT_FINITE)
def test_logits_that_are_not_finite_are_found_wherever_they_are(name):
    function, text = NOT_FINITE[name]
    assert text in not_finite(By(function), INPUTS)


def test_one_nan_among_many_inputs_is_found_and_the_rest_is_checked():
    network = By(lambda self, flat: self.layer(flat.mul(8).round()) + torch.where(flat[:, :1] > 1 - 1e-6, torch.nan, 0))
    inputs = INPUTS.clone().clamp(0, 0.9)
    inputs[17, 0, 0, 0] = 1
    said = checked(network, inputs)
    assert titles(said) == ["Logits that are not finite", "Zero gradients"]
    assert "at 1 of 32 inputs" in said[0]
    assert "at 31 of 31 inputs" in said[1]


def test_nothing_but_nan_is_said_once():
    assert titles(checked(By(lambda self, flat: self.layer(flat) * torch.nan))) == ["Logits that are not finite"]


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-3], ids=["none", "rounding", "more"])
def test_randomness_beyond_rounding_is_found(noise):
    network = By(lambda self, flat: self.layer(flat) * (1 + noise * torch.randn(())))
    assert (randomised(network, INPUTS) is not None) == (noise > 1e-5)


def test_a_class_that_is_drawn_is_counted():
    said = randomised(By(lambda self, flat: torch.eye(4)[torch.randperm(4)[0]].expand(len(flat), 4)), INPUTS)
    assert "32 change their class" in said


BLIND = {
    "rounding": lambda self, flat: self.layer(flat.mul(4).round()),
    "no gradient at all": lambda self, flat: self.layer(flat.detach()),
    "numpy on the way": lambda self, flat: torch.from_numpy(self.layer(flat).detach().numpy()),
    "constant": lambda self, flat: torch.ones(len(flat), 4) * torch.arange(4),
    "classes only": lambda self, flat: nn.functional.one_hot(self.layer(flat).argmax(1), 4).float(),
}


@pytest.mark.parametrize("name", BLIND)
def test_zero_gradients_are_found(name):
    said = zero_gradients(margin_slopes(By(BLIND[name]), INPUTS))
    assert "exactly zero at 32 of 32 inputs" in said


def test_a_gradient_that_is_nan_is_found():
    said = zero_gradients(margin_slopes(By(lambda self, flat: self.layer((flat * 0).sqrt() + flat)), INPUTS))
    assert "nan or infinite at 32 of 32 inputs" in said


def test_one_dead_input_is_counted():
    layer = torch.where(torch.arange(32)[:, None, None, None] == 3, 0.0, 1.0)
    said = zero_gradients(margin_slopes(By(lambda self, flat: self.layer(flat * layer.flatten(1))), INPUTS))
    assert "exactly zero at 1 of 32 inputs" in said


def test_gradients_too_small_for_the_box_are_found():
    weak = By(lambda self, flat: 1e-3 * self.layer(flat) + torch.arange(4))
    assert "outside of the [0, 1] box" in vanishing_gradients(margin_slopes(weak, INPUTS))
    assert vanishing_gradients(margin_slopes(By(lambda self, flat: 1e-3 * self.layer(flat)), INPUTS)) is None


def test_a_cross_entropy_that_is_exactly_flat_is_found():
    said = vanishing_gradients(margin_slopes(By(lambda self, flat: 1e6 * self.layer(flat)), INPUTS))
    assert "attacks on the cross-entropy are blind" in said


def straight_through(levels):
    def function(self, flat):
        rounded = flat.mul(levels).round() / levels
        return self.layer(flat + (rounded - flat).detach())

    return function


MASKED = {
    "noise for a gradient": lambda self, flat: self.layer(flat.detach()) + _moved(flat @ torch.ones(64, 4).triu()),
    "too small by ten": lambda self, flat: self.layer(flat.detach() + 0.1 * _moved(flat)),
    "the wrong sign": lambda self, flat: self.layer(flat.detach() - _moved(flat)),
    "part of the pixels": lambda self, flat: self.layer(torch.cat([flat[:, :48].detach(), flat[:, 48:]], dim=1)),
    "coarse rounding, straight through": straight_through(3),
}


def _moved(values):
    return values - values.detach()


@pytest.mark.parametrize("name", MASKED)
def test_gradients_that_are_not_the_slope_are_found(name):
    network = By(MASKED[name])
    assert masked_gradients(network, margin_slopes(network, INPUTS)).startswith("Masked gradients")


def test_probabilities_are_told_from_other_outputs_in_the_unit_interval():
    softmax = By(lambda self, flat: self.layer(flat).softmax(1))
    assert "sum to 1" in softmax_outputs(softmax, INPUTS)
    assert softmax_outputs(By(lambda self, flat: self.layer(flat).sigmoid()), INPUTS) is None
    assert softmax_outputs(By(lambda self, flat: self.layer(flat).softmax(1) * 2 - 0.5), INPUTS) is None


@pytest.mark.parametrize(
    "function",
    [
        lambda self, flat: self.layer(flat - flat.mean(0)),
        lambda self, flat: self.layer(flat) + len(flat),
        lambda self, flat: self.layer(flat + 0.1 * flat.roll(1, 0)),
        lambda self, flat: self.layer(flat) + torch.arange(len(flat))[:, None],
    ],
    ids=["mean", "size", "neighbour", "place"],
)
def test_every_dependence_on_the_batch_is_found(function):
    assert batch_dependent(By(function), INPUTS).startswith("Batch dependence")


def test_what_is_no_fixed_function_is_not_looked_at_further():
    network = By(lambda self, flat: self.layer(flat.round()) + torch.randn(len(flat), 4))
    assert titles(checked(network)) == ["Randomised"]
    assert titles(trust_checks(nn.Sequential(network).train(), INPUTS, torch.zeros(32, dtype=torch.int64))) == [
        "Training mode"
    ]


@pytest.mark.parametrize("factor", [0.9, 0.99, 1.0, 1.1])
def test_a_constant_that_is_too_small_is_found(factor):
    constant = certify(TIGHT.network, TIGHT.images.inputs()).lipschitz_upper_bound * factor
    said = false_constant(TIGHT.network, TIGHT.images.inputs(), constant)
    assert (said is not None) == (factor < 1)


def test_a_network_that_cannot_be_searched_has_no_false_constant():
    class OnlyFloat32(nn.Module):
        def forward(self, inputs):
            return linear_network(torch.eye(4, 64))(inputs)

    assert false_constant(OnlyFloat32().eval(), INPUTS, 1e-3) is None


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (INPUTS, torch.zeros(3, dtype=torch.int64), "labels"),
        (INPUTS[:0], torch.zeros(0, dtype=torch.int64), "labels"),
    ],
    ids=["too few labels", "nothing"],
)
def test_unusable_arguments_are_refused(inputs, labels, message):
    with pytest.raises(InputError, match=message):
        trust_checks(built(SOUND["linear"]), inputs, labels)


def test_a_network_with_one_logit_is_refused():
    with pytest.raises(InputError, match="two logits"):
        trust_checks(By(lambda self, flat: flat[:, :1]), INPUTS, torch.zeros(32, dtype=torch.int64))


def row(name):
    return AttackRow(name, {}, 10, 1.0, 0.5, 0, 1.0, 1, 1)


@pytest.mark.parametrize(("classes", "said"), [(2, True), (3, True), (4, False), (10, False)])
def test_too_few_classes_matter_to_autoattack_alone(classes, said):
    assert (too_few_classes(["pgd", "autoattack"], classes) is not None) == said
    assert too_few_classes(["pgd", "boundary-walk"], classes) is None


def found(white, black):
    return {"walk": dict(enumerate(white)), "square": dict(enumerate(black))}


@pytest.mark.parametrize(
    ("white", "black", "said"),
    [
        pytest.param([1.0] * 10, [1.0] * 10, False, id="equal"),
        pytest.param([1.0] * 10, [0.96] * 10, False, id="a little nearer everywhere"),
        pytest.param([1.0] * 20, [0.5] + [1.0] * 19, False, id="one lucky sample of twenty"),
        pytest.param([1.0] * 20, [0.5] * 2 + [1.0] * 18, True, id="two of twenty"),
        pytest.param([float("inf")] * 10, [3.0] * 10, True, id="where nothing else was found"),
        pytest.param([float("inf")] * 10, [float("inf")] * 10, False, id="nothing anywhere"),
        pytest.param([0.1] * 10, [], False, id="no black box"),
    ],
)
def test_a_black_box_that_beats_the_white_box_is_found(white, black, said):
    assert (nearer_without_gradients(found(white, black), ["square"]) is not None) == said


def test_the_best_white_box_is_what_counts():
    distances = {"weak": {0: 9.0}, "strong": {0: 1.0}, "square": {0: 1.0}}
    assert nearer_without_gradients(distances, ["square"]) is None
    assert "at 1 of 1 samples" in nearer_without_gradients({**distances, "strong": {}}, ["square"])


def test_results_without_anything_to_say_raise_no_alarm():
    assert result_checks([row("autoattack"), row("square")], classes=10) == ()
