"""Pretraining methods, one file each; :func:`build_method` chooses by name."""

from laparoflow.methods.base import Method, MethodOutput, PixelView
from laparoflow.methods.settings import MethodSettings, build_method

__all__ = ["Method", "MethodOutput", "MethodSettings", "PixelView", "build_method"]
