"""Runs attacks against certificates, keeps the rows and gives the verdict."""

from lipcert.harness.audit import AuditInterrupted, Subject, run_audit
from lipcert.harness.result import AttackRow, AuditResult, GalleryItem, SampleRow

__all__ = ["AttackRow", "AuditInterrupted", "AuditResult", "GalleryItem", "SampleRow", "Subject", "run_audit"]
