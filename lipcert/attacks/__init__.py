"""Attacks: they search for adversarial examples, and nothing that they claim is believed unchecked."""

from lipcert.attacks.base import Attack, Findings, Outcome
from lipcert.attacks.carlini_wagner import CarliniWagner
from lipcert.attacks.task import Norm, Task
from lipcert.attacks.verify import Verified, verify

__all__ = ["Attack", "CarliniWagner", "Findings", "Norm", "Outcome", "Task", "Verified", "verify"]
