"""A second, slower proof of a report's certificates; it shares no code with ``lipcert.certificates``."""

from lipcert.verification.check import Finding, findings, verify_report

__all__ = ["Finding", "findings", "verify_report"]
