"""`laparoflow predict`: a probe's head on videos and images.

    OUT/masks/NAME.png       class ids at the picture's own size (segmentation), named in OUT/classes.json
    OUT/keypoints.json       COCO key points, one annotation an instrument (key points)
    OUT/overlays/NAME.png    the picture with what was found

NAME is an image's name, and of a video its name with the frame's number.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laparoflow.files import read_picture, write_json, write_png
from laparoflow.models.loading import load_encoder
from laparoflow.probes.instruments import group_instruments
from laparoflow.probes.saved import load_head
from laparoflow.probes.settings import device_of
from laparoflow.progress import progress
from laparoflow.report.pictures import Picture, shrink
from laparoflow.report.sections import class_legend
from laparoflow.report.settings import PredictSettings
from laparoflow.report.view import batches, painted
from laparoflow.video.decode import Source
from laparoflow.video.sources import IMAGE_SUFFIXES, find_sources, images_in


def predict(settings: PredictSettings) -> tuple[int, float, str]:
    """Write what a head finds; returns number of frames, seconds, and what was written ("masks" or "key points").

    Raises:
        ValueError: a probe of another network, two inputs of one name, or an input that cannot be read.
        FileNotFoundError: no checkpoint, or no head of that budget and draw.
    """
    begun = time.perf_counter()
    run, probe, *inputs = (Path(path) for path in settings.inputs)
    out = Path(settings.out)
    encoder = load_encoder(run).requires_grad_(False)
    head = load_head(probe, labels=settings.labels, seed=settings.seed, encoder=encoder).to(settings.device)
    encoder.to(device_of(settings.device))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    sources: dict[str, Path] = {}
    places = [place for path in inputs for place in _sources(path)]
    count = sum(len(_images(place)) or -(-(Source(place).info.expected or 0) // settings.every) for place in places)
    with progress("frames", count) as advance:
        for batch in batches(pictures(inputs, settings.every), settings.batch_size):
            for (name, origin, image), found in zip(batch, head.predict(encoder, [b[2] for b in batch]), strict=True):
                if name in sources:
                    raise ValueError(f"inputs: {sources[name]} and {origin} would both be written as {name}; rename one")
                sources[name] = origin
                if head.task == "segmentation":
                    write_png(out / "masks" / f"{name}.png", found.astype(np.uint8))
                else:
                    height, width = image.shape[:2]
                    images.append({"id": len(images) + 1, "file_name": name, "height": height, "width": width})
                    for annotation in coco_instruments(found):
                        annotations.append({"id": len(annotations) + 1, "image_id": len(images), **annotation})
                write_png(out / "overlays" / f"{name}.png", shrink(painted(head, found, image), 1024))
                advance(1)
    if head.task == "segmentation":
        classes = [{"id": i, "name": n, "colour": c} for i, (n, c) in enumerate(class_legend(head.names))]
        write_json(out / "classes.json", {"classes": classes})
    else:
        category = {"id": 1, "name": "instrument", "keypoints": list(head.names), "skeleton": []}
        write_json(out / "keypoints.json", {"images": images, "annotations": annotations, "categories": [category]})
    return len(sources), time.perf_counter() - begun, "masks" if head.task == "segmentation" else "key points"


def pictures(inputs: Sequence[Path], every: int) -> Iterator[tuple[str, Path, Picture]]:
    """Name, file and pixels of each picture, one by one."""
    for place in (place for path in inputs for place in _sources(path)):
        images = _images(place)
        for image in images:
            yield image.stem, image, read_picture(image)
        for frame in [] if images else Source(place).frames():
            if frame.index % every == 0:
                yield f"{place.stem}_{frame.index:06d}", place, frame.rgb()


def _images(path: Path) -> list[Path]:
    """The images of a folder, or the path itself where it is one; none of a video."""
    if path.is_dir():
        return images_in(path)
    return [path] if path.suffix.lower() in IMAGE_SUFFIXES else []


def _sources(path: Path) -> list[Path]:
    """The images, videos and folders of images that an input stands for; a folder of one image is enough here."""
    return [path] if _images(path) and path.exists() else find_sources([path]).sources


def coco_instruments(found: Sequence[NDArray[np.floating]]) -> Iterator[dict[str, Any]]:
    """COCO annotations of the instruments in a picture, from the points per joint [P, 3]; joints not found have v = 0."""
    places, scores = group_instruments(found)
    for joints, score in zip(places, scores, strict=True):
        there = [bool((np.abs(f[:, :2] - p) < 1e-6).all(1).any()) for f, p in zip(found, joints, strict=True)]
        points = [[float(x), float(y), 2] if seen else [0, 0, 0] for (x, y), seen in zip(joints, there, strict=True)]
        low, high = joints[there].min(0), joints[there].max(0)
        box = {"bbox": [*low.tolist(), *(high - low).tolist()], "area": float(np.prod(high - low)), "score": float(score)}
        flat = [value for point in points for value in point]
        yield {"category_id": 1, "keypoints": flat, "num_keypoints": sum(there), "iscrowd": 0, **box}
