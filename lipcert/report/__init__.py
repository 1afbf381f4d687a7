"""The certificate audit report: pure functions of what an audit measured, and one function that writes files."""

from lipcert.report.comparison import Audit, render_comparison
from lipcert.report.document import report_document, report_schema
from lipcert.report.page import render_html
from lipcert.report.write import write_report

__all__ = ["Audit", "render_comparison", "render_html", "report_document", "report_schema", "write_report"]
