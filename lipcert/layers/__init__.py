"""1-Lipschitz layers that deel-torchlip lacks or is slow at."""

from lipcert.layers.group_sort import GroupSort2
from lipcert.layers.pooling import L2NormPool2d

__all__ = ["GroupSort2", "L2NormPool2d"]
