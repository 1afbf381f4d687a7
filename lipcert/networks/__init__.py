"""Architectures: plain functions that return an ``nn.Module``."""

from lipcert.networks.hkr import hkr_convnet

__all__ = ["hkr_convnet"]
