"""Defenses: input transformations, detectors and post-processing. They are attacked like everything else."""

from lipcert.defenses.base import Gradient, Transformation
from lipcert.defenses.binary_detector import BinaryDetector
from lipcert.defenses.bit_depth import BitDepth
from lipcert.defenses.gaussian import GaussianSmoothing
from lipcert.defenses.jpeg import JPEG
from lipcert.defenses.median import MedianFilter
from lipcert.defenses.postprocessing import HighConfidence, ReverseSigmoid, RoundedProbabilities
from lipcert.defenses.resample import Resample
from lipcert.defenses.squeezing import SqueezingDetector
from lipcert.defenses.total_variation import TotalVariation
from lipcert.defenses.transformed import TransformedNetwork

__all__ = [
    "JPEG",
    "BinaryDetector",
    "BitDepth",
    "GaussianSmoothing",
    "Gradient",
    "HighConfidence",
    "MedianFilter",
    "Resample",
    "ReverseSigmoid",
    "RoundedProbabilities",
    "SqueezingDetector",
    "TotalVariation",
    "Transformation",
    "TransformedNetwork",
]
