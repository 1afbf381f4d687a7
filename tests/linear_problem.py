"""Linear classifiers: the exact distance to every decision boundary is known."""

import torch
from torch import nn


def linear_network(weight, bias=None):
    """Flatten and one linear layer, in eval mode."""
    classes, size = weight.shape
    network = nn.Sequential(nn.Flatten(), nn.Linear(size, classes)).eval()
    with torch.no_grad():
        network[1].weight.copy_(weight)
        network[1].bias.copy_(torch.zeros(classes) if bias is None else bias)
    return network


@torch.no_grad()
def linear_problem(samples=24, classes=4, size=16, seed=0):
    """A network and 8-bit images (N, 1, 4, size / 4), whose nearest boundary point lies inside the box.

    Returns:
        network, images (N, 1, 4, size / 4) uint8, predictions (N,), exact float64 distances (N,).
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, size, generator=generator)
    images = torch.randint(64, 192, (40 * samples, 1, 4, size // 4), dtype=torch.uint8, generator=generator)
    network = linear_network(weight, -weight.sum(1) / 2)
    inputs, exact = images.float() / 255, network[1].weight.double()
    logits = inputs.flatten(1).double() @ exact.T + network[1].bias.double()
    prediction = logits.argmax(1)
    normals = exact[prediction][:, None] - exact
    gaps = (logits.gather(1, prediction[:, None]) - logits) / normals.norm(dim=2)
    distance, nearest = gaps.nan_to_num(torch.inf).min(1)
    normal = normals[torch.arange(len(inputs)), nearest]
    foot = inputs.flatten(1) - (distance / normal.norm(dim=1))[:, None] * normal
    inside = ((foot > 0.02) & (foot < 0.98)).all(1) & (distance > 0.01)
    chosen = inside.nonzero().flatten()[:samples]
    assert len(chosen) == samples
    return network, images[chosen], prediction[chosen], distance[chosen]
