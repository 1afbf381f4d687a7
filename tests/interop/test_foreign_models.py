"""foolbox and ART: the same logits on both sides, and radii in [0, 1] pixel units whatever the units of the other."""

import numpy as np
import pytest
import torch
from linear_problem import linear_problem
from torch import nn

from lipcert import certify
from lipcert.attacks import BoundaryWalk, HopSkipJump, ProjectedGradient
from lipcert.attacks.carlini_wagner import import_foolbox
from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.harness import run_audit
from lipcert.harness.foreign import NO_RULE, certify_or_not
from lipcert.interop.art import ArtClassifier, from_art
from lipcert.interop.called import CalledNetwork
from lipcert.interop.foolbox import from_foolbox, to_foolbox
from lipcert.interop.inputs import RescaledInputs, UnitInputs, check_bounds
from lipcert.networks import hkr_convnet

LINEAR, PIXELS, PREDICTION, DISTANCE = linear_problem(samples=8)
INPUTS = PIXELS.float() / 255
BOUNDS = [(0, 1), (0, 255), (-1, 1)]
COLOURS = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def made_for(bounds, mean=0.0, std=1.0):
    """LINEAR as a network that others would normalise for: the same function of images in [0, 1]."""
    low, high = bounds

    class Inverse(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = LINEAR

        def forward(self, inputs):
            return self.linear((inputs * std + mean - low) / (high - low))

    return Inverse().eval()


def convnet():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


class Estimator:
    """An ART classifier in outline: numpy in, numpy out, nothing else inside."""

    channels_first = True

    def __init__(self, network, bounds=(0.0, 1.0), shape=(1, 4, 4)):
        self._inner, self.clip_values, self.input_shape, self.nb_classes = network, bounds, shape, 4

    def predict(self, x, **kwargs):
        assert x.dtype == np.float32
        with torch.no_grad():
            return self._inner(torch.from_numpy(x)).numpy()

    def class_gradient(self, x, label=None, **kwargs):
        inputs = torch.from_numpy(x).requires_grad_()
        logits = self._inner(inputs)
        found = [torch.autograd.grad(each, inputs, retain_graph=True)[0] for each in logits.sum(0)]
        return torch.stack(found, 1).numpy()


class TorchEstimator(Estimator):
    """One whose network is there to be had, with ART's preprocessing."""

    def __init__(self, network, bounds, preprocessing, *, defended=False):
        super().__init__(network, bounds)
        self.model, self.preprocessing, self.defended = network, preprocessing, defended

    def predict(self, x, **kwargs):
        mean, std = (np.float32(value) for value in self.preprocessing)
        return super().predict(np.round((x - mean) / std, 1) if self.defended else (x - mean) / std)


@pytest.mark.parametrize("bounds", BOUNDS)
def test_radii_of_a_foolbox_model_are_in_unit_pixels(bounds):
    foolbox = import_foolbox()
    preprocessing = {"mean": [0.3], "std": [0.5], "axis": -3}
    theirs = foolbox.PyTorchModel(made_for(bounds, 0.3, 0.5), bounds, device="cpu", preprocessing=preprocessing)
    ours = from_foolbox(theirs)
    low, high = bounds
    assert torch.allclose(ours(INPUTS), theirs(INPUTS * (high - low) + low), atol=1e-5)
    found = certify(ours, INPUTS, arithmetic="real")
    assert torch.equal(found.prediction, PREDICTION)
    # the linear network's radii are its distances; a millionth covers float32 constants in the change of units
    assert ((found.radius / DISTANCE - 1).abs() < 1e-5).all()
    executed = certify(ours, INPUTS)
    assert ((executed.radius < DISTANCE * (1 + 1e-5)) & (executed.radius > 0.9 * DISTANCE)).all()


def test_preprocessing_by_channel_and_none_at_all():
    foolbox = import_foolbox()
    preprocessing = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "axis": -3}
    model = foolbox.PyTorchModel(convnet(), (0, 1), device="cpu", preprocessing=preprocessing)
    assert torch.equal(from_foolbox(model)(COLOURS), model(COLOURS))
    plain = foolbox.PyTorchModel(convnet(), (0, 1), device="cpu")
    assert isinstance(from_foolbox(plain), nn.Sequential)
    assert torch.equal(from_foolbox(plain)(COLOURS), plain(COLOURS))


@pytest.mark.parametrize("bounds", BOUNDS)
def test_foolbox_attacks_what_it_is_handed(bounds):
    foolbox = import_foolbox()
    low, high = bounds
    model = to_foolbox(LINEAR, bounds=bounds)
    images = INPUTS * (high - low) + low
    assert torch.allclose(model(images), LINEAR(INPUTS), atol=1e-5)
    _, (clipped,), (success,) = foolbox.attacks.L2DeepFoolAttack()(
        model, images, PREDICTION, epsilons=[high - low * 1.0 + 8]
    )
    assert success.all()
    distance = ((clipped - images) / (high - low)).flatten(1).double().norm(dim=1)
    assert (distance >= DISTANCE * (1 - 1e-5)).all()
    assert all(parameter.grad is None for parameter in LINEAR.parameters())


def test_constraints_are_exported_on_the_way():
    model = to_foolbox(hkr_convnet())
    back = from_foolbox(model)
    inputs = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(back(inputs), model(inputs))
    assert certify(back, inputs).lipschitz_upper_bound < 5


@pytest.mark.parametrize("bounds", BOUNDS)
def test_radii_of_an_art_classifier_are_in_unit_pixels(bounds):
    theirs = TorchEstimator(made_for(bounds, 0.3, 0.5), bounds, (0.3, 0.5))
    ours = from_art(theirs)
    assert not isinstance(ours, CalledNetwork)
    found = certify(ours, INPUTS, arithmetic="real")
    assert torch.equal(found.prediction, PREDICTION)
    assert ((found.radius / DISTANCE - 1).abs() < 1e-5).all()


def test_an_art_classifier_with_more_inside_than_layers_is_only_called():
    defended = TorchEstimator(made_for((0, 1), 0.3, 0.5), (0, 1), (0.3, 0.5), defended=True)
    ours = from_art(defended)
    assert isinstance(ours, CalledNetwork)
    assert np.allclose(ours(INPUTS).numpy(), defended.predict(INPUTS.numpy()), atol=1e-6)


@pytest.mark.parametrize("bounds", BOUNDS)
def test_gradients_of_an_estimator_lead_attacks_to_the_boundary(bounds):
    ours = from_art(Estimator(made_for(bounds), bounds))
    assert isinstance(ours, CalledNetwork)
    outcome = BoundaryWalk()(ours, INPUTS, PREDICTION)
    assert outcome.verified.success.all()
    assert (outcome.verified.distance < DISTANCE * 1.02).all()
    assert (outcome.verified.distance >= DISTANCE * (1 - 1e-5)).all()
    found = certify_or_not(ours, INPUTS)
    assert (found.rule, found.radius.max()) == (NO_RULE, 0)
    assert "one that can only be called" in found.assumptions[0]
    with pytest.raises(InputError, match="can only be called"):
        certify(ours, INPUTS)


def test_answers_alone_are_enough_for_attacks_that_ask_no_more():
    ours = CalledNetwork(Estimator(LINEAR).predict).eval()
    outcome = HopSkipJump(queries=1000)(ours, INPUTS, PREDICTION)
    assert outcome.verified.success.all()
    blind = ProjectedGradient(steps=3)(ours, INPUTS, PREDICTION, epsilon=10.0)
    assert blind.backward_passes == 0


def test_a_classifier_that_can_only_be_called_is_audited():
    images = ImageSet(PIXELS, PREDICTION)
    result = run_audit(from_art(Estimator(LINEAR)), images, certifier=certify_or_not, attacks=[BoundaryWalk()])
    assert (result.verdict, result.rule) == ("pass", NO_RULE)
    attacked = [row for row in result.rows if row.attacked]
    assert len(attacked) == len(PREDICTION.unique())
    assert all(1 - 1e-5 <= row.distance / DISTANCE[row.index] <= 1.02 for row in attacked)


@pytest.mark.parametrize("clip_values", BOUNDS)
def test_a_network_has_the_methods_of_an_art_classifier(clip_values):
    low, high = clip_values
    classifier = ArtClassifier(LINEAR, input_shape=(1, 4, 4), clip_values=clip_values)
    images = (INPUTS * (high - low) + low).numpy()
    assert np.allclose(classifier.predict(images, batch_size=3), LINEAR(INPUTS).detach().numpy(), atol=1e-5)
    weight = LINEAR[1].weight.detach().numpy().reshape(4, 1, 4, 4) / (high - low)
    assert np.allclose(classifier.class_gradient(images), np.broadcast_to(weight, (8, 4, 1, 4, 4)))
    assert np.allclose(classifier.class_gradient(images, label=2)[:, 0], weight[2])
    one_each = classifier.class_gradient(images, label=PREDICTION.numpy())
    assert np.allclose(one_each[:, 0], weight[PREDICTION.numpy()])
    share = torch.softmax(LINEAR(INPUTS), 1).detach().numpy() - np.eye(4)[PREDICTION]
    expected = np.einsum("nk,k...->n...", share, weight)
    for labels in (PREDICTION.numpy(), np.eye(4)[PREDICTION]):
        assert np.allclose(classifier.loss_gradient(images, labels), expected, atol=1e-5)
    assert classifier.nb_classes == 4
    assert torch.equal(from_art(classifier)(INPUTS), LINEAR(INPUTS))
    assert all(parameter.grad is None for parameter in LINEAR.parameters())


WRONG = {
    "foolbox: a network": (lambda: from_foolbox(LINEAR), "expected a foolbox PyTorchModel, got Sequential"),
    "foolbox: a flipped axis": (
        lambda: from_foolbox(
            import_foolbox().PyTorchModel(LINEAR, (0, 1), device="cpu", preprocessing={"flip_axis": -3})
        ),
        "without flip_axis",
    ),
    "foolbox: no network": (lambda: to_foolbox(len), "expected a network"),
    "foolbox: bounds": (lambda: to_foolbox(LINEAR, bounds=(1, 0)), "in ascending order, got 1 and 0"),
    "art: no classifier": (lambda: from_art(LINEAR), "with predict, got Sequential"),
    "art: no clip values": (lambda: from_art(Estimator(LINEAR, None)), "with clip_values"),
    "art: several clip values": (
        lambda: from_art(Estimator(LINEAR, (np.zeros(16), np.arange(1, 17)))),
        "the same clip_values",
    ),
    "art: no shape": (lambda: from_art(Estimator(LINEAR, shape=None)), "input_shape"),
    "art: flat shape": (lambda: from_art(Estimator(LINEAR, shape=(16,))), "input_shape"),
    "art: shape of the network": (lambda: ArtClassifier(LINEAR, input_shape=(3, 4, 4)), "runs on images"),
    "art: no logits": (lambda: ArtClassifier(nn.Identity(), input_shape=(3, 4, 4)), "gives logits"),
    "art: shape of the images": (
        lambda: ArtClassifier(LINEAR, input_shape=(1, 4, 4)).predict(np.zeros((2, 1, 5, 4))),
        r"expected images \(N, 1, 4, 4\)",
    ),
    "art: batch size": (
        lambda: ArtClassifier(LINEAR, input_shape=(1, 4, 4)).predict(np.zeros((2, 1, 4, 4)), batch_size=0),
        "batch_size >= 1",
    ),
    "art: labels": (
        lambda: ArtClassifier(LINEAR, input_shape=(1, 4, 4)).loss_gradient(np.zeros((2, 1, 4, 4)), [0, 4]),
        "labels from 0 to 3, got 0 to 4",
    ),
    "bounds: one": (lambda: check_bounds(3), "two numbers"),
    "bounds: nan": (lambda: UnitInputs(LINEAR, (0, float("nan"))), "finite bounds"),
    "std": (lambda: RescaledInputs(LINEAR, std=[0.5, 0.0]), "expected std > 0"),
    "mean": (lambda: RescaledInputs(LINEAR, mean=float("inf")), "finite mean"),
    "a call without logits": (lambda: CalledNetwork(lambda images: images)(INPUTS), r"expected logits \(8, K\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_taken_over_is_refused_in_one_line(name):
    call, message = WRONG[name]
    with pytest.raises(InputError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
