"""Classes and joints without a label: named where others have some, an error where none has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from laparoflow.datasets.samples import DatasetError, FrameDataset


def without_labels(names: Sequence[str], amounts: Iterable[Any]) -> list[str]:
    """The names that no frame has a label of; each frame gives its amount of label per name, in the same order."""
    frames = list(amounts)
    return [name for k, name in enumerate(names) if not any(float(frame[k]) > 0 for frame in frames)]


def name_lacking(lacking: Sequence[str], names: Sequence[str], dataset: FrameDataset[Any], which: str) -> list[str]:
    """A sentence about the classes or joints that lack labels, if any do.

    Args:
        lacking: those without a label.
        names: all of them.
        dataset: the frames that were read, for what their reader has to tell.
        which: the frames in words, such as "the 22 labelled frames".

    Raises:
        DatasetError: all are lacking, so that there is nothing to learn from or to score.
    """
    if len(lacking) == len(names):
        hints = "; ".join(["", *dataset.warnings])
        raise DatasetError(f"{dataset.name}: {which} have no label of any of {', '.join(names)}{hints}")
    return [f"{which} have no label of {', '.join(lacking)}"] if lacking else []
