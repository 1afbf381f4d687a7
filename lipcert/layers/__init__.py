"""1-Lipschitz layers that deel-torchlip lacks or is slow at."""

from lipcert.layers.activations import HalfAbs, HouseHolder, MaxMin
from lipcert.layers.centering import BatchCentering
from lipcert.layers.group_sort import GroupSort2
from lipcert.layers.heads import NormalizedLinear
from lipcert.layers.orthogonal import OrthogonalConv2d, OrthogonalLinear
from lipcert.layers.pooling import L2NormPool2d
from lipcert.layers.shift import SpatialShift
from lipcert.layers.stiefel import keep_orthogonal, project_, project_gradients_, retract_
from lipcert.layers.windows import MovedWindows

__all__ = [
    "BatchCentering",
    "GroupSort2",
    "HalfAbs",
    "HouseHolder",
    "L2NormPool2d",
    "MaxMin",
    "MovedWindows",
    "NormalizedLinear",
    "OrthogonalConv2d",
    "OrthogonalLinear",
    "SpatialShift",
    "keep_orthogonal",
    "project_",
    "project_gradients_",
    "retract_",
]
