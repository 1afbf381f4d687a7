"""Readers, lookup, and data modules for image classification."""

from lipcert.data.augment import Augmentation, RandomCrop, RandomHorizontalFlip
from lipcert.data.base import ImageData
from lipcert.data.cifar10 import CIFAR10
from lipcert.data.folder import ImageFolder
from lipcert.data.idx_sets import MNIST, FashionMNIST
from lipcert.data.image_set import ImageSet
from lipcert.data.loader import BatchLoader
from lipcert.data.mini import FashionMNISTMini

__all__ = [
    "CIFAR10",
    "MNIST",
    "Augmentation",
    "BatchLoader",
    "FashionMNIST",
    "FashionMNISTMini",
    "ImageData",
    "ImageFolder",
    "ImageSet",
    "RandomCrop",
    "RandomHorizontalFlip",
]
