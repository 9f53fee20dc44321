"""Pictures of a pretraining run, drawn from its cache and its network.

frames and flow      what pretraining saw
pair weights         w of a few query pixels against all pixels of their frame, as the run's own guide gives them
nearest pixels       cosine similarity of a query pixel's embedding to all pixels of its frame and of another one,
                     with the most similar pixel of the other frame marked
features             principal components as colours
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from laparoflow.methods.spread import frame_spread
from laparoflow.models.encoder import PixelEncoder
from laparoflow.models.loading import load_encoder
from laparoflow.report.files import png_bytes
from laparoflow.report.pictures import Picture, beside, flow_picture, pca_pictures
from laparoflow.report.sections import Figure
from laparoflow.report.sources import Source
from laparoflow.video.cache import CachedFrame, FrameCache
from laparoflow_kernels import pairwise_flow_weights

FRAMES, QUERIES = 3, 3
MARK = (255, 255, 255)
CELLS_ALONG_LONG_SIDE = 64


def run_figures(source: Source) -> list[Figure]:
    """Figures of a run; only those whose cache and checkpoint are still where the run's settings say."""
    config = source.folder / "config.yaml"
    if not config.is_file():
        return []
    settings: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    data = settings.get("data")
    if not data or not Path(data).is_dir():
        return []
    cache = FrameCache.open(Path(data), verify="sizes")
    if len(cache) == 0:
        return []
    frames = [cache[int(i)] for i in np.linspace(0, len(cache) - 1, min(FRAMES, len(cache)))]
    sheets = [beside([frame.image, flow_picture(frame.flow, valid=frame.valid)]) for frame in frames]
    caption = "frame and its flow (hue: direction, depth: length, black: left out)"
    figures = [Figure(caption, png_bytes(sheet)) for sheet in sheets]
    method = settings.get("method", {})
    if method.get("name") == "flow" and method.get("flow", {}).get("guide", "flow") == "flow":
        for frame in frames:
            sheet = weight_pictures(frame, method["flow"])
            figures.append(Figure("pair weights of the marked pixels (bright: moves alike)", png_bytes(sheet)))
    if (source.folder / "checkpoints").is_dir():
        encoder = load_encoder(source.folder).requires_grad_(False)
        inputs = [_input(_cut(frame, encoder.feature_stride)) for frame in frames]
        if len({tensor.shape for tensor in inputs}) == 1:
            sheet = beside(pca_pictures(encoder.features(torch.stack(inputs))))
            figures.append(Figure("principal components of the features", png_bytes(sheet)))
        for first, second in zip(frames, [*frames[1:], frames[0]], strict=True):
            sheet = retrieval_picture(encoder, first, second)
            figures.append(Figure("similarity to the marked pixel, in its frame and in another", png_bytes(sheet)))
    return figures


def weight_pictures(frame: CachedFrame, flow_settings: dict[str, Any]) -> Picture:
    """The frame, then one map of pair weights per query pixel.

    Args:
        frame: with its flow.
        flow_settings: options of the flow-weighted method, as the run's config holds them.
    """
    flow, valid = torch.from_numpy(frame.flow)[None], torch.from_numpy(frame.valid)[None]
    step = max(1, max(frame.valid.shape) // CELLS_ALONG_LONG_SIDE)
    coarse, kept = flow[..., ::step, ::step], valid[..., ::step, ::step]
    if flow_settings.get("flow_normalisation", "spread") == "spread":
        coarse = coarse / frame_spread(flow, valid).clamp(min=float(flow_settings.get("min_spread", 0.5)))
    rows = coarse.flatten(2).transpose(1, 2)
    panels = [frame.image]
    for y, x in query_pixels(frame):
        own = coarse[:, :, y // step, x // step][:, None]
        weights = pairwise_flow_weights(
            own,
            rows,
            bandwidth=float(flow_settings.get("bandwidth", 0.7)),
            flow_kernel=flow_settings.get("flow_kernel", "gaussian"),
            key_mask=kept.flatten(1),
        )
        panels.append(_heat(weights[0, 0].unflatten(0, coarse.shape[2:]), frame.image, (y, x)))
    return beside(panels)


def retrieval_picture(encoder: PixelEncoder, first: CachedFrame, second: CachedFrame) -> Picture:
    """The first frame with a query pixel, its similarities there and in the second frame."""
    first, second = (_cut(frame, encoder.feature_stride) for frame in (first, second))
    y, x = query_pixels(first)[0]
    maps = [F.normalize(encoder(_input(frame)[None])[0], dim=0) for frame in (first, second)]
    row = min(y * maps[0].shape[1] // first.image.shape[0], maps[0].shape[1] - 1)
    column = min(x * maps[0].shape[2] // first.image.shape[1], maps[0].shape[2] - 1)
    query = maps[0][:, row, column]
    near = [torch.einsum("chw,c->hw", embedding, query) for embedding in maps]
    best = int(near[1].argmax())
    height, width = second.image.shape[:2]
    place = divmod(best, near[1].shape[1])
    found = (
        int((place[0] + 0.5) * height / near[1].shape[0]),
        int((place[1] + 0.5) * width / near[1].shape[1]),
    )
    marked = _mark(first.image.copy(), (y, x))
    return beside(
        [
            marked,
            _heat(near[0].clamp(0, 1), first.image, (y, x)),
            _mark(second.image.copy(), found),
            _heat(near[1].clamp(0, 1), second.image, found),
        ]
    )


def query_pixels(frame: CachedFrame) -> list[tuple[int, int]]:
    """(row, column) of the valid pixels at the 98th, 60th and 20th percentile of the motion against the median."""
    rows, columns = np.nonzero(frame.valid)
    if not len(rows):
        return [(frame.valid.shape[0] // 2, frame.valid.shape[1] // 2)]
    vectors = frame.flow[:, rows, columns]
    motion = np.linalg.norm(vectors - np.median(vectors, axis=1, keepdims=True), axis=0)
    order = np.argsort(motion, kind="stable")
    chosen = [order[int(share * (len(order) - 1))] for share in (0.98, 0.6, 0.2)[:QUERIES]]
    return [(int(rows[i]), int(columns[i])) for i in chosen]


def _cut(frame: CachedFrame, stride: int) -> CachedFrame:
    """The frame cut at the right and below to multiples of the stride: what a network sees of it."""
    height, width = (side // stride * stride for side in frame.image.shape[:2])
    return replace(
        frame,
        image=frame.image[:height, :width],
        flow=frame.flow[:, :height, :width],
        valid=frame.valid[:height, :width],
    )


def _input(frame: CachedFrame) -> Tensor:
    """RGB 0..1 [3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(frame.image)).permute(2, 0, 1).float() / 255


def _heat(values: Tensor, image: Picture, place: tuple[int, int]) -> Picture:
    """A map of values in 0..1 in colour, at the picture's size, with a pixel marked."""
    grey = (255 * values.numpy()).round().astype(np.uint8)
    large = cv2.resize(grey, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    coloured = cv2.cvtColor(cv2.applyColorMap(large, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    return _mark(coloured.astype(np.uint8), place)


def _mark(picture: Picture, place: tuple[int, int]) -> Picture:
    """Draws a ring around (row, column)."""
    cv2.circle(picture, (place[1], place[0]), max(3, max(picture.shape[:2]) // 50), MARK, 1, cv2.LINE_AA)
    return picture
