"""Every notebook runs from top to bottom, in a small configuration."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SMALL = {
    "adversarial_examples.ipynb": 'dataset = "FashionMNISTMini"\nepochs = 1\nsamples = 16\n',
    "defenses.ipynb": 'dataset = "FashionMNISTMini"\nepochs = 1\nsamples = 30\nsteps = 3\n',
    "derandomized_smoothing.ipynb": 'dataset = "FashionMNISTMini"\nepochs = 1\nsamples = 8\nlevels = 60\n',
    "hkr_fashion_mnist.ipynb": 'dataset = "FashionMNISTMini"\nepochs = 1\nattack_steps = 20\n',
    "squeezing_and_distillation.ipynb": (
        'dataset = "FashionMNISTMini"\nepochs = 1\nsamples = 30\nsteps = 3\ntemperatures = [1, 50]\n'
    ),
}


def test_every_notebook_has_a_small_configuration():
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} == set(SMALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the notebook client and the kernel it starts, which is another process
@pytest.mark.parametrize("name", sorted(SMALL))
def test_notebook_runs(name, tmp_path):
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    parameters = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == 1
    parameters[0].source = SMALL[name]
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert bool(list(tmp_path.rglob("report.html"))) == (name == "hkr_fashion_mnist.ipynb")
