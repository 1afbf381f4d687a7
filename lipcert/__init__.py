"""Train Lipschitz-constrained classifiers, certify them, and try hard to prove the certificates wrong.

The names below are the library; they are imported when first used, so that ``import lipcert`` is quick. The rest is in
``lipcert.data``, ``lipcert.networks``, ``lipcert.layers``, ``lipcert.modules``, ``lipcert.metrics``,
``lipcert.certificates``, ``lipcert.attacks``, ``lipcert.harness``, ``lipcert.report``, ``lipcert.verification`` and
``lipcert.zoo``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lipcert._version import __version__
from lipcert.errors import InputError

if TYPE_CHECKING:
    from lipcert.certificates import Certificate, LayerBound, LipschitzBound, certify, lipschitz_upper_bound
    from lipcert.certificates.lower_bound import lipschitz_lower_bound
    from lipcert.deployment import export, load_network, save_network
    from lipcert.harness import run_audit
    from lipcert.metrics import AverageCertifiedRadius, CertifiedAccuracy
    from lipcert.modules import LipschitzClassifier
    from lipcert.report import write_report
    from lipcert.runs import Run, load_run
    from lipcert.verification import verify_report
    from lipcert.zoo import load

__all__ = [
    "AverageCertifiedRadius",
    "Certificate",
    "CertifiedAccuracy",
    "InputError",
    "LayerBound",
    "LipschitzBound",
    "LipschitzClassifier",
    "Run",
    "__version__",
    "certify",
    "export",
    "lipschitz_lower_bound",
    "lipschitz_upper_bound",
    "load",
    "load_network",
    "load_run",
    "run_audit",
    "save_network",
    "verify_report",
    "write_report",
]

_HOMES = {
    "certificates": ("Certificate", "LayerBound", "LipschitzBound", "certify", "lipschitz_upper_bound"),
    "certificates.lower_bound": ("lipschitz_lower_bound",),
    "deployment": ("export", "load_network", "save_network"),
    "harness": ("run_audit",),
    "metrics": ("AverageCertifiedRadius", "CertifiedAccuracy"),
    "modules": ("LipschitzClassifier",),
    "report": ("write_report",),
    "runs": ("Run", "load_run"),
    "verification": ("verify_report",),
    "zoo": ("load",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'lipcert' has no attribute {name!r}")
    return getattr(import_module(f"lipcert.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
