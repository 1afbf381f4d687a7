"""Attacks: they search for adversarial examples, and nothing that they claim is believed unchecked."""

from lipcert.attacks.ascent import LossAscent
from lipcert.attacks.autoattack import AutoAttack
from lipcert.attacks.base import Attack, Findings, Outcome
from lipcert.attacks.boundary import BoundaryAttack
from lipcert.attacks.boundary_walk import BoundaryWalk
from lipcert.attacks.carlini_wagner import CarliniWagner
from lipcert.attacks.ddn import DecoupledDirection
from lipcert.attacks.deepfool import DeepFool
from lipcert.attacks.elastic_net import ElasticNet
from lipcert.attacks.fmn import FastMinimumNorm
from lipcert.attacks.hop_skip_jump import HopSkipJump
from lipcert.attacks.patch import AdversarialPatch
from lipcert.attacks.pointwise import Pointwise
from lipcert.attacks.projected_gradient import ProjectedGradient
from lipcert.attacks.rescaled import RescaledNetwork
from lipcert.attacks.single_step import FastGradient
from lipcert.attacks.sparse_ascent import SparseAscent
from lipcert.attacks.square import SquareAttack
from lipcert.attacks.task import Norm, Task
from lipcert.attacks.verify import Verified, verify
from lipcert.attacks.vote_patch import VotePatch
from lipcert.attacks.votes import on_votes

__all__ = [
    "AdversarialPatch",
    "Attack",
    "AutoAttack",
    "BoundaryAttack",
    "BoundaryWalk",
    "CarliniWagner",
    "DecoupledDirection",
    "DeepFool",
    "ElasticNet",
    "FastGradient",
    "FastMinimumNorm",
    "Findings",
    "HopSkipJump",
    "LossAscent",
    "Norm",
    "Outcome",
    "Pointwise",
    "ProjectedGradient",
    "RescaledNetwork",
    "SparseAscent",
    "SquareAttack",
    "Task",
    "Verified",
    "VotePatch",
    "on_votes",
    "verify",
]
