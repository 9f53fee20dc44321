"""A case: the loss, its options and its size; everything a peer needs to know to do the same work as the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch

PARTS = ("forward", "backward", "both")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Case:
    """One workload: ``frames`` frames of ``pixels`` queries and as many keys, embeddings of ``dim`` channels, flow of 2.

    The loss is the mean over all queries with a gaussian flow kernel and scope "frame"; ``one_hot`` replaces the flow
    weights by one positive per query (plain InfoNCE, the work of a linear cross entropy).

    Attributes:
        threads: CPU threads, 0 = those of the run.
        needs: the embeddings whose gradient is asked for: "both", "query" (frozen or queued keys) or "key".
        deterministic: under torch.use_deterministic_algorithms(True).
    """

    pixels: int
    dim: int = 64
    frames: int = 1
    dtype: str = "float32"
    positives: str = "outside"
    negatives: str = "all"
    symmetric: bool = False
    one_hot: bool = False
    threads: int = 0
    needs: str = "both"
    device: str = "cpu"
    temperature: float = 0.1
    bandwidth: float = 1.0
    deterministic: bool = False

    @property
    def pairs(self) -> int:
        """Query-key pairs of the whole case."""
        return self.frames * self.pixels**2

    @property
    def element_size(self) -> int:
        """Bytes of one element of the embeddings."""
        return DTYPES[self.dtype].itemsize

    @property
    def gradients(self) -> int:
        """How many of dq and dk are asked for."""
        return 2 if self.needs == "both" else 1

    @property
    def gradient_bytes(self) -> int:
        """Bytes of dq and dk, of those that are asked for."""
        return self.gradients * self.frames * self.pixels * self.dim * self.element_size

    @property
    def plain(self) -> bool:
        """True for the one form that every peer of the flow loss is written for (symmetric or not)."""
        return self.positives == "outside" and self.negatives == "all" and not self.one_hot

    @property
    def label(self) -> str:
        """A short name, unique in a results file."""
        words = [
            f"B={self.frames}" if self.frames > 1 else "", f"N={self.pixels} D={self.dim} {self.dtype}",
            "" if self.positives == "outside" else self.positives, "" if self.negatives == "all" else self.negatives,
            "symmetric" if self.symmetric else "", "one-hot" if self.one_hot else "",
            "" if self.needs == "both" else f"{self.needs} gradient only",
            f"{self.threads} thread(s)" if self.threads else "", "deterministic" if self.deterministic else "",
        ]  # fmt: skip
        return " ".join(filter(None, words))
