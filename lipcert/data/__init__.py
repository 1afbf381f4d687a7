"""Readers, lookup, and data modules for image classification."""

from lipcert.data.arrays import ImageArrays
from lipcert.data.augment import Augmentation, RandomCrop, RandomHorizontalFlip
from lipcert.data.base import ImageData
from lipcert.data.cifar10 import CIFAR10
from lipcert.data.columns import data_of_columns, image_set_of_columns
from lipcert.data.folder import ImageFolder
from lipcert.data.idx_sets import MNIST, FashionMNIST
from lipcert.data.image_set import ImageSet, ImageSource
from lipcert.data.loader import BatchLoader
from lipcert.data.mini import FashionMNISTMini
from lipcert.data.streamed import StreamedArrays
from lipcert.data.tensors import ImageTensors, image_set

__all__ = [
    "CIFAR10",
    "MNIST",
    "Augmentation",
    "BatchLoader",
    "FashionMNIST",
    "FashionMNISTMini",
    "ImageArrays",
    "ImageData",
    "ImageFolder",
    "ImageSet",
    "ImageSource",
    "ImageTensors",
    "RandomCrop",
    "RandomHorizontalFlip",
    "StreamedArrays",
    "data_of_columns",
    "image_set",
    "image_set_of_columns",
]
