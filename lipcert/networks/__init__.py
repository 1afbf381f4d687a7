"""Architectures: plain functions that return an ``nn.Module``."""

from lipcert.networks.conv import conv_network
from lipcert.networks.dense import dense_network
from lipcert.networks.hkr import hkr_convnet
from lipcert.networks.residual import ConvexResidual, residual_network, residual_network_large
from lipcert.networks.shift import shift_network, shift_network_large
from lipcert.networks.window import window_network

__all__ = [
    "ConvexResidual",
    "conv_network",
    "dense_network",
    "hkr_convnet",
    "residual_network",
    "residual_network_large",
    "shift_network",
    "shift_network_large",
    "window_network",
]
