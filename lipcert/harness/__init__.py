"""Runs attacks against certificates, keeps the rows and gives the verdict."""

from lipcert.harness.audit import AuditInterrupted, AuditWriteError, Subject, run_audit
from lipcert.harness.budget import BUDGETS, Budget, Stage
from lipcert.harness.power import Power, power
from lipcert.harness.result import AttackRow, AuditResult, GalleryItem, SampleRow
from lipcert.harness.team import Team, launched_team
from lipcert.harness.workplace import Workplace

__all__ = [
    "BUDGETS",
    "AttackRow",
    "AuditInterrupted",
    "AuditResult",
    "AuditWriteError",
    "Budget",
    "GalleryItem",
    "Power",
    "SampleRow",
    "Stage",
    "Subject",
    "Team",
    "Workplace",
    "launched_team",
    "power",
    "run_audit",
]
