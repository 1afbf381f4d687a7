"""Losses for certified training, each called with logits and either classes or one-hot targets.

torchlip's own (``deel.torchlip.HKRMulticlassLoss``, ``SoftHKRMulticlassLoss``, ``LseHKRMulticlassLoss``) are named in a
configuration by their class paths and need no place here. None of these losses proves anything: certificates come from
the exported weights.
"""

from lipcert.losses.annealing import LogitAnnealing, OffsetCrossEntropy
from lipcert.losses.distillation import DistillationLoss
from lipcert.losses.emma import EMMA
from lipcert.losses.pairs import PairwiseLoss, head_pair_bounds, head_weight
from lipcert.losses.radius import CertificateRegularised, CertifiedRadiusLoss
from lipcert.losses.trades import TradesLoss
from lipcert.losses.votes import CertifiedVoteLoss

__all__ = [
    "EMMA",
    "CertificateRegularised",
    "CertifiedRadiusLoss",
    "CertifiedVoteLoss",
    "DistillationLoss",
    "LogitAnnealing",
    "OffsetCrossEntropy",
    "PairwiseLoss",
    "TradesLoss",
    "head_pair_bounds",
    "head_weight",
]
