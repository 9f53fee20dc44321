"""Laparoflow: dense self-supervised pretraining on surgical video, guided by optical flow."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("laparoflow")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
