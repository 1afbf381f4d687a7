"""A training that starts from trained weights."""

import pytest
import torch
from deel import torchlip

from lipcert import export, save_network
from lipcert.checkpoints import load_checkpoint
from lipcert.errors import InputError
from lipcert.modules import Classifier
from lipcert.networks import cnn
from lipcert.runs import read_config
from lipcert.train import main
from lipcert.weights import start_from

TINY = {"input_shape": [1, 28, 28], "stages": [[2, 0]], "widths": []}
SMALL = [
    "--model=lipcert.modules.Classifier",
    "--model.init_args.network=lipcert.networks.cnn",
    "--model.init_args.network.init_args.stages=[[2,0]]",
    "--model.init_args.network.init_args.widths=[]",
    "--model.init_args.loss=torch.nn.CrossEntropyLoss",
    "--data=lipcert.data.FashionMNISTMini",
    "--data.val_size=100",
    "--trainer.limit_train_batches=2",
    "--trainer.max_epochs=1",
    "--trainer.enable_progress_bar=false",
]


def train(folder, *arguments):
    configuration = folder / "plain.yaml"
    configuration.write_text("seed_everything: 0\nname: plain\n")
    return main(["--config", str(configuration), f"--output={folder}", *SMALL, *arguments])


def weights(run, which="last"):
    return load_checkpoint(run / "checkpoints" / f"{which}.ckpt")["state_dict"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    assert train(folder) == 0
    return folder / "plain"


def module():
    torch.manual_seed(9)
    return Classifier(cnn(**TINY), torch.nn.CrossEntropyLoss())


@pytest.mark.parametrize("source", ["", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "network.safetensors"])
def test_every_form_of_trained_weights(run, source):
    model = module()
    start_from(run / source, model)
    assert torch.equal(model.network[0].weight, weights(run)["network.0.weight"])


def test_a_new_run_starts_from_them_and_reruns_as_it_is(run, tmp_path):
    frozen = "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.0}}"
    assert train(tmp_path, f"--weights={run}", frozen) == 0
    hardened = tmp_path / "plain"
    assert torch.equal(weights(hardened)["network.0.weight"], weights(run)["network.0.weight"])
    assert load_checkpoint(hardened / "checkpoints" / "last.ckpt")["global_step"] == 2, "it is a run of its own"
    assert read_config(hardened)["weights"] == str(run)


def test_a_resumed_run_goes_on_from_its_own_checkpoint(run, tmp_path):
    assert train(tmp_path, f"--weights={run / 'network.safetensors'}") == 0
    configuration = tmp_path / "plain" / "config.yaml"
    text = configuration.read_text().replace(str(run), "/nowhere")  # which are not needed any more
    configuration.write_text(text)
    assert main(["--resume", str(tmp_path / "plain"), "--trainer.max_epochs=2"]) == 0


def test_constraints_are_started_from_a_checkpoint(tmp_path):
    network = torchlip.Sequential(torch.nn.Flatten(), torchlip.SpectralLinear(784, 10))
    constrained = Classifier(network, torch.nn.CrossEntropyLoss())
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": constrained.state_dict()}, tmp_path / "checkpoints" / "best.ckpt")
    other = Classifier(
        torchlip.Sequential(torch.nn.Flatten(), torchlip.SpectralLinear(784, 10)), torch.nn.CrossEntropyLoss()
    )
    start_from(tmp_path, other)
    inputs = torch.rand(3, 1, 28, 28)
    assert torch.equal(export(other.network)(inputs), export(network)(inputs))


class Code:
    def __reduce__(self):
        return (print, ("executed",))


def test_no_pickle_is_executed(tmp_path, capsys):
    torch.save({"state_dict": {"network.0.weight": Code()}}, tmp_path / "bad.ckpt")
    with pytest.raises(InputError, match="cannot be read without running its code"):
        start_from(tmp_path / "bad.ckpt", module())
    assert "executed" not in capsys.readouterr().out


def test_what_is_no_such_network_is_refused(tmp_path, capsys):
    with pytest.raises(InputError, match=r"^expected a run directory with a checkpoint or an exported network, found"):
        start_from(tmp_path, module())
    with pytest.raises(InputError, match=r"^expected a file of weights, found none at"):
        start_from(tmp_path / "none.ckpt", module())
    other = {**TINY, "stages": [[3, 0]]}
    save_network(export(cnn(**other)), tmp_path / "network.safetensors", cnn, **other)
    with pytest.raises(SystemExit):
        train(tmp_path, f"--weights={tmp_path}")
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("lipcert train: error: expected the tensors of Sequential in")
    assert not (tmp_path / "plain").exists(), "nothing is left of a run that never began"
    with pytest.raises(InputError, match=r"^expected a module with a network"):
        start_from(tmp_path, torch.nn.Flatten())
