"""Metrics: pure functions, and the torchmetrics state around them."""

from lipcert.metrics.attacked import (
    AdversarialAccuracy,
    CleanAccuracy,
    RobustAccuracy,
    SuccessfulPerturbation,
    adversarial_accuracy,
    clean_accuracy,
    mean_perturbation,
    median_perturbation,
    robust_accuracy,
    successful,
    withstands,
)
from lipcert.metrics.certified import (
    AverageCertifiedRadius,
    CertifiedAccuracy,
    KantorovichRubinstein,
    average_certified_radius,
    certified_accuracy,
    check_epsilons,
)
from lipcert.metrics.detection import (
    AccuracyWithRejection,
    Detection,
    DetectionRates,
    accuracy_with_rejection,
    detection_rates,
)
from lipcert.metrics.state import MeanLoss
from lipcert.metrics.transfer import TransferMatrix, transfer_matrix

__all__ = [
    "AccuracyWithRejection",
    "AdversarialAccuracy",
    "AverageCertifiedRadius",
    "CertifiedAccuracy",
    "CleanAccuracy",
    "Detection",
    "DetectionRates",
    "KantorovichRubinstein",
    "MeanLoss",
    "RobustAccuracy",
    "SuccessfulPerturbation",
    "TransferMatrix",
    "accuracy_with_rejection",
    "adversarial_accuracy",
    "average_certified_radius",
    "certified_accuracy",
    "check_epsilons",
    "clean_accuracy",
    "detection_rates",
    "mean_perturbation",
    "median_perturbation",
    "robust_accuracy",
    "successful",
    "transfer_matrix",
    "withstands",
]
