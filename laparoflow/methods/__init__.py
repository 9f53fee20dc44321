"""Pretraining methods, one file each; :func:`build_method` chooses by name."""

from laparoflow.lazy import lazily
from laparoflow.methods.settings import MethodSettings

__all__ = ["Method", "MethodOutput", "MethodSettings", "PixelView", "build_method"]

__getattr__ = lazily(__name__, base="Method MethodOutput PixelView", build="build_method")
