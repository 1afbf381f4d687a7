"""MAITE's protocols for image classification: lipcert's parts as theirs, and their models and data sets as lipcert's.

The protocols are structural; maite itself is not imported. Everything here passes ``maite.tasks.evaluate`` of MAITE
0.9.2 and newer, whose ``Metric.update`` takes three arguments. Nothing that is handed in is changed.

====================== ================================================================================================
MAITE                  here
====================== ================================================================================================
Model                  :class:`ClassifierModel` of any network, certified or defended as it may be
Dataset, DataLoader    :class:`LabelledImages`, :class:`Batches`
Augmentation           :class:`AttackAugmentation`, :class:`CertifyAugmentation`, :class:`Composed`
Metric                 :class:`CleanAccuracyMetric`, :class:`RobustAccuracyMetric`, :class:`AdversarialAccuracyMetric`,
                       :class:`CertifiedAccuracyMetric`, :class:`PerturbationMetric`
back to lipcert        :func:`network_of`, :func:`image_set_of`, :func:`image_data_of`, :func:`audit`
====================== ================================================================================================
"""

from lipcert.interop.maite.augmentations import AttackAugmentation, CertifyAugmentation, Composed
from lipcert.interop.maite.data import Batches, LabelledImages
from lipcert.interop.maite.foreign import audit, image_data_of, image_set_of, network_of
from lipcert.interop.maite.metrics import (
    AdversarialAccuracyMetric,
    CertifiedAccuracyMetric,
    CleanAccuracyMetric,
    PerturbationMetric,
    RobustAccuracyMetric,
)
from lipcert.interop.maite.models import ClassifierModel

__all__ = [
    "AdversarialAccuracyMetric",
    "AttackAugmentation",
    "Batches",
    "CertifiedAccuracyMetric",
    "CertifyAugmentation",
    "ClassifierModel",
    "CleanAccuracyMetric",
    "Composed",
    "LabelledImages",
    "PerturbationMetric",
    "RobustAccuracyMetric",
    "audit",
    "image_data_of",
    "image_set_of",
    "network_of",
]
