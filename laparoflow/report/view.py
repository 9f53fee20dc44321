"""`laparoflow view`: the features of a network over a video of one's own, as a video or as a page.

    frame with the pixel | principal components as colours | similarity to the pixel | a probe's prediction, if asked for

The components are fitted once, to frames spread over the source, so that equal colours mean equal features all along; with a
loss that standardises, so are the mean and deviation by which vectors are compared.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from laparoflow.models.encoder import PixelEncoder
from laparoflow.models.loading import load_encoder
from laparoflow.probes.features import probe_size, to_input
from laparoflow.probes.saved import SavedHead, load_head
from laparoflow.probes.settings import device_of
from laparoflow.progress import progress
from laparoflow.report.explore import encoded, explorer
from laparoflow.report.headline import Headline
from laparoflow.report.html import write_page
from laparoflow.report.pictures import Components, Picture, keypoint_picture, overlay, palette
from laparoflow.report.sections import Section, class_legend
from laparoflow.report.settings import ViewSettings
from laparoflow.synthetic.dataset import write_video
from laparoflow.training.places import read_config
from laparoflow.video.decode import Frame, Source

FITTED, PAGE_FRAMES = 16, 12
BAR = 22
"""Height in pixels of the line of text above a panel."""


@dataclass
class _Look:
    """What looks at frames: the network, the head if there is one, the size they take, the pixel's place in 0..1."""

    encoder: PixelEncoder
    head: SavedHead | None
    size: tuple[int, int]
    place: tuple[float, float]
    standardise: bool


def standardises(checkpoint: Path) -> bool:
    """Whether the loss of a run compares standardised vectors."""
    folders = (checkpoint, *checkpoint.parents[:2])
    method: dict[str, Any] = next((s["method"] for s in map(read_config, folders) if "method" in s), {})
    return bool(((method.get(method.get("name", "")) or {}).get("contrast") or {}).get("standardise", False))


@torch.no_grad()
def view_video(settings: ViewSettings) -> tuple[int, float, float | None]:
    """Write the video or the page; returns frames, seconds of work, and frames a second of the video (None for a page).

    Raises:
        FileExistsError: ``out`` is there and ``overwrite`` is off.
        VideoError: the video cannot be read.
        ValueError: a pixel outside the frame, or a probe of another network.
    """
    out = Path(settings.out)
    if out.exists() and not settings.overwrite:
        raise FileExistsError(f"out: {out} exists; name another file or set overwrite")
    begun = time.perf_counter()
    source = Source(Path(settings.video))
    encoder = load_encoder(settings.checkpoint).requires_grad_(False)
    head = None if settings.probe is None else load_head(settings.probe, encoder=encoder).to(settings.device)
    encoder = encoder.to(device_of(settings.device)).at(head.level if head else "last")
    height, width = source.info.height, source.info.width
    x, y = settings.pixel or (width // 2, height // 2)
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"pixel: expected x below {width} and y below {height}, got {x} {y}")
    size = head.image_size if head else probe_size((height, width), encoder.feature_stride, None)
    out.parent.mkdir(parents=True, exist_ok=True)
    look = _Look(encoder, head, size, (x / width, y / height), standardises(Path(settings.checkpoint)))
    if out.suffix == ".html":
        return _write_page(settings, source, look), time.perf_counter() - begun, None
    taken = min(settings.frame_rate or source.info.frame_rate, source.info.frame_rate)
    rate = taken * settings.speed
    panels = _Panels(look, source.spread(FITTED), settings.width, settings.batch_size)
    total = round((source.info.expected or 0) * taken / source.info.frame_rate)
    with progress(f"{source.path.name}: frames", min(total, settings.frames or total)) as advance:
        sheets = panels.sheets((frame.rgb() for frame in chosen(source, settings)), advance)
        first = next(sheets)
        sheets = itertools.chain([first], sheets)
        write_video(out, sheets, Fraction(rate).limit_denominator(1000), quality=20, size=first.shape[:2])
    return panels.drawn, time.perf_counter() - begun, rate


def chosen(source: Source, settings: ViewSettings) -> Iterator[Frame]:
    """The frames that are looked at, one by one: those nearest after each tick of ``frame_rate``, at most ``frames``."""
    step = 0.0 if settings.frame_rate is None else 1 / settings.frame_rate
    due, count = -1e-6, 0
    for frame in source.frames():
        if count == settings.frames:
            return
        if frame.time >= due - 1e-6:
            due, count = max(due + step, frame.time + step / 2) if count else frame.time + step, count + 1
            yield frame


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of ``size`` items one after the other, the last one shorter."""
    source = iter(items)
    while batch := list(itertools.islice(source, size)):
        yield batch


def painted(head: SavedHead, found: Any, image: Picture) -> Picture:
    """A picture with what a head found in it painted over."""
    if head.task == "segmentation":
        return overlay(image, found, len(head.names))
    return keypoint_picture(image, np.zeros((0, len(head.names), 3)), found)


class _Panels:
    """Makes the sheets of frames, from one pass of the network a batch; all are compared with the first frame's pixel."""

    def __init__(self, look: _Look, fitted: list[Picture], width: int, batch_size: int) -> None:
        self.look, self.batch_size = look, batch_size
        self.panel = (2 * max(1, round(width * fitted[0].shape[0] / fitted[0].shape[1] / 2)), width // 2 * 2)
        maps = [self._maps(batch) for batch in batches(fitted, batch_size)]
        self.components = Components(torch.cat([features.movedim(1, -1).flatten(0, 2) for features, _ in maps]))
        rows = torch.cat([embedding.movedim(1, -1).flatten(0, 2) for _, embedding in maps])
        self.mean, self.deviation = torch.zeros(1), torch.ones(1)
        if look.standardise:
            self.mean, self.deviation = (v.view(-1, 1, 1) for v in (rows.mean(0), rows.std(0).clamp_min(1e-6)))
        self.query: Tensor | None = None
        self.drawn = 0

    def _maps(self, images: Sequence[Picture]) -> tuple[Tensor, Tensor]:
        """Features [B, C, h, w] and embeddings [B, D, h', w'] on the CPU, from one pass."""
        batch = torch.stack([to_input(image, self.look.size) for image in images]).to(self.look.encoder.image_mean.device)
        features, embeddings = self.look.encoder.features_and_embeddings(batch)
        return features.cpu(), embeddings.cpu()

    def sheets(self, images: Iterable[Picture], advance: Callable[[int], None]) -> Iterator[Picture]:
        """The sheets of frames, read and encoded a batch at a time."""
        for batch in batches(images, self.batch_size):
            features, embeddings = self._maps(batch)
            small = [cv2.resize(image, self.panel[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8) for image in batch]
            found: Sequence[Any] = [None] * len(batch)
            if self.look.head is not None:
                found = self.look.head.read(features, [self.panel] * len(batch))
            for maps in zip(small, features, embeddings, found, strict=True):
                yield self._sheet(*maps)
                advance(1)

    def _sheet(self, small: Picture, features: Tensor, embedding: Tensor, found: Any) -> Picture:
        """The sheet of a frame: what a head found is None without one."""
        unit = F.normalize((embedding - self.mean) / self.deviation, dim=0)
        if self.query is None:
            row, column = (min(int(s * n), n - 1) for s, n in zip(self.look.place[::-1], unit.shape[1:], strict=True))
            self.query = unit[:, row, column]
        near = torch.einsum("chw,c->hw", unit, self.query).clamp(0, 1).numpy()
        heat = (255 * matplotlib.colormaps["viridis"](near)[..., :3]).round().astype(np.uint8)
        shown = {"frame": small.copy(), "features": self.components.picture(features), "similarity, 0 to 1": heat}
        if self.drawn == 0:
            centre = (int(self.look.place[0] * self.panel[1]), int(self.look.place[1] * self.panel[0]))
            for colour, line in (((0, 0, 0), 4), ((255, 255, 255), 2)):
                cv2.circle(shown["frame"], centre, 9, colour, line, cv2.LINE_AA)
        if self.look.head is not None:
            shown["prediction"] = painted(self.look.head, found, small)
        self.drawn += 1
        tiles = [self._tile(name, picture) for name, picture in shown.items()]
        if len(tiles) % 2:
            tiles.append(np.zeros_like(tiles[0]))
        rows = [np.hstack(tiles[i : i + 2]) for i in range(0, len(tiles), 2)]
        return np.vstack([*rows, self._legend(rows[0].shape[1])]).astype(np.uint8)

    def _tile(self, name: str, picture: Picture) -> Picture:
        """A panel under its name, with the colour bar of similarity."""
        scaled = cv2.resize(picture, self.panel[::-1], interpolation=cv2.INTER_NEAREST)
        bar = np.zeros((BAR, self.panel[1], 3), np.uint8)
        cv2.putText(bar, name, (4, BAR - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
        if name.startswith("similarity"):
            length = self.panel[1] // 2
            colours = matplotlib.colormaps["viridis"](np.linspace(0, 1, length))[:, :3]
            bar[4:-4, -length:] = (255 * colours).round().astype(np.uint8)
        return np.vstack([bar, scaled]).astype(np.uint8)

    def _legend(self, width: int) -> Picture:
        """Names of the head's classes in their colours, on as many lines as they need; nothing without a segmentation."""
        if self.look.head is None or self.look.head.task != "segmentation":
            return np.zeros((0, width, 3), np.uint8)
        names = self.look.head.names
        each = 30 + 9 * max(len(name) for name in names)
        columns = max(1, width // each)
        legend = np.zeros((BAR * -(-len(names) // columns), width, 3), np.uint8)
        for i, (name, colour) in enumerate(zip(names, palette(len(names)), strict=False)):
            x, y = each * (i % columns), BAR * (i // columns)
            legend[y + 5 : y + BAR - 5, x + 6 : x + 20] = colour
            cv2.putText(legend, name, (x + 26, y + BAR - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
        return legend


def _write_page(settings: ViewSettings, source: Source, look: _Look) -> int:
    """The page with frames spread over the source; returns their number."""
    images = source.spread(settings.frames or PAGE_FRAMES)
    items, head = [], look.head
    with progress(f"{source.path.name}: frames", len(images)) as advance:
        for number, image in enumerate(images):
            height = max(1, round(settings.width * image.shape[0] / image.shape[1]))
            small = cv2.resize(image, (settings.width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
            item = encoded(look.encoder, to_input(image, look.size), f"frame {number + 1} of {len(images)}")
            item.image = small
            if head is not None:
                item.layers = {"prediction": painted(head, head.read(item.features[None], [small.shape[:2]])[0], small)}
            items.append(item)
            advance(1)
    section = Section(f"{source.path.name}", f"{len(images)} frames spread over the source, by {settings.checkpoint}")
    section.explorer = explorer(items, standardise=look.standardise) | {"pixel": list(look.place)}
    section.legend = class_legend(head.names) if head is not None and head.task == "segmentation" else []
    write_page(Path(settings.out), f"What the network sees in {source.path.name}", [section], Headline())
    return len(images)
