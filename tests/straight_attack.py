"""The exact attack on a linear network: what a test of the harness uses, since it costs nothing."""

from dataclasses import dataclass

import torch

from lipcert.attacks import Attack


@dataclass(frozen=True)
class Straight(Attack):
    """Walks to the nearest boundary of Flatten and Linear, and a little beyond.

    Args:
        beyond: how much farther, as a share of the distance.
        shaky: adds noise of this size, drawn from the task's seed, to how far it goes beyond.
    """

    name = "straight"

    beyond: float = 1e-3
    shaky: float = 0.0

    def run(self, model, task):
        logits = model(task.inputs)
        weight = model.network[1].weight
        places = torch.arange(len(task.inputs))
        normals = weight[task.labels][:, None] - weight
        gaps = (logits[places, task.labels][:, None] - logits) / normals.norm(dim=2)
        distance, nearest = gaps.nan_to_num(torch.inf).min(1)
        normal = normals[places, nearest] / normals[places, nearest].norm(dim=1, keepdim=True)
        noise = torch.rand(len(places), generator=torch.Generator().manual_seed(task.seed))
        length = distance * (1 + self.beyond + self.shaky * noise)
        return (task.inputs.flatten(1) - length[:, None] * normal).clamp(0, 1).view_as(task.inputs)

    def forward_budget(self, samples):
        return samples
