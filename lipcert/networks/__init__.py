"""Architectures: plain functions that return an ``nn.Module``."""

from lipcert.networks.dense import dense_network
from lipcert.networks.hkr import hkr_convnet

__all__ = ["dense_network", "hkr_convnet"]
