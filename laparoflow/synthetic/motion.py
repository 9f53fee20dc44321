"""Motion of the layers of a synthetic scene.

Every layer l carries canvas coordinates u to frame coordinates x by an affine matrix A_l(t) (3 x 3, pixel
centres at integers). The true flow of a pixel x of layer l from frame t to t + 1 is therefore exact:

    flow(x) = A_l(t + 1) A_l(t)^-1 x - x

All motions are uniform circles plus slow sines, so that a layer never stands still.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from laparoflow.synthetic.parameters import Range, SceneParameters

Matrix = NDArray[np.float64]


def similarity(angle: float, scale: float, shift_x: float, shift_y: float) -> Matrix:
    """3 x 3 matrix that rotates by ``angle`` radians, scales, then shifts by pixels."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift_x], [s, c, shift_y], [0.0, 0.0, 1.0]])


def shift(x: float, y: float) -> Matrix:
    return similarity(0.0, 1.0, x, y)


@dataclass(frozen=True)
class Orbit:
    """A circle of ``radius`` pixels around ``centre`` run at ``speed`` pixels per frame, with a slow sine rotation."""

    centre: tuple[float, float]
    radius: float
    speed: float
    phase: float
    direction: float
    roll: float
    roll_period: float

    def position(self, t: float) -> tuple[float, float]:
        """Frame coordinates at time t (frames)."""
        angle = self.phase + self.direction * self.speed / self.radius * t
        return (self.centre[0] + self.radius * float(np.cos(angle)), self.centre[1] + self.radius * float(np.sin(angle)))

    def angle(self, t: float) -> float:
        """Rotation in radians at time t (frames)."""
        return self.roll * float(np.sin(2 * np.pi * t / self.roll_period + self.phase))


def draw_orbit(
    rng: np.random.Generator, centre: tuple[float, float], radius: Range, speed: Range, roll_degrees: float
) -> Orbit:
    """Draw an orbit around ``centre`` with radius and speed from the given ranges."""
    return Orbit(
        centre=centre,
        radius=float(rng.uniform(*radius)),
        speed=float(rng.uniform(*speed)),
        phase=float(rng.uniform(0, 2 * np.pi)),
        direction=float(rng.choice([-1.0, 1.0])),
        roll=float(np.deg2rad(roll_degrees)),
        roll_period=float(rng.uniform(60, 120)),
    )


@dataclass(frozen=True)
class Camera:
    """Pan on an orbit, slow roll and slow zoom about the frame's centre."""

    orbit: Orbit
    centre: tuple[float, float]
    zoom: float
    zoom_period: float

    def matrix(self, t: float) -> Matrix:
        """World to frame coordinates at time t (frames)."""
        x, y = self.orbit.position(t)
        scale = 1.0 + self.zoom * float(np.sin(2 * np.pi * t / self.zoom_period + self.orbit.phase))
        return shift(*self.centre) @ similarity(self.orbit.angle(t), scale, x, y) @ shift(-self.centre[0], -self.centre[1])


def draw_camera(rng: np.random.Generator, params: SceneParameters) -> Camera:
    orbit = draw_orbit(rng, (0.0, 0.0), params.camera_orbit, params.camera_speed, params.camera_rotation)
    centre = ((params.width - 1) / 2.0, (params.height - 1) / 2.0)
    return Camera(orbit, centre, params.camera_zoom, float(rng.uniform(50, 110)))
