"""Lightning modules: one base classifier and the ways of training it."""

from lipcert.modules.classifier import Classifier
from lipcert.modules.lipschitz import LipschitzClassifier

__all__ = ["Classifier", "LipschitzClassifier"]
