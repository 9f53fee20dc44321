"""Trained networks in formats that others load."""

from laparoflow.export.run import ExportSettings, export_run

__all__ = ["ExportSettings", "export_run"]
