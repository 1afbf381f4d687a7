"""Certificates: pure mathematics that recomputes every bound from the weights that will be deployed."""

from lipcert.certificates.certificate import Certificate, LayerBound, LipschitzBound
from lipcert.certificates.graph import body_and_head, lipschitz_upper_bound
from lipcert.certificates.margin import (
    MARGIN_RULES,
    certify,
    check_inputs,
    class_pair_upper_bounds,
    float64_logits,
    margin_radius,
)

__all__ = [
    "MARGIN_RULES",
    "Certificate",
    "LayerBound",
    "LipschitzBound",
    "body_and_head",
    "certify",
    "check_inputs",
    "class_pair_upper_bounds",
    "float64_logits",
    "lipschitz_upper_bound",
    "margin_radius",
]
