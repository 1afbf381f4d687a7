"""Scripts of HEART run with their imports changed, and do what the originals are said to do."""

import copy

import heart_script
import numpy as np
import pytest
import torch
from linear_problem import linear_problem
from maite.protocols import image_classification as ic
from maite.tasks import evaluate
from maite_parts import Dataset
from torch import nn
from torch.utils.data import Subset

from lipcert.errors import InputError
from lipcert.interop.heart import (
    AccuracyPerturbationMetric,
    AutoAttack,
    FastGradientMethod,
    HeartAccuracyMetric,
    HopSkipJump,
    JaticAttack,
    JaticPyTorchClassifier,
    ProjectedGradientDescent,
    ProjectedGradientDescentPyTorch,
)

NETWORK, PIXELS, PREDICTION, DISTANCE = linear_problem(samples=10)
INPUTS = PIXELS.float().numpy() / np.float32(255)
LABELS = PREDICTION.numpy().copy()
LABELS[:2] = (LABELS[:2] + 1) % 4
RIGHT = PREDICTION.numpy() == LABELS
CLASSES = {0: "ant", 1: "bee", 2: "cat", 3: "dog"}


class Rows:
    """What Hugging Face's ``datasets.Dataset`` is to these scripts: rows by number, columns by name."""

    def __len__(self):
        return len(LABELS)

    def __getitem__(self, key):
        if key == "label":
            return LABELS.tolist()
        return {"image": INPUTS[key].tolist(), "label": int(LABELS[key])}


def classifier(clip_values=(0, 1), preprocessing=(0.0, 1.0), network=None):
    low, high = clip_values
    mean, std = preprocessing

    class Inverse(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = network or NETWORK

        def forward(self, inputs):
            return self.linear((inputs * std + mean - low) / (high - low))

    return JaticPyTorchClassifier(
        model=Inverse(), input_shape=(1, 4, 4), nb_classes=4, clip_values=clip_values, preprocessing=preprocessing
    )


def test_a_script_of_heart_runs_with_its_imports_changed():
    network = copy.deepcopy(NETWORK).train()  # the guide leaves it in training mode
    data = Rows()
    first, adversarial, metadata, found, accuracy = heart_script.main(
        network, data, Subset(data, range(10)), CLASSES, (1, 4, 4)
    )
    assert first == CLASSES[int(PREDICTION[0])]
    moved = np.stack(adversarial) - INPUTS
    assert np.abs(moved).max() <= 0.1 + 1e-6
    with torch.no_grad():
        classes = NETWORK(torch.tensor(np.stack(adversarial))).argmax(1).numpy()
    stands = RIGHT & (classes == LABELS)
    succeeded = RIGHT & ~stands
    assert succeeded.any()
    delta = np.linalg.norm(moved.reshape(10, -1), axis=1)
    assert [entry["delta"] for entry in metadata] == pytest.approx(delta, rel=1e-5)
    assert found == pytest.approx(
        {"clean_accuracy": 0.8, "robust_accuracy": stands.mean(), "mean_delta": delta[succeeded].mean()}, rel=1e-5
    )
    assert accuracy == pytest.approx({"accuracy": stands.mean()})
    assert network.training


def test_the_parts_are_components_of_maite():
    jptc = classifier()
    attack = JaticAttack(ProjectedGradientDescentPyTorch(jptc, eps=0.1), norm=2, id="pgd")
    metric = AccuracyPerturbationMetric([], [])
    assert isinstance(jptc, ic.Model)
    assert isinstance(attack, ic.Augmentation)
    assert isinstance(metric, ic.Metric)
    assert isinstance(HeartAccuracyMetric(task="binary"), ic.Metric)
    assert attack.metadata == {"id": "pgd"}
    assert attack.get_attack().estimator is jptc
    found, _, _ = evaluate(
        model=jptc,
        metric=HeartAccuracyMetric(task="multiclass", num_classes=4, average="micro"),
        dataset=Dataset(INPUTS, LABELS, 4),
        batch_size=3,
    )
    assert found == pytest.approx({"accuracy": 0.8})


@pytest.mark.parametrize(("clip_values", "preprocessing"), [((0, 1), (0.3, 0.5)), ((0, 255), (0.0, 255.0))])
def test_budgets_and_deltas_are_in_the_units_of_the_images(clip_values, preprocessing):
    jptc, width = classifier(clip_values, preprocessing), clip_values[1]
    assert np.allclose(np.stack(jptc(INPUTS * width)), NETWORK(torch.tensor(INPUTS)).detach().numpy(), atol=1e-4)
    eps = 0.1 * width
    attack = JaticAttack(ProjectedGradientDescent(jptc, norm=np.inf, eps=eps, eps_step=0.01 * width), norm=np.inf)
    images, _, metadata = attack((list(INPUTS * width), list(LABELS), [{"id": n} for n in range(10)]))
    delta = [entry["delta"] for entry in metadata]
    assert max(delta) <= eps * (1 + 1e-5)
    assert delta == pytest.approx(np.abs(np.stack(images) - INPUTS * width).reshape(10, -1).max(1), rel=1e-5)


FORMS = {
    "batch": (list(INPUTS), list(LABELS), [{"id": n} for n in range(10)]),
    "one-hot batch": (list(INPUTS), list(np.eye(4)[LABELS]), [{"id": n} for n in range(10)]),
    "mapping": {"images": INPUTS, "labels": LABELS.tolist()},
    "data set": Dataset(INPUTS, LABELS, 4),
    "rows": Rows(),
    "subset": Subset(Dataset(INPUTS, LABELS, 4), range(10)),
    "torch": torch.utils.data.TensorDataset(torch.tensor(INPUTS), torch.tensor(LABELS)),
}


@pytest.mark.parametrize("form", FORMS)
def test_data_come_in_every_form_and_stay_as_they_are(form):
    jptc, before = classifier(), copy.deepcopy(FORMS[form])
    attack = JaticAttack(HopSkipJump(jptc, max_iter=3, norm=2), norm=2)
    images, targets, metadata = attack(FORMS[form])
    if form == "batch":
        assert all(np.array_equal(one, other) for one, other in zip(before[0], FORMS[form][0], strict=True))
        assert before[2] == FORMS[form][2]
    assert [np.argmax(target) if np.ndim(target) else target for target in targets] == LABELS.tolist()
    assert [entry["success"] for entry in metadata] == RIGHT.tolist()
    wrong = [entry["delta"] for entry, right in zip(metadata, RIGHT, strict=True) if not right]
    assert wrong == [0.0, 0.0]
    assert (np.stack(jptc(images)).argmax(1) != LABELS).all()


def test_images_alone_leave_their_own_classes():
    jptc = classifier()
    images, targets, metadata = JaticAttack(FastGradientMethod(jptc, norm=2, eps=5.0))(INPUTS)
    assert targets is None
    assert all(entry["success"] for entry in metadata)
    assert (np.stack(jptc(images)).argmax(1) != PREDICTION.numpy()).all()
    assert np.stack(jptc(INPUTS[0])).argmax() == PREDICTION[0]


def test_a_batch_of_class_zero_keeps_its_labels():
    zeros = np.zeros(10, dtype=int)
    attack = JaticAttack(ProjectedGradientDescent(classifier(), eps=0.05))
    _, targets, metadata = attack((list(INPUTS), list(zeros), [{}] * 10))
    assert targets.tolist() == zeros.tolist()
    assert all(entry["delta"] == 0 for entry, own in zip(metadata, PREDICTION.tolist(), strict=True) if own != 0)


def test_targeted_attacks_reach_the_classes_of_the_batch():
    jptc = classifier()
    attack = JaticAttack(ProjectedGradientDescent(jptc, norm=2, eps=10.0, eps_step=0.5, targeted=True))
    images, _, metadata = attack((list(INPUTS), [2] * 10, [{}] * 10))
    assert (np.stack(jptc(images)).argmax(1) == 2).mean() > 0.8
    assert [entry["success"] for entry in metadata] == [
        before != 2 and after == 2
        for before, after in zip(PREDICTION.tolist(), np.stack(jptc(images)).argmax(1).tolist(), strict=True)
    ]


def test_attacks_generate_arrays():
    jptc = classifier()
    for attack in (
        FastGradientMethod(jptc, eps=0.2),
        ProjectedGradientDescent(jptc, eps=0.2, max_iter=5, num_random_init=1),
        AutoAttack(jptc, norm=2, eps=5.0),
    ):
        found = attack.generate(INPUTS[RIGHT], LABELS[RIGHT])
        assert found.shape == INPUTS[RIGHT].shape
        fooled = jptc.predict(found).argmax(1) != LABELS[RIGHT]
        assert fooled.any()


def test_metrics_add_up_batches():
    benign = np.eye(3)[[0, 1, 2, 0]]
    metadata = [{"delta": delta} for delta in (0.5, 1.0, 9.0, 7.0)]
    metric = AccuracyPerturbationMetric(benign, metadata, accuracy_type="adversarial")
    for part in (slice(0, 3), slice(3, 4)):  # three samples and three classes, which must not be broadcast
        metric.update(np.eye(3)[[1, 1, 0, 1]][part], np.eye(3)[[0, 1, 2, 2]][part])
    assert metric.compute() == pytest.approx(
        {"clean_accuracy": 0.75, "adversarial_accuracy": 1 / 3, "mean_delta": 4.75}
    )
    with pytest.raises(InputError, match="no more than the 4 predictions"):
        metric.update([0], [0])
    metric.reset()
    metric.update([0, 1, 2, 0], [0, 1, 2, 2], metadata)
    assert metric.compute()["adversarial_accuracy"] == 1.0


JPTC = classifier()
WRONG = {
    "provider": (
        lambda: JaticPyTorchClassifier(provider="timm", model="vit", input_shape=(1, 4, 4), nb_classes=4),
        "the network itself as model",
    ),
    "channels last": (
        lambda: JaticPyTorchClassifier(model=NETWORK, input_shape=(1, 4, 4), nb_classes=4, channels_first=False),
        "channels_first=True",
    ),
    "defences": (
        lambda: JaticPyTorchClassifier(
            model=NETWORK, input_shape=(1, 4, 4), nb_classes=4, preprocessing_defences=[object()]
        ),
        "no preprocessing_defences",
    ),
    "classes": (
        lambda: JaticPyTorchClassifier(model=NETWORK, input_shape=(1, 4, 4), nb_classes=5),
        "nb_classes=4, the number of logits, got 5",
    ),
    "units": (lambda: JPTC(INPUTS * 255), r"images in \[0, 1\]"),
    "data": (lambda: JPTC(3), "a batch, a data set or images, got int"),
    "no data": (lambda: JPTC([]), "at least one image"),
    "estimator": (lambda: FastGradientMethod(NETWORK), "a JaticPyTorchClassifier of lipcert, got Sequential"),
    "eps": (lambda: ProjectedGradientDescent(JPTC, eps=0), "eps as a finite number > 0, got 0"),
    "eps a pixel": (lambda: FastGradientMethod(JPTC, eps=np.ones(16)), "eps as a finite number"),
    "norm": (lambda: FastGradientMethod(JPTC, norm=3), "norm 1, 2 or inf, got 3"),
    "auto attack": (lambda: AutoAttack(JPTC, attacks=[1]), "AutoAttack without attacks"),
    "attack": (lambda: JaticAttack(JPTC), "an attack of lipcert.interop.heart"),
    "targets": (
        lambda: JaticAttack(ProjectedGradientDescent(JPTC, targeted=True))(INPUTS),
        "the classes to reach, got none",
    ),
    "accuracy type": (lambda: AccuracyPerturbationMetric([], [], "certified"), "accuracy_type robust or adversarial"),
    "lengths": (lambda: AccuracyPerturbationMetric([[0.0, 1.0]], []), "got 1 and 0"),
    "no delta": (lambda: AccuracyPerturbationMetric([0], [{}]).update([0], [0]), "expected 'delta' in the metadata"),
    "task": (lambda: HeartAccuracyMetric(task="multilabel"), "task multiclass or binary"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_of_a_script_is_refused_in_one_line(name):
    call, message = WRONG[name]
    with pytest.raises(InputError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
