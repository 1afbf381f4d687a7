"""Certificates: pure mathematics that recomputes every bound from the weights that will be deployed."""

from lipcert.certificates.ablations import (
    Ablation,
    BlockAblation,
    ColumnAblation,
    ColumnAndRowAblation,
    RowAblation,
)
from lipcert.certificates.certificate import Certificate, LayerBound, LipschitzBound
from lipcert.certificates.encodings import Encoding, encoded_channels, encoded_views
from lipcert.certificates.executed import Executed, execute
from lipcert.certificates.float_error import LogitErrors, logit_errors, norms_upper_bound, rounded_margin_radius
from lipcert.certificates.graph import body_and_head, lipschitz_upper_bound
from lipcert.certificates.l1 import SplittingNoise, grey_levels, l1_certificate
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
from lipcert.certificates.patch import certify_patch, largest_certified_patch, patch_certificate
from lipcert.certificates.votes import hard_votes, predict_votes, threshold_votes, vote_counts

__all__ = [
    "ARITHMETICS",
    "MARGIN_RULES",
    "Ablation",
    "BlockAblation",
    "Certificate",
    "ColumnAblation",
    "ColumnAndRowAblation",
    "Encoding",
    "Executed",
    "LayerBound",
    "LipschitzBound",
    "LogitErrors",
    "RowAblation",
    "SplittingNoise",
    "body_and_head",
    "certify",
    "certify_patch",
    "check_inputs",
    "class_pair_upper_bounds",
    "encoded_channels",
    "encoded_views",
    "execute",
    "float64_logits",
    "grey_levels",
    "hard_votes",
    "l1_certificate",
    "largest_certified_patch",
    "lipschitz_upper_bound",
    "logit_errors",
    "margin_radius",
    "norms_upper_bound",
    "pair_upper_bounds_by_rule",
    "patch_certificate",
    "predict_votes",
    "rounded_margin_radius",
    "threshold_votes",
    "vote_counts",
]
