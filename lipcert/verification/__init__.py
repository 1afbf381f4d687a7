"""A second, slower proof of a report's certificates; it shares no code with ``lipcert.certificates``."""

from lipcert.verification.check import findings, verify_report
from lipcert.verification.finding import Finding

__all__ = ["Finding", "findings", "verify_report"]
