"""Training on one data set and testing on another through classes that both have.

A class map is a YAML file, shipped in `class_maps/` or one's own: a version, and variants, each with the common classes
and, per data set, which of its classes becomes which common one. What is not listed is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from laparoflow.datasets.reading import DatasetError
from laparoflow.datasets.samples import IGNORE_INDEX, Frame, SegmentationDataset, SegmentationSample

FOLDER = Path(__file__).with_name("class_maps")


@dataclass(frozen=True)
class ClassMap:
    """One variant of a class map: its common classes, and data set name -> its class -> the common class."""

    name: str
    version: int
    variant: str
    classes: tuple[str, ...]
    sources: dict[str, dict[str, str]]

    @property
    def record(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "variant": self.variant}


def class_map_names() -> tuple[str, ...]:
    """Names of the maps that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_class_map(name: str, variant: str = "default") -> ClassMap:
    """Loads a class map by its name in the package, or by the path of a YAML file; a ValueError where there is none."""
    path = FOLDER / f"{name}.yaml" if name in class_map_names() else Path(name)
    if not path.is_file():
        raise ValueError(f"class_map must be one of {', '.join(class_map_names())} or a YAML file, got {name!r}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        variants, version = dict(content["variants"]), int(content["version"])
        if variant not in variants:
            raise ValueError(f"class_map_variant must be one of {', '.join(variants)} in {path.name}, got {variant!r}")
        chosen = dict(variants[variant])
        classes = tuple(chosen.pop("classes"))
        sources = {source: dict(mapping) for source, mapping in chosen.items()}
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path} must hold version and variants with classes and data sets ({error!r})") from error
    for source, mapping in sources.items():
        strange = sorted(set(mapping.values()) - set(classes))
        if strange:
            raise DatasetError(f"{path}, {variant}, {source}: {strange} are not among the common classes {classes}")
    return ClassMap(path.stem, version, variant, classes, sources)


class MappedSegmentation(SegmentationDataset):
    """A segmentation data set seen through a class map.

    A ValueError where the map lacks it, or it lacks a class of the map.
    """

    def __init__(self, dataset: SegmentationDataset, class_map: ClassMap) -> None:
        if dataset.name not in class_map.sources:
            known = ", ".join(class_map.sources)
            raise ValueError(f"class map {class_map.name} is for {known}, not for {dataset.name}")
        mapping = class_map.sources[dataset.name]
        missing = sorted(set(mapping) - set(dataset.classes))
        if missing:
            raise ValueError(
                f"class map {class_map.name} names classes {missing} that {dataset.name} as read with "
                f"{len(dataset.classes)} classes does not have; read it with all its classes"
            )
        super().__init__(dataset.frames)
        self.name = dataset.name
        self.classes = class_map.classes
        self._dataset = dataset
        self._lookup = np.full(IGNORE_INDEX + 1, IGNORE_INDEX, dtype=np.int64)
        for source, target in mapping.items():
            self._lookup[dataset.classes.index(source)] = class_map.classes.index(target)

    def findings(self) -> list[str]:
        return self._dataset.warnings

    def read(self, frame: Frame) -> SegmentationSample:
        sample = self._dataset.read(frame)
        return replace(sample, mask=self._lookup[sample.mask])
