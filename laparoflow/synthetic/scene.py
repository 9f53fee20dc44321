"""Rendering of a synthetic clip: tissue, two organs, an instrument, seen by a moving camera.

Layers are textures on canvases carried into the frame by affine matrices (see ``motion``) and laid over one
another from back to front: tissue, organ_a, organ_b, instrument. A pixel belongs to the front layer that
covers more than half of it; its mask, and its flow, are that layer's.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from laparoflow.synthetic.motion import Camera, Matrix, Orbit, draw_camera, draw_orbit, shift, similarity
from laparoflow.synthetic.parameters import IGNORE_INDEX, KEYPOINTS, SceneParameters
from laparoflow.synthetic.textures import band_noise, blob_alpha, glint_map

Float = NDArray[np.float32]
ABSENT, VISIBLE = 0.0, 2.0


@dataclass(frozen=True)
class SyntheticClip:
    """A rendered clip with its truth.

    Attributes:
        images: uint8 [T, H, W, 3], RGB.
        masks: uint8 [T, H, W], index into ``CLASSES``; ``IGNORE_INDEX`` outside the visible circle.
        flow: float32 [T, 2, H, W], (dx, dy) in pixels from frame t to t + 1, also for the last frame; 0
            outside the visible circle.
        keypoints: float32 [T, K, 3], (x, y, visibility) in the order of ``KEYPOINTS``; visibility 0 outside
            the visible circle or the frame, else 2.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    flow: Float
    keypoints: Float


@dataclass(frozen=True)
class Layer:
    """A texture with its coverage: canvas float32 [h, w, 4] (RGB in 0..1 and alpha), glints float32 [h, w]."""

    canvas: Float
    glints: Float


@dataclass(frozen=True)
class Mover:
    """What moves over the tissue: the ``anchor`` (x, y) of its canvas runs on ``orbit``.

    An instrument points from there to its ``pivot``; an organ, which has none, turns with its orbit.
    """

    layer: Layer
    orbit: Orbit
    anchor: tuple[float, float]
    pivot: tuple[float, float] | None = None

    def matrix(self, t: float) -> Matrix:
        """Canvas to world coordinates at time t (frames)."""
        x, y = self.orbit.position(t)
        angle = float(np.arctan2(self.pivot[1] - y, self.pivot[0] - x)) if self.pivot else self.orbit.angle(t)
        return similarity(angle, 1.0, x, y) @ shift(-self.anchor[0], -self.anchor[1])


@dataclass(frozen=True)
class Scene:
    """All that one clip is made of; ``keypoints`` [K, 2] are (x, y) on the canvas of the last mover, the instrument."""

    params: SceneParameters
    camera: Camera
    tissue: Layer
    movers: tuple[Mover, ...]
    keypoints: NDArray[np.float64]
    light: Float
    glimmer: Float
    visible: NDArray[np.bool_]

    def matrices(self, t: float) -> list[Matrix]:
        """Canvas to frame matrices of tissue, organs and instrument at time t (frames)."""
        camera = self.camera.matrix(t)
        return [camera, *(camera @ mover.matrix(t) for mover in self.movers)]


def _soft_layer(
    rng: np.random.Generator, params: SceneParameters, colour: Float, kind: int, alpha: Float, drift: Float
) -> Layer:
    """A layer of soft tissue; ``drift`` float32 [h, w] is the slow brightness variation."""
    height, width = alpha.shape
    angle = float(rng.uniform(0, np.pi))
    texture = band_noise(rng, height, width, params.wavelengths[kind], params.anisotropies[kind], angle)
    offset = rng.uniform(-1, 1, 3).astype(np.float32) * params.colour_difference
    brightness = 1.0 + params.contrast * texture + params.colour_variation * drift
    rgb = np.clip((colour + offset) / 255.0 * brightness[..., None], 0.0, 1.0)
    return Layer(np.dstack([rgb, alpha]).astype(np.float32), glint_map(rng, height, width, params.specular_density))


def _draw_organ(
    rng: np.random.Generator, params: SceneParameters, colour: Float, kind: int, place: tuple[float, float]
) -> Mover:
    radius = params.height * float(rng.uniform(*params.organ_radius))
    size = 2 * int(np.ceil(radius * 1.6)) + 1
    alpha = blob_alpha(rng, size, radius)
    drift = band_noise(rng, size, size, wavelength=min(48.0, size / 2.0), spread=0.6)
    layer = _soft_layer(rng, params, colour, kind, alpha, drift)
    orbit = draw_orbit(rng, place, params.organ_orbit, params.organ_speed, params.organ_rotation)
    return Mover(layer, orbit, ((size - 1) / 2.0, (size - 1) / 2.0))


def _draw_instrument(
    rng: np.random.Generator, params: SceneParameters, colour: Float, centre: tuple[float, float], reach: float
) -> tuple[Mover, NDArray[np.float64]]:
    width = float(rng.uniform(*params.instrument_width))
    height = int(np.ceil(width * 1.4)) | 1
    length = int(2.2 * reach + 4 * width)
    middle, tip = (height - 1) / 2.0, 3.0
    wrist = tip + 1.7 * width
    bits = 4  # fractional bits of cv2's drawing coordinates

    alpha = np.zeros((height, length), np.uint8)
    half = width / 2.0
    jaws = [(tip, 0.8), (wrist, half * 0.85)]
    shaft = [(wrist - 0.5 * width, half * 0.6), (wrist, half), (length + 9.0, half)]
    for part in (jaws, shaft):  # one side of the axis, and back along the other
        outline = [(x, middle - away) for x, away in part] + [(x, middle + away) for x, away in reversed(part)]
        polygon = np.round(np.array(outline) * 2**bits).astype(np.int32)
        cv2.fillPoly(alpha, [polygon], 255, lineType=cv2.LINE_AA, shift=bits)

    across = (np.arange(height, dtype=np.float32) - middle) / half
    profile = 0.55 + 0.45 * np.sqrt(np.clip(1.0 - across**2, 0.0, 1.0)) + 0.5 * np.exp(-((across + 0.35) ** 2) / 0.02)
    grain = 1.0 + 0.08 * band_noise(rng, height, length, wavelength=12.0, spread=0.6)
    metal = (1.0 - params.instrument_grey) * colour + params.instrument_grey * np.float32(colour.mean())
    rgb = np.clip(metal / 255.0 * (profile[:, None] * grain)[..., None], 0.0, 1.0)
    layer = Layer(
        np.dstack([rgb, alpha.astype(np.float32) / 255.0]).astype(np.float32),
        glint_map(rng, height, length, params.specular_density * 2),
    )
    entry = float(rng.uniform(0, 2 * np.pi))
    place = float(rng.uniform(0, 2 * np.pi)), reach * float(rng.uniform(0.0, 0.35))
    target = centre[0] + place[1] * np.cos(place[0]), centre[1] + place[1] * np.sin(place[0])
    orbit = draw_orbit(rng, target, params.instrument_orbit, params.instrument_speed, 0.0)
    pivot = (centre[0] + 1.3 * reach * float(np.cos(entry)), centre[1] + 1.3 * reach * float(np.sin(entry)))
    keypoints = np.array([[tip, middle], [wrist, middle], [wrist + 2.5 * width, middle]])
    return Mover(layer, orbit, (tip, middle), pivot), keypoints


def build_scene(params: SceneParameters, seed: int) -> Scene:
    """Draw everything that one clip is made of; the same seed gives the same scene."""
    rng = np.random.default_rng(seed)
    height, width = params.height, params.width
    centre = (width - 1) / 2.0, (height - 1) / 2.0
    half_diagonal = float(np.hypot(*centre))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    distance = np.hypot(x - centre[0], y - centre[1])
    visible = distance <= params.border_radius * half_diagonal
    reach = min(params.border_radius, 1.0) * half_diagonal

    colour = np.asarray(params.base_colour, np.float32)
    colour = colour + rng.uniform(-1, 1, 3).astype(np.float32) * params.colour_jitter
    drift = band_noise(rng, height + 64, width + 64, wavelength=48.0, spread=0.6)
    tissue = _soft_layer(rng, params, colour, 0, np.ones_like(drift), drift)

    start = float(rng.uniform(0, 2 * np.pi))
    organs = []
    for kind in (1, 2):
        angle = start + (kind - 1) * np.pi + float(rng.uniform(-0.5, 0.5))
        away = float(rng.uniform(0.30, 0.50))
        place = (centre[0] + away * centre[0] * np.cos(angle), centre[1] + away * centre[1] * 1.1 * np.sin(angle))
        organs.append(_draw_organ(rng, params, colour, kind, place))
    camera = draw_camera(rng, params)
    instrument, keypoints = _draw_instrument(rng, params, colour, centre, reach)
    return Scene(
        params=params,
        camera=camera,
        tissue=tissue,
        movers=(*organs, instrument),
        keypoints=keypoints,
        light=(1.0 - params.shading * (distance / half_diagonal) ** 2).astype(np.float32),
        glimmer=np.clip(0.5 + 0.5 * band_noise(rng, height, width, wavelength=36.0, spread=0.6), 0.0, 1.0),
        visible=visible,
    )


def _warp(source: Float, matrix: Matrix, width: int, height: int, border: int) -> Float:
    inverse = np.linalg.inv(matrix)[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(source, inverse, (width, height), flags=flags, borderMode=border), np.float32)


def _render_frame(scene: Scene, t: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One frame: image uint8 [H, W, 3] and mask uint8 [H, W]."""
    params = scene.params
    height, width = params.height, params.width
    layers = [scene.tissue, *(mover.layer for mover in scene.movers)]
    mask = np.zeros((height, width), np.uint8)
    image = np.zeros((height, width, 3), np.float32)
    glints = np.zeros((height, width), np.float32)
    for index, (layer, matrix) in enumerate(zip(layers, scene.matrices(t), strict=True)):
        border = cv2.BORDER_WRAP if index == 0 else cv2.BORDER_CONSTANT
        pixels = _warp(layer.canvas, matrix, width, height, border)
        glint = _warp(layer.glints, matrix, width, height, border)
        alpha = pixels[..., 3]
        mask[alpha > 0.5] = index
        image += alpha[..., None] * (pixels[..., :3] - image)
        glints += alpha * (glint - glints)
    glimmer = np.roll(scene.glimmer, (2 * t, 3 * t), axis=(0, 1))
    image *= scene.light[..., None]
    image += (params.specular_strength * glints * glimmer)[..., None]
    image *= 255.0
    image[~scene.visible] = 4.0
    image += params.sensor_noise * rng.standard_normal(image.shape, dtype=np.float32)
    mask[~scene.visible] = IGNORE_INDEX
    return np.clip(image + 0.5, 0, 255).astype(np.uint8), mask


def _true_flow(mask: NDArray[np.uint8], now: list[Matrix], then: list[Matrix]) -> Float:
    """Flow float32 [2, H, W] of each pixel's own layer from frame t to t + 1."""
    flow = np.zeros((2, *mask.shape), np.float32)
    for index, (a, b) in enumerate(zip(now, then, strict=True)):
        step = (b @ np.linalg.inv(a) - np.eye(3)).astype(np.float32)
        y, x = (place.astype(np.float32) for place in np.nonzero(mask == index))
        flow[:, mask == index] = [row[0] * x + row[1] * y + row[2] for row in step[:2]]
    return flow


def _keypoints(scene: Scene, matrix: Matrix) -> Float:
    """Key points float32 [K, 3] of the instrument in the frame."""
    height, width = scene.visible.shape
    points = np.zeros((len(KEYPOINTS), 3), np.float32)
    for row, (u, v) in enumerate(scene.keypoints):
        x, y, _ = matrix @ np.array([u, v, 1.0])
        column, line = round(float(x)), round(float(y))
        seen = 0 <= column < width and 0 <= line < height and bool(scene.visible[line, column])
        points[row] = x, y, VISIBLE if seen else ABSENT
    return points


def render_clip(params: SceneParameters, frames: int, seed: int) -> SyntheticClip:
    """Render a clip of so many frames, with masks, flow and key points; the same arguments give the same bytes.

    Raises:
        ValueError: if ``frames`` is below 1.

    Example:
        >>> clip = render_clip(SceneParameters(height=64, width=80), frames=2, seed=0)
        >>> clip.images.shape, clip.flow.shape
        ((2, 64, 80, 3), (2, 2, 64, 80))
    """
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    scene = build_scene(params, seed)
    rng = np.random.default_rng([seed, 1])
    images, masks = (np.stack(part) for part in zip(*(_render_frame(scene, t, rng) for t in range(frames)), strict=True))
    places = [scene.matrices(t) for t in range(frames + 1)]
    flow = np.stack([_true_flow(mask, *places[t : t + 2]) for t, mask in enumerate(masks)])
    return SyntheticClip(images, masks, flow, np.stack([_keypoints(scene, now[-1]) for now in places[:-1]]))
