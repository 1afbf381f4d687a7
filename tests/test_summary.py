"""The figures of a summary against the certificates themselves."""

import pytest
import torch
from torch import nn

from lipcert import certify
from lipcert.data import ImageSet
from lipcert.summary import measure_certificates

IMAGES = ImageSet(
    torch.randint(0, 256, (40, 1, 3, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    torch.arange(40) % 3,
)


@pytest.mark.parametrize("tail", [(), (nn.ReLU(),)], ids=["linear head", "no linear head"])
def test_figures_are_those_of_certify(tail):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), *tail).requires_grad_(False).eval()
    figures = measure_certificates(network, IMAGES, epsilons=(0.05,))
    certificate = certify(network, IMAGES.inputs())
    right = certificate.prediction == IMAGES.labels
    assert figures["average_certified_radius"] == pytest.approx(certificate.radius[right].sum().item() / 40, abs=1e-6)
    share = (right & (certificate.radius >= 0.05)).float().mean().item()
    assert figures["certified_accuracy"]["0.05"] == pytest.approx(share, abs=1e-6)  # figures have six decimals
    assert set(figures["rules"]) == ({"joint"} if tail else {"joint", "per-class", "pairwise"})
