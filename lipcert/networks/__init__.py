"""Architectures: plain functions that return an ``nn.Module``."""

from lipcert.networks.cnn import cnn
from lipcert.networks.conv import conv_network
from lipcert.networks.crops import CropNetwork
from lipcert.networks.dense import dense_network
from lipcert.networks.hkr import hkr_convnet
from lipcert.networks.residual import ConvexResidual, residual_network, residual_network_large
from lipcert.networks.resnet import resnet, resnet_small_images
from lipcert.networks.shift import shift_network, shift_network_large
from lipcert.networks.smoothed import PatchVerdict, SmoothedNetwork
from lipcert.networks.splitting import SplittingNetwork
from lipcert.networks.vit import VisionTransformer, vit_large_images, vit_small_images
from lipcert.networks.window import window_network

__all__ = [
    "ConvexResidual",
    "CropNetwork",
    "PatchVerdict",
    "SmoothedNetwork",
    "SplittingNetwork",
    "VisionTransformer",
    "cnn",
    "conv_network",
    "dense_network",
    "hkr_convnet",
    "residual_network",
    "residual_network_large",
    "resnet",
    "resnet_small_images",
    "shift_network",
    "shift_network_large",
    "vit_large_images",
    "vit_small_images",
    "window_network",
]
