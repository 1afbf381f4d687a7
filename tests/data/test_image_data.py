import gzip
import hashlib
import struct
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch.nn import functional as F

from lipcert.data import MNIST, FashionMNIST, FashionMNISTMini, ImageData, ImageSet, RandomCrop, RandomHorizontalFlip
from lipcert.data.idx_sets import FILES
from lipcert.errors import InputError


class Given(ImageData):
    """Forty training and twenty test images of three classes; each image's pixels are its position."""

    name = "given"
    class_names = ("a", "b", "c")
    labels = torch.arange(40) % 3

    def _read(self, part):
        count = 40 if part == "train" else 20
        images = torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1).repeat(1, 1, 2, 2)
        return ImageSet(images, self.labels[:count])


def members(images):
    return set(images.images[:, 0, 0, 0].tolist())


@pytest.mark.parametrize("val_size", [1, 10, 0.25, 39])
def test_training_and_validation_are_a_partition_that_no_seed_moves(val_size):
    data = Given(val_size=val_size)
    train, val = members(data.split("train")), members(data.split("val"))
    assert len(val) == (10 if val_size == 0.25 else val_size)
    assert not train & val
    assert train | val == set(range(40))
    torch.manual_seed(123)
    assert members(Given(val_size=val_size, seed=9).split("val")) == val


def test_validation_is_a_random_sample():
    assert members(Given(val_size=10).split("val")) not in ({*range(10)}, {*range(30, 40)})


def test_the_first_validation_images_are_a_random_sample_of_files_sorted_by_class():
    data = Given(val_size=20)
    data.labels = data.labels.sort().values
    labels = data.split("val").labels
    assert set(labels[:10].tolist()) == {0, 1, 2}
    assert not torch.equal(labels, labels.sort().values)


def test_a_run_without_validation():
    data = Given(val_size=0)
    assert len(data.split("train")) == 40
    assert data.val_dataloader() == []
    with pytest.raises(InputError, match="val_size >= 1"):
        data.split("val")


def test_the_seed_is_the_argument_or_else_that_of_the_run():
    def first_labels(**options):
        return next(iter(Given(val_size=0, batch_size=40, **options).train_dataloader()))[0].flatten().tolist()

    torch.manual_seed(1)
    of_run_1, of_seed_5 = first_labels(), first_labels(seed=5)
    assert first_labels() == of_run_1
    torch.manual_seed(2)
    assert first_labels() != of_run_1
    assert first_labels(seed=5) == of_seed_5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size >= 1, got 0"),
        ({"eval_batch_size": 0}, "eval_batch_size >= 1, got 0"),
        ({"val_size": -1}, "val_size >= 0, .* got -1"),
        ({"val_size": 2.5}, "val_size >= 0, a whole number or a share below 1, got 2.5"),
        ({"val_size": 40}, "val_size to hold out at least one and fewer than 40 images, got 40"),
        ({"val_size": 0.001}, "val_size to hold out at least one and fewer than 40 images, got 0.001"),
    ],
)
def test_sizes_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Given(**options).split("train")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.full((40,), 1), "at least two classes"),
        (torch.arange(40) % 4, "labels from 0 to 2, got 0 to 3"),
        (torch.arange(40) % 3 - 1, "labels from 0 to 2, got -1 to 1"),
    ],
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_unusable_labels_are_refused(monkeypatch, labels, message, part):
    monkeypatch.setattr(Given, "labels", labels)
    with pytest.raises(InputError, match=message):
        Given(val_size=4).split(part)


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="train, val or test"):
        Given().split("validation")


def write_idx(folder, monkeypatch, kind, labels=None):
    """Forty training and twenty test images of 28 x 28, with checksums to match."""
    generator = torch.Generator().manual_seed(0)
    checksums = {}
    for file in FILES:
        count = 40 if file.startswith("train") else 20
        shape = (count, 28, 28) if "images" in file else (count,)
        values = torch.randint(256 if "images" in file else 10, shape, generator=generator, dtype=torch.uint8)
        if labels is not None and "labels" in file:
            values = labels[:count].to(torch.uint8)
        content = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values.numpy().tobytes()
        (folder / f"{file}.gz").write_bytes(gzip.compress(content))
        checksums[file] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(kind, "checksums", checksums)
    return folder


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_idx_sets_read_their_four_files(tmp_path, monkeypatch, kind):
    data = kind(root=write_idx(tmp_path, monkeypatch, kind), val_size=5)
    data.prepare_data()
    assert [len(data.split(which)) for which in ("train", "val", "test")] == [35, 5, 20]
    assert (data.input_shape, data.num_classes) == ((1, 28, 28), 10)


def test_a_file_that_is_not_the_official_one_is_refused(tmp_path):
    good = FashionMNISTMini()._paths()
    for path in good:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"expected content with sha256 .*train-images"):
        FashionMNIST(root=tmp_path).split("train")


class Linear(LightningModule):
    """Logistic regression that records the labels it saw."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(784, 10)
        self.seen = []

    def training_step(self, batch, _):
        inputs, labels = batch
        self.seen.append((inputs.sum().item(), labels.tolist()))
        return F.cross_entropy(self.layer(inputs.flatten(1)), labels)

    def validation_step(self, batch, _):
        self.log("val_loss", F.cross_entropy(self.layer(batch[0].flatten(1)), batch[1]))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", F.cross_entropy(self.layer(batch[0].flatten(1)), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


# Lightning 2.6 on torch 2.13 warns about its own use of torch.utils._pytree.
lightning_only = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, **quiet, **options)


@pytest.fixture
def small(tmp_path, monkeypatch):
    def make(**options):
        augment = [RandomCrop(), RandomHorizontalFlip()]
        return FashionMNIST(root=tmp_path, batch_size=8, augment=augment, seed=3, **options)

    write_idx(tmp_path, monkeypatch, FashionMNIST)
    return make


@lightning_only
@pytest.mark.parametrize("val_size", [0, 6])
def test_a_trainer_takes_it_without_warnings(tmp_path, small, val_size):
    model, run = Linear(), trainer(tmp_path, fast_dev_run=True)
    run.fit(model, datamodule=small(val_size=val_size))
    run.test(model, datamodule=small(val_size=val_size))
    assert len(model.seen) == 1
    assert ("val_loss" in run.callback_metrics) is False  # the last run was the test
    assert "test_loss" in run.callback_metrics


@lightning_only
def test_a_trainer_draws_a_new_order_every_epoch(tmp_path, small):
    model = Linear()
    trainer(tmp_path, max_epochs=2, enable_checkpointing=False).fit(model, datamodule=small(val_size=0))
    assert len(model.seen) == 10
    assert model.seen[:5] != model.seen[5:]


class SaveEachStep(Callback):
    """A checkpoint after every training step, named for the number of steps done."""

    def on_train_batch_end(self, trainer, *_):
        trainer.save_checkpoint(Path(trainer.default_root_dir) / f"{trainer.global_step}.ckpt")


@lightning_only
@pytest.mark.parametrize("step", [3, 4, 5, 7, 10])
def test_a_run_resumed_from_a_checkpoint_sees_exactly_the_batches_it_would_have_seen(tmp_path, small, step):
    whole, resumed = Linear(), Linear()
    options = {"max_epochs": 3, "enable_checkpointing": False}
    trainer(tmp_path, callbacks=[SaveEachStep()], **options).fit(whole, datamodule=small(val_size=0))
    checkpoint = tmp_path / f"{step}.ckpt"
    trainer(tmp_path, **options).fit(resumed, datamodule=small(val_size=0), ckpt_path=checkpoint, weights_only=True)
    assert len(whole.seen) == 15
    assert resumed.seen == whole.seen[step:]
    assert torch.equal(resumed.layer.weight, whole.layer.weight)
