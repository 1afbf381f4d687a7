"""Lightning modules: one base classifier and the ways of training it."""

from lipcert.modules.adversarial import AdversarialClassifier
from lipcert.modules.certified_vote import CertifiedVote
from lipcert.modules.classifier import Classifier
from lipcert.modules.detector import DetectorClassifier
from lipcert.modules.distillation import DistilledClassifier
from lipcert.modules.lipschitz import LipschitzClassifier
from lipcert.modules.smoothing import DerandomizedSmoothing

__all__ = [
    "AdversarialClassifier",
    "CertifiedVote",
    "Classifier",
    "DerandomizedSmoothing",
    "DetectorClassifier",
    "DistilledClassifier",
    "LipschitzClassifier",
]
