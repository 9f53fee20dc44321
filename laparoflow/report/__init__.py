"""Pictures and the HTML page."""

from laparoflow.report.html import write_report

__all__ = ["write_report"]
