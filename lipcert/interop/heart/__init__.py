"""HEART's names: a script of its classifier, attacks and metrics runs here with its imports changed and nothing else.

The names, arguments and results are those of HEART 0.7 and of the ART attacks that its guides use. What lies behind
them is lipcert's, and differs where the originals are known to be wrong: the network is put into eval mode; what is
handed in is never changed; metrics add up batches, take one-hot targets and a third argument; images that are wrong to
begin with are not attacked; ``mean_delta`` is of the attacks that succeeded; ``AutoAttack`` is the official ensemble.
"""

from lipcert.interop.heart.attacks import JaticAttack
from lipcert.interop.heart.classifier import JaticPyTorchClassifier
from lipcert.interop.heart.evasion import (
    AutoAttack,
    FastGradientMethod,
    HopSkipJump,
    ProjectedGradientDescent,
    ProjectedGradientDescentPyTorch,
)
from lipcert.interop.heart.metrics import AccuracyPerturbationMetric, HeartAccuracyMetric

__all__ = [
    "AccuracyPerturbationMetric",
    "AutoAttack",
    "FastGradientMethod",
    "HeartAccuracyMetric",
    "HopSkipJump",
    "JaticAttack",
    "JaticPyTorchClassifier",
    "ProjectedGradientDescent",
    "ProjectedGradientDescentPyTorch",
]
