"""Certificates: pure mathematics that recomputes every bound from the weights that will be deployed."""

from lipcert.certificates.certificate import Certificate, LayerBound, LipschitzBound
from lipcert.certificates.executed import Executed, execute
from lipcert.certificates.float_error import LogitErrors, logit_errors, norms_upper_bound, rounded_margin_radius
from lipcert.certificates.graph import body_and_head, lipschitz_upper_bound
from lipcert.certificates.margin import (
    ARITHMETICS,
    MARGIN_RULES,
    certify,
    check_inputs,
    class_pair_upper_bounds,
    float64_logits,
    margin_radius,
    pair_upper_bounds_by_rule,
)

__all__ = [
    "ARITHMETICS",
    "MARGIN_RULES",
    "Certificate",
    "Executed",
    "LayerBound",
    "LipschitzBound",
    "LogitErrors",
    "body_and_head",
    "certify",
    "check_inputs",
    "class_pair_upper_bounds",
    "execute",
    "float64_logits",
    "lipschitz_upper_bound",
    "logit_errors",
    "margin_radius",
    "norms_upper_bound",
    "pair_upper_bounds_by_rule",
    "rounded_margin_radius",
]
