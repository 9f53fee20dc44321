"""What the interactive view of the page holds: frames with their embeddings in 8 bits and the guides of their pair weights.

A frame is a map of h x w cells.  ``embedding`` is int8 [h, w, D], of which ``scale`` is the unit, so that the dot product of
two cells is their cosine similarity; ``guide`` is float32 [h, w, F], with NaN where a cell is left out; cells of one
``group`` (a frame and its other view) have pair weights, others have none.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from laparoflow.methods.base import Method
from laparoflow.methods.build import build_method
from laparoflow.methods.settings import MethodSettings
from laparoflow.models.encoder import PixelEncoder
from laparoflow.models.loading import load_encoder
from laparoflow.probes.features import to_input
from laparoflow.report.pictures import Components, Picture
from laparoflow.training.frames import CachedFrames, collate
from laparoflow.training.pairs import two_views
from laparoflow.training.pictures import pair_guides, whole_frame
from laparoflow.training.places import candidates, find_data, read_config
from laparoflow.video.cache import CachedFrame, FrameCache
from laparoflow.views.settings import ViewSettings
from laparoflow.views.two_views import TwoViews

FRAMES = 3
LONGEST_MAP, LARGEST_DIM = 64, 64
"""Cells along the longer side of a map, and numbers of a vector, above which they are averaged and projected."""


@dataclasses.dataclass
class Item:
    """One frame of the view: features [C, h, w], embedding [D, h', w'], guide [F, h', w'] with NaN where a cell is left out.

    ``layers`` are further pictures of the frame by name. It has pair weights with the frame of the same ``group``, -1 for
    none.
    """

    name: str
    image: Picture
    features: Tensor
    embedding: Tensor
    layers: Mapping[str, Picture] = dataclasses.field(default_factory=dict)
    group: int = -1
    guide: Tensor | None = None


def cached_frames(folder: Path) -> list[CachedFrame]:
    """Frames spread over the cache of a run; none where it is gone."""
    data = find_data(folder)
    if data is None:
        return []
    cache = FrameCache.open(data, verify="sizes")
    return [cache[int(i)] for i in np.linspace(0, len(cache) - 1, min(FRAMES, len(cache)))]


def not_shown(folder: Path) -> list[str]:
    """Which pictures the page of a run has to do without, and why, in words."""
    notes = []
    if find_data(folder) is None:
        tried = ", ".join(dict.fromkeys(map(str, candidates(folder)))) or "no place: the run has no config.yaml"
        notes.append(f"frames, flow and pair weights are not shown: the run's cache was looked for at {tried}")
    if not (folder / "checkpoints").is_dir():
        notes.append(f"features and similarities are not shown: {folder / 'checkpoints'} is not there")
    return notes


@torch.no_grad()
def explore_run(
    folder: Path, frames: Sequence[CachedFrame], labelled: Sequence[tuple[str, dict[str, Picture], tuple[int, int]]]
) -> dict[str, Any] | None:
    """The view of a run; None where its network is gone or there is no frame.

    ``labelled`` are further frames: (name, pictures with the frame as "image", (height, width) for the network).
    """
    if not (frames or labelled) or not (folder / "checkpoints").is_dir():
        return None
    settings = read_config(folder)
    encoder = load_encoder(folder).requires_grad_(False)
    method = build_method(encoder, _from_plain(MethodSettings, settings.get("method", {}))).eval()
    views = TwoViews(_from_plain(ViewSettings, settings.get("views", {})))
    items = [item for number in range(len(frames)) for item in view_items(method, views, frames, number)]
    for name, pictures, size in labelled:
        layers = {layer: picture for layer, picture in pictures.items() if layer != "image"}
        items.append(encoded(encoder, to_input(pictures["image"], size), name, layers))
    _, _, kernel, bandwidth = pair_guides(method, [])
    standardise = bool(getattr(getattr(getattr(method, "contrast", None), "settings", None), "standardise", False))
    return explorer(items, kernel, bandwidth, standardise)


def encoded(encoder: PixelEncoder, image: Tensor, name: str, layers: Mapping[str, Picture] | None = None) -> Item:
    """A picture [3, H, W] in 0..1 as an item."""
    picture = (255 * image).round().byte().permute(1, 2, 0).numpy()
    features, embeddings = encoder.features_and_embeddings(image[None])
    return Item(name, picture, features[0], embeddings[0], layers or {})


def view_items(method: Method, views: TwoViews, frames: Sequence[CachedFrame], number: int) -> list[Item]:
    """A frame of the cache and one of its other views, with their guides."""
    frame = moving = frames[number]
    following = frames[(number + 1) % len(frames)]
    if method.shuffle_flow and following.flow.shape == frame.flow.shape:
        moving = following
    encoder = method.encoder
    shown = dataclasses.replace(frame, flow=moving.flow, valid=moving.valid)
    batch = collate([CachedFrames([shown])[0, 0]])
    pair = [whole_frame(batch, 0, encoder.embed_stride), two_views(batch, views, encoder.embed_stride, (number,))[1]]
    guides, masks, _, _ = pair_guides(method, pair)
    title = f"clip {frame.clip}, frame {frame.frame}"
    items = []
    for name, view, guide, mask in zip((title, f"{title}, other view"), pair, guides, masks, strict=True):
        item = encoded(encoder, view.image[0].clamp(0, 1), name)
        items.append(dataclasses.replace(item, group=number, guide=guide[0].where(mask, torch.nan)))
    return items


def explorer(items: Sequence[Item], kernel: str = "", bandwidth: float = 1.0, standardise: bool = False) -> dict[str, Any]:
    """Items as the page's script reads them, as plain values; with kernel and bandwidth of the pair weights.

    ``standardise`` gives each channel mean 0 and deviation 1 over all items, as a loss with that option compares them.
    """
    components = Components(torch.cat([item.features.flatten(1).T for item in items]))
    maps = []
    for item in items:
        step = -(-max(item.embedding.shape[1:]) // LONGEST_MAP)
        embedding = F.avg_pool2d(item.embedding.float()[None], step)[0]
        height, width = embedding.shape[1:]
        middle = slice(step // 2, None, step)
        maps.append((embedding, None if item.guide is None else item.guide[:, middle, middle][:, :height, :width]))
    rows = torch.cat([embedding.flatten(1).T for embedding, _ in maps])
    mean, deviation = rows.mean(0).view(-1, 1, 1), rows.std(0).clamp_min(1e-6).view(-1, 1, 1)
    project = _projection(F.normalize((rows - mean.flatten()) / deviation.flatten() if standardise else rows, dim=1))
    frames = []
    for item, (embedding, guide) in zip(items, maps, strict=True):
        unit = F.normalize((embedding - mean) / deviation if standardise else embedding, dim=0)
        values = project(unit.permute(1, 2, 0))
        scale = float(values.abs().max().clamp_min(1e-9)) / 127
        layers = {"image": picture_uri(item.image, "JPEG"), "PCA": picture_uri(components.picture(item.features), "PNG")}
        layers |= {name: picture_uri(picture, "JPEG") for name, picture in item.layers.items()}
        frame = {"name": item.name, "height": values.shape[0], "width": values.shape[1], "scale": scale, "layers": layers}
        frame["embedding"] = _text((values / scale).round().to(torch.int8))
        frame["guide"] = None if guide is None else _text(guide.permute(1, 2, 0).float())
        frames.append({**frame, "group": item.group})
    return {"frames": frames, "kernel": kernel, "bandwidth": bandwidth, "standardised": standardise}


def picture_uri(picture: Picture, kind: str) -> str:
    """A picture as a data address, ``PNG`` or ``JPEG``."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format=kind, quality=88)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _projection(rows: Tensor) -> Callable[[Tensor], Tensor]:
    """Onto the directions that keep dot products of rows [n, D] best, at most LARGEST_DIM of them."""
    if rows.shape[1] <= LARGEST_DIM:
        return lambda values: values
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    return lambda values: values @ vectors[:, -LARGEST_DIM:]


def _text(values: Tensor) -> str:
    return base64.b64encode(values.contiguous().numpy().tobytes()).decode()


def _from_plain(kind: Any, values: Mapping[str, Any]) -> Any:
    """A settings object from what YAML holds of it; what another version knew and this one does not is left out."""
    hints, given = get_type_hints(kind), {}
    for item in dataclasses.fields(kind):
        if item.name in values:
            value, hint = values[item.name], hints[item.name]
            nested = dataclasses.is_dataclass(hint) and isinstance(value, Mapping)
            given[item.name] = _from_plain(hint, value) if nested else tuple(value) if isinstance(value, list) else value
    return kind(**given)
