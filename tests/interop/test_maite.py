"""MAITE's protocols and tasks with lipcert's parts, and lipcert with MAITE's."""

import copy

import numpy as np
import pytest
import torch
from lightning import Trainer
from linear_problem import linear_problem
from maite.protocols import image_classification as ic
from maite.tasks import augment_dataloader, evaluate, evaluate_from_predictions, predict
from maite_parts import Brightness, Dataset, ModuleModel, NumpyModel, TorchModel
from torch import nn

import lipcert
from lipcert.attacks import BoundaryWalk, FastGradient, HopSkipJump, ProjectedGradient
from lipcert.data import ImageSet
from lipcert.defenses import BitDepth, TransformedNetwork
from lipcert.errors import InputError
from lipcert.harness.foreign import NO_RULE
from lipcert.interop.called import CalledNetwork
from lipcert.interop.maite import (
    AdversarialAccuracyMetric,
    AttackAugmentation,
    Batches,
    CertifiedAccuracyMetric,
    CertifyAugmentation,
    ClassifierModel,
    CleanAccuracyMetric,
    Composed,
    LabelledImages,
    PerturbationMetric,
    RobustAccuracyMetric,
    audit,
    image_data_of,
    image_set_of,
    network_of,
)
from lipcert.metrics import average_certified_radius
from lipcert.networks import dense_network

NETWORK, PIXELS, PREDICTION, DISTANCE = linear_problem(samples=12)
INPUTS = PIXELS.float() / 255
LABELS = PREDICTION.clone()
LABELS[:3] = (LABELS[:3] + 1) % 4  # the network is wrong on the first three
IMAGES = ImageSet(PIXELS, LABELS)
RIGHT = PREDICTION == LABELS
NAMES = ("ant", "bee", "cat", "dog")
MODEL = ClassifierModel(NETWORK, id="linear", class_names=NAMES)
DATASET = LabelledImages(IMAGES, id="points", class_names=NAMES)
ATTACK = AttackAugmentation(BoundaryWalk(), MODEL)
EVERYTHING = Composed(CertifyAugmentation(MODEL, arithmetic="real"), ATTACK)
METRICS = {
    "clean": CleanAccuracyMetric(),
    "robust": RobustAccuracyMetric(),
    "adversarial": AdversarialAccuracyMetric(),
    "certified": CertifiedAccuracyMetric([0.0, float(DISTANCE.median())]),
    "perturbation": PerturbationMetric(),
}
MODELS = {
    "plain": MODEL,
    "probabilities": ClassifierModel(NETWORK, output="probabilities"),
    "certified": ClassifierModel(nn.Sequential(nn.Flatten(), nn.utils.parametrizations.orthogonal(nn.Linear(16, 4)))),
    "defended": ClassifierModel(TransformedNetwork(NETWORK, [BitDepth(3)])),
    "bytes": ClassifierModel(NETWORK, bounds=(0, 255)),
}


@pytest.mark.parametrize(
    ("component", "protocol"),
    [
        *((model, ic.Model) for model in MODELS.values()),
        (DATASET, ic.Dataset),
        (DATASET, ic.FieldwiseDataset),
        (Batches(DATASET), ic.DataLoader),
        (ATTACK, ic.Augmentation),
        (EVERYTHING, ic.Augmentation),
        (CertifyAugmentation(MODEL), ic.Augmentation),
        *((metric, ic.Metric) for metric in METRICS.values()),
    ],
)
def test_the_runtime_protocols_hold(component, protocol):
    assert isinstance(component, protocol)
    if protocol is not ic.DataLoader:
        assert isinstance(component.metadata["id"], str)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_predicts(name):
    model = MODELS[name]
    data = LabelledImages(IMAGES, bounds=model.bounds)
    batches, _ = predict(model=model, dataset=data, batch_size=5)
    found = torch.tensor(np.concatenate([np.stack(batch) for batch in batches]))
    assert found.dtype == torch.float32
    with torch.no_grad():
        expected = model.network(INPUTS)
    assert torch.allclose(found, expected.softmax(1) if model.output == "probabilities" else expected, atol=1e-6)
    assert not any(module.training for module in model.network.modules())


@pytest.mark.parametrize("name", METRICS)
def test_evaluate_runs_with_every_metric(name):
    found, preds, data = evaluate(
        model=MODEL,
        metric=METRICS[name],
        dataset=DATASET,
        batch_size=5,
        augmentation=EVERYTHING if name == "certified" else ATTACK,
        return_augmented_data=True,
        return_preds=True,
    )
    certified = ((DISTANCE.median() <= DISTANCE) & RIGHT).float().mean()
    expected = {
        "clean": {"clean_accuracy": 0.75},
        "robust": {"robust_accuracy": 0.0},
        "adversarial": {"adversarial_accuracy": 0.0},
        "certified": {
            "certified_accuracy_0": 0.75,
            f"certified_accuracy_{float(DISTANCE.median()):g}": certified.item(),
            "average_certified_radius": (DISTANCE * RIGHT).mean().item(),
        },
        "perturbation": {
            "mean_perturbation": DISTANCE[RIGHT].mean().item(),
            "median_perturbation": DISTANCE[RIGHT].median().item(),
        },
    }[name]
    # the walk ends a little beyond the boundary; the median of nine distances may be any of two that are close
    assert found == pytest.approx(expected, rel=0.02)
    again = evaluate_from_predictions(
        metric=METRICS[name],
        pred_batches=preds,
        target_batches=[targets for _, targets, _ in data],
        metadata_batches=[metadata for _, _, metadata in data],
    )
    assert again == pytest.approx(found, rel=1e-12)


def test_batches_of_a_loader_are_evaluated_like_a_data_set():
    loader = Batches(DATASET, batch_size=5)
    assert [len(targets) for _, targets, _ in loader] == [5, 5, 2]
    assert len(loader) == 3
    found, _, _ = evaluate(model=MODEL, metric=CleanAccuracyMetric(), dataloader=loader)
    assert found == {"clean_accuracy": 0.75}
    attacked = list(augment_dataloader(augmentation=ATTACK, dataloader=loader))
    assert sum(entry["success"] for _, _, metadata in attacked for entry in metadata) == 9


def test_a_data_set_has_items_and_fields():
    image, target, metadata = DATASET[4]
    assert (image.dtype, image.shape, metadata) == (np.float32, (1, 4, 4), {"id": 4})
    assert np.array_equal(image, INPUTS[4].numpy())
    assert target.tolist() == np.eye(4)[LABELS[4]].tolist()
    assert np.array_equal(DATASET.get_input(4), image)
    assert np.array_equal(DATASET.get_target(-1), DATASET.get_target(11))
    assert DATASET.metadata == {"id": "points", "index2label": dict(enumerate(NAMES))}
    for place in (12, -13):
        with pytest.raises(IndexError):
            DATASET[place]
    assert len(list(DATASET)) == 12


@pytest.mark.parametrize("bounds", [(0, 1), (0, 255), (-1, 1)])
def test_an_attack_hands_on_fresh_objects_and_says_what_it_did(bounds):
    model = ClassifierModel(NETWORK, bounds=bounds)
    data = LabelledImages(IMAGES, bounds=bounds)
    batch = next(iter(Batches(data, batch_size=12)))
    before = copy.deepcopy(batch)
    images, targets, metadata = AttackAugmentation(BoundaryWalk(), model)(batch)
    for part, kept in zip(batch[:2], before[:2], strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(part, kept, strict=True))
    assert batch[2] == before[2]
    assert all(new is not old for new, old in zip((*images, *metadata), (*batch[0], *batch[2]), strict=True))
    assert all(np.array_equal(one, other) for one, other in zip(targets, before[1], strict=True))
    assert [entry["id"] for entry in metadata] == list(range(12))
    assert [entry["success"] for entry in metadata] == RIGHT.tolist()
    assert [entry["benign_prediction"] for entry in metadata] == PREDICTION.tolist()
    assert {entry["norm"] for entry in metadata} == {"l2"}
    width = bounds[1] - bounds[0]
    for place, (image, entry) in enumerate(zip(images, metadata, strict=True)):
        moved = np.linalg.norm((image.astype(float) - before[0][place]) / width)
        assert entry["delta"] == pytest.approx(moved, rel=1e-5)
        assert np.stack(model([image])).argmax() == entry["adversarial_prediction"]
        if RIGHT[place]:
            assert DISTANCE[place] * (1 - 1e-5) <= entry["delta"] <= 1.02 * DISTANCE[place]
        else:  # wrong already: nothing is to be gained, and the image is what it was
            assert np.array_equal(image, before[0][place])
            assert entry["adversarial_prediction"] == PREDICTION[place]


def test_targeted_attacks_reach_the_targets_of_the_batch():
    wanted = (PREDICTION + 1) % 4
    wanted[0] = PREDICTION[0]
    images, _, _ = next(iter(Batches(DATASET, batch_size=12)))
    augmentation = AttackAugmentation(BoundaryWalk(), MODEL, targeted=True)
    changed, _, metadata = augmentation((images, wanted.tolist(), [{"id": n} for n in range(12)]))
    assert metadata[0]["delta"] == 0
    assert not metadata[0]["success"]
    assert all(entry["success"] for entry in metadata[1:])
    assert np.stack(MODEL(changed)).argmax(1).tolist() == wanted.tolist()


def test_an_attack_within_a_budget_keeps_to_it():
    epsilon = float(DISTANCE[RIGHT].median())
    for norm in ("l2", "linf"):
        augmentation = AttackAugmentation(ProjectedGradient(), MODEL, norm=norm, epsilon=epsilon)
        _, _, metadata = augmentation(next(iter(Batches(DATASET, batch_size=12))))
        assert max(entry["delta"] for entry in metadata) <= epsilon * (1 + 1e-6)
        assert {entry["norm"] for entry in metadata} == {norm}


def test_certificates_are_those_of_certify():
    batch = next(iter(Batches(DATASET, batch_size=12)))
    images, _, metadata = CertifyAugmentation(MODEL)(batch)
    expected = lipcert.certify(NETWORK, INPUTS)
    assert [entry["radius"] for entry in metadata] == expected.radius.tolist()
    assert [entry["certified_prediction"] for entry in metadata] == expected.prediction.tolist()
    assert {entry["arithmetic"] for entry in metadata} == {"float32"}
    assert all(one is other for one, other in zip(images, batch[0], strict=True))
    assert batch[2][0] == {"id": 0}
    assert torch.equal(MODEL.certify(batch[0]).radius, expected.radius)
    _, _, uncertified = CertifyAugmentation(MODELS["defended"])(batch)
    assert {entry["radius"] for entry in uncertified} == {0.0}


@pytest.mark.parametrize("targets", ["numbers", "arrays", "one-hot", "tensors"])
@pytest.mark.parametrize("preds", ["scores", "classes"])
def test_metrics_take_whatever_form_targets_have_and_add_up(targets, preds):
    labels = [0, 1, 2, 0, 1]
    classes = {
        "numbers": labels,
        "arrays": [np.int64(label) for label in labels],
        "one-hot": list(np.eye(3)[labels]),
        "tensors": [torch.tensor(label) for label in labels],
    }[targets]
    guesses = [0, 1, 1, 1, 1]
    found = guesses if preds == "classes" else list(np.eye(3)[guesses] - 0.5)
    metadata = [{"id": n, "benign_prediction": before} for n, before in enumerate([0, 1, 2, 2, 0])]
    for metric, name, expected in (
        (RobustAccuracyMetric(), "robust_accuracy", 2 / 5),
        (AdversarialAccuracyMetric(), "adversarial_accuracy", 2 / 3),
        (CleanAccuracyMetric(), "clean_accuracy", 3 / 5),
    ):
        for part in (slice(0, 3), slice(3, 5)):
            metric.update(found[part], classes[part], metadata[part])
        assert metric.compute() == pytest.approx({name: expected})
        metric.reset()
        with pytest.raises(InputError, match="at least one batch"):
            metric.compute()
    clean = CleanAccuracyMetric()
    clean.update(found, classes)
    assert clean.compute() == pytest.approx({"clean_accuracy": 3 / 5})


def test_as_many_images_as_classes_are_not_broadcast():
    metric = RobustAccuracyMetric()
    metric.update([0, 1, 2], list(np.eye(3)), [{"benign_prediction": label} for label in (0, 1, 2)])
    assert metric.compute() == {"robust_accuracy": 1.0}


def test_other_augmentations_go_with_ours():
    found, _, _ = evaluate(
        model=MODEL, metric=CleanAccuracyMetric(), dataset=DATASET, augmentation=Composed(Brightness(), ATTACK)
    )
    with torch.no_grad():
        expected = (NETWORK(INPUTS * 0.9).argmax(1) == LABELS).float().mean()
    assert found["clean_accuracy"] == pytest.approx(expected.item())


def test_a_run_is_a_model(tmp_path):
    lipcert.save_network(
        lipcert.export(dense_network((1, 28, 28), [16])),
        tmp_path / "network.safetensors",
        dense_network,
        input_shape=(1, 28, 28),
        widths=[16],
    )
    (tmp_path / "config.yaml").write_text("data: {class_path: lipcert.data.FashionMNISTMini}\n")
    model = ClassifierModel.from_run(tmp_path)
    assert model.metadata["index2label"][1] == "Trouser"
    assert model.metadata["id"] == tmp_path.name
    assert np.stack(model(np.zeros((2, 1, 28, 28)))).shape == (2, 10)


WEIGHT, BIAS = (parameter.detach().numpy().copy() for parameter in (NETWORK[1].weight, NETWORK[1].bias))
STRANGE = {
    "numpy": NumpyModel(WEIGHT, BIAS),
    "torch": TorchModel(NETWORK),
    "module": ModuleModel(NETWORK),
    "ours": MODEL,
}


@pytest.mark.parametrize("name", STRANGE)
def test_networks_of_strangers_are_certified_where_there_is_one(name):
    model = STRANGE[name]
    network = network_of(model, list(INPUTS.numpy()))
    assert isinstance(network, CalledNetwork) == (name == "numpy")
    with torch.no_grad():
        assert torch.allclose(network(INPUTS), NETWORK(INPUTS), atol=1e-5)  # logits, not probabilities of them
    augmentation = CertifyAugmentation(ClassifierModel(network), arithmetic="real")
    found, _, _ = evaluate(
        model=ClassifierModel(network),
        metric=CertifiedAccuracyMetric([0.0]),
        dataset=Dataset(INPUTS.numpy(), LABELS, 4),
        augmentation=augmentation,
    )
    radius = 0.0 if name == "numpy" else (DISTANCE * RIGHT).mean().item()
    assert found["average_certified_radius"] == pytest.approx(radius, rel=1e-6)


def test_a_network_of_other_units_is_certified_in_unit_pixels():
    class Bytes(TorchModel):
        pass

    inner = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        inner[1].weight.copy_(torch.from_numpy(WEIGHT) / 255)
        inner[1].bias.copy_(torch.from_numpy(BIAS))
    network = network_of(Bytes(inner), list(PIXELS.float().numpy()), bounds=(0, 255))
    found = lipcert.certify(network, INPUTS, arithmetic="real")
    assert ((found.radius / DISTANCE - 1).abs() < 1e-5).all()


def test_a_module_that_does_something_else_is_not_taken_for_the_model():
    model = TorchModel(NETWORK)
    plain = model.__call__
    network = network_of(lambda batch: [-row for row in plain(batch)], list(INPUTS.numpy()))
    assert isinstance(network, CalledNetwork)

    class Turned(TorchModel):
        def __call__(self, batch):
            return [1 - row for row in super().__call__(batch)]

    assert isinstance(network_of(Turned(NETWORK), list(INPUTS.numpy())), CalledNetwork)


@pytest.mark.parametrize("name", ["numpy", "torch", "ours"])
def test_models_and_data_sets_of_strangers_are_audited(name):
    dataset = Dataset(PIXELS.numpy(), LABELS, 4, names=NAMES)
    attack = HopSkipJump(queries=300) if name == "numpy" else BoundaryWalk()
    result = audit(STRANGE[name], dataset, attacks=[attack])
    assert result.verdict == "pass"
    assert (result.rule == NO_RULE) == (name == "numpy")
    assert (result.model_name, result.data_name) == (STRANGE[name].metadata["id"], "strangers")
    assert result.class_names == NAMES
    rows = [row for row in result.rows if row.attacked]
    assert len(rows) == len(LABELS[RIGHT].unique())
    assert all(1 - 1e-5 <= row.distance / DISTANCE[row.index] <= (5 if name == "numpy" else 1.02) for row in rows)


def test_a_false_certificate_of_a_model_is_refuted():
    def inflated(network, inputs):
        found = lipcert.certify(network, inputs)
        return lipcert.Certificate(
            found.prediction, found.radius * 2, "l2", "best", 0.5, found.layers, "float32", found.assumptions
        )

    result = audit(MODEL, DATASET, certifier=inflated, attacks=[BoundaryWalk()])
    assert result.verdict == "fail"


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int64])
def test_images_of_a_data_set_keep_their_values(dtype):
    images = INPUTS.numpy() if np.issubdtype(dtype, np.floating) else PIXELS.numpy()
    found = image_set_of(Dataset(images.astype(dtype), LABELS, 4))
    assert torch.equal(found.inputs(), INPUTS)
    assert torch.equal(found.labels, LABELS)
    assert found.images.dtype == (torch.float32 if np.issubdtype(dtype, np.floating) else torch.uint8)
    there_and_back = image_set_of(LabelledImages(IMAGES))
    assert torch.equal(there_and_back.inputs(), IMAGES.inputs())


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_model_and_data_set_of_strangers_are_trained(tmp_path):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    images = 0.1 + 0.2 * torch.rand(120, 1, 4, 4, generator=generator)
    images[torch.arange(120), 0, labels] += 0.6
    train, test = (Dataset(images[part].numpy(), labels[part], 3, names="abc") for part in (slice(90), slice(90, 120)))
    torch.manual_seed(0)
    model = ModuleModel(nn.Sequential(nn.Flatten(), nn.utils.parametrizations.orthogonal(nn.Linear(16, 3))))
    network = network_of(model, [item[0] for item in test])
    assert network is model
    data = image_data_of(train, test=test, val_size=18, batch_size=24, seed=0)
    assert (data.name, data.class_names) == ("strangers", ("a", "b", "c"))
    before = ClassifierModel(network).certify(test.images)
    classifier = lipcert.LipschitzClassifier(
        network, nn.CrossEntropyLoss(), num_classes=3, one_hot=False, optimizer=lambda p: torch.optim.Adam(p, lr=0.1)
    )
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(classifier, datamodule=data)
    found, _, _ = evaluate(model=ClassifierModel(network), metric=CleanAccuracyMetric(), dataset=test, batch_size=30)
    assert found["clean_accuracy"] == 1.0
    after = ClassifierModel(network).certify(test.images)
    acr = [average_certified_radius(each.radius, each.prediction, labels[90:]) for each in (before, after)]
    assert acr[1] > acr[0] + 0.1


GOOD = next(iter(Batches(DATASET, batch_size=3)))
IMAGE = INPUTS[0].numpy()
WRONG = {
    "model: no network": (lambda: ClassifierModel(len), "expected a network"),
    "model: output": (lambda: ClassifierModel(NETWORK, output="softmax"), "expected output logits or probabilities"),
    "model: batch size": (lambda: ClassifierModel(NETWORK, batch_size=0), "batch_size >= 1"),
    "model: bounds": (lambda: ClassifierModel(NETWORK, bounds=(1, 1)), "ascending order"),
    "model: id": (lambda: ClassifierModel(NETWORK, id=""), "expected an id"),
    "model: bytes for units": (lambda: MODEL([IMAGE * 255]), r"images in \[0, 1\], got values from"),
    "model: nan": (lambda: MODEL([IMAGE * np.nan]), "finite images"),
    "model: shapes": (lambda: MODEL([IMAGE, IMAGE[:, 1:]]), "images of one shape"),
    "model: nothing": (lambda: MODEL([]), "got none"),
    "model: flat": (lambda: MODEL([IMAGE.ravel()]), r"expected images \(C, H, W\)"),
    "model: no logits": (lambda: ClassifierModel(nn.Identity())([IMAGE]), "expected logits"),
    "model: softmax twice": (
        lambda: ClassifierModel(nn.Sequential(NETWORK, nn.Softmax(1)), output="probabilities")([IMAGE]),
        "got probabilities; choose output='logits'",
    ),
    "model: no run": (lambda: ClassifierModel.from_run("nowhere"), "expected a run directory"),
    "data set: no images": (lambda: LabelledImages(PIXELS), "expected an ImageSet"),
    "data set: labels": (lambda: LabelledImages(IMAGES, class_names=["a", "b"]), "labels from 0 to 1, got 0 to 3"),
    "loader: batch size": (lambda: Batches(DATASET, batch_size=0), "batch_size >= 1"),
    "loader: no data set": (lambda: Batches(iter([])), "with a length and items"),
    "loader: empty": (lambda: Batches([]), "at least one item"),
    "attack: none": (lambda: AttackAugmentation("pgd", MODEL), "an attack of lipcert.attacks, got str"),
    "attack: model": (lambda: AttackAugmentation(BoundaryWalk(), STRANGE["numpy"]), "wrap it by ClassifierModel"),
    "attack: no epsilon": (lambda: AttackAugmentation(FastGradient(), MODEL), "an epsilon for fast-gradient"),
    "attack: epsilon": (lambda: AttackAugmentation(FastGradient(), MODEL, epsilon=-1.0), "epsilon > 0, got -1"),
    "attack: norm": (lambda: AttackAugmentation(BoundaryWalk(), MODEL, norm="linf"), "a norm among l2"),
    "attack: batch": (lambda: ATTACK(GOOD[0][:2]), "images, targets and metadata"),
    "attack: lengths": (lambda: ATTACK((GOOD[0], GOOD[1][:2], GOOD[2])), "got 3, 2 and 3"),
    "attack: metadata": (lambda: ATTACK((GOOD[0], GOOD[1], [1, 2, 3])), "dictionaries"),
    "attack: classes": (lambda: ATTACK((GOOD[0], [0.5, 1, 2], GOOD[2])), "class numbers among the targets"),
    "composed: nothing": (lambda: Composed(), "at least one augmentation"),
    "metric: no attack": (lambda: RobustAccuracyMetric().update([0], [0], [{"id": 0}]), "augmentation=AttackAug"),
    "metric: no certificate": (
        lambda: CertifiedAccuracyMetric([0.5]).update([0], [0], [{"id": 0}]),
        "expected 'radius' in the metadata of every image, got id; evaluate with augmentation=CertifyAug",
    ),
    "metric: epsilon": (lambda: CertifiedAccuracyMetric([-1.0]), "epsilon >= 0"),
    "metric: lengths": (lambda: CleanAccuracyMetric().update([0, 1], [0], [{}]), "got 2, 1 and 1"),
    "metric: nan": (lambda: CleanAccuracyMetric().update([[np.nan, 1]], [0], [{}]), "got nan"),
    "metric: two norms": (
        lambda: PerturbationMetric().update(
            [0, 0], [0, 0], [{"delta": 1.0, "benign_prediction": 0, "norm": norm} for norm in ("l2", "linf")]
        ),
        "deltas in one norm",
    ),
    "back: no model": (lambda: network_of(3, [IMAGE]), "expected a MAITE model"),
    "back: a model that fails": (lambda: network_of(lambda batch: 1 / 0, [IMAGE]), "got an error: division by zero"),
    "back: no scores": (lambda: network_of(lambda batch: [batch[0]], [IMAGE]), "rows"),
    "back: too few": (lambda: network_of(lambda batch: [[0.0, 1.0]], [IMAGE, IMAGE]), r"expected logits \(2, K\)"),
    "back: no data set": (lambda: image_set_of(3), "with a length and items"),
    "back: shapes": (
        lambda: image_set_of(Dataset([IMAGE, IMAGE[:, 1:]], [0, 1], 2)),
        "of one shape, got .* for image 1",
    ),
    "back: units": (lambda: image_set_of(Dataset([IMAGE * 255] * 2, [0, 1], 2)), r"float images in \[0, 1\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_refused_in_one_line(name):
    call, message = WRONG[name]
    with pytest.raises(InputError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
