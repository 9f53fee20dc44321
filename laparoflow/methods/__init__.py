"""Pretraining methods, one file each; :func:`build_method` chooses by name."""

from laparoflow.lazy import lazily
from laparoflow.methods.settings import MethodSettings as MethodSettings

__getattr__ = lazily(__name__, base="Method MethodOutput PixelView", build="build_method")
