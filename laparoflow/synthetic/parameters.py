"""What a synthetic scene looks like and how it moves.

Two sets of parameters are fixed here and are not to be tuned towards a method's score: ``DEFAULT``, on which
recipes are developed, and ``HELD_OUT``, on which they are only reported. They differ in texture statistics,
colour, organ size, speed, camera motion, border and noise.

The three soft classes share one mean colour per clip. They are separated by texture statistics (wavelength
and anisotropy of band-limited noise of equal contrast), hardly by colour (``colour_difference`` is far below
the slow colour variation that all of them share), and by motion: each organ circles at its own constant
speed, so that its flow differs from its surroundings in every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

from laparoflow.bounds import check_numbers, check_range

CLASSES: tuple[str, ...] = ("tissue", "organ_a", "organ_b", "instrument")
KEYPOINTS: tuple[str, ...] = ("tip", "wrist", "shaft")
IGNORE_INDEX = 255

Range = tuple[float, float]


@dataclass(frozen=True)
class SceneParameters:
    """Parameters of a scene. Lengths are pixels, speeds pixels per frame; a range is drawn from once per clip.

    Attributes:
        height, width: frame size in pixels.
        frame_rate: frames per second of the written video.
        border_radius: radius of the visible circle as a share of the frame's half diagonal; >= 1 means no border.
        base_colour: mean RGB (0..255) of tissue and organs.
        colour_jitter: largest shift per channel of ``base_colour`` from clip to clip.
        colour_difference: largest shift per channel of one soft class from the others, redrawn for each clip.
        colour_variation: contrast of slow colour variation common to all soft classes.
        wavelengths: texture wavelength of tissue, organ_a, organ_b.
        anisotropies: elongation of the texture of tissue, organ_a, organ_b (1 is isotropic).
        contrast: relative standard deviation of the texture, the same for all soft classes.
        organ_radius: mean radius of an organ as a share of the frame height.
        organ_speed: speed of an organ against the tissue.
        organ_orbit: radius of the circle on which an organ moves.
        organ_rotation: amplitude in degrees of an organ's slow rotation.
        camera_speed: speed of the camera's pan over the tissue.
        camera_orbit: radius of the camera's path.
        camera_rotation: amplitude in degrees of the camera's slow roll.
        camera_zoom: amplitude of the relative slow change of scale.
        instrument_width: width of the shaft.
        instrument_speed: speed of the instrument's tip against the tissue.
        instrument_orbit: amplitude of the tip's path.
        instrument_grey: 0 gives the shaft the colour of tissue, 1 a neutral grey.
        specular_density: share of the surface that can glint.
        specular_strength: brightness (0..1) that a full glint adds.
        shading: relative loss of light from the centre to the corner of the frame.
        sensor_noise: standard deviation of noise per channel in grey levels (0..255).
    """

    height: int = 144
    width: int = 192
    frame_rate: int = 25
    border_radius: float = 0.82
    base_colour: tuple[float, float, float] = (168.0, 84.0, 76.0)
    colour_jitter: float = 18.0
    colour_difference: float = 3.0
    colour_variation: float = 0.10
    wavelengths: tuple[float, float, float] = (9.0, 6.0, 9.0)
    anisotropies: tuple[float, float, float] = (1.0, 1.0, 3.0)
    contrast: float = 0.16
    organ_radius: Range = (0.20, 0.30)
    organ_speed: Range = (1.5, 3.0)
    organ_orbit: Range = (8.0, 14.0)
    organ_rotation: float = 6.0
    camera_speed: Range = (0.3, 1.2)
    camera_orbit: Range = (6.0, 12.0)
    camera_rotation: float = 2.0
    camera_zoom: float = 0.03
    instrument_width: Range = (12.0, 18.0)
    instrument_speed: Range = (2.5, 5.0)
    instrument_orbit: Range = (16.0, 24.0)
    instrument_grey: float = 0.6
    specular_density: float = 0.012
    specular_strength: float = 0.7
    shading: float = 0.35
    sensor_noise: float = 2.0

    def __post_init__(self) -> None:
        if self.height < 32 or self.width < 32:
            raise ValueError(f"height and width must be at least 32, got {self.height} x {self.width}")
        if self.height % 2 or self.width % 2:
            raise ValueError(f"height and width must be even for video encoding, got {self.height} x {self.width}")
        check_numbers(self, "frame_rate", above=0)
        check_numbers(self, "border_radius", above=0.2)
        if min(self.wavelengths) < 3 or min(self.anisotropies) < 1:
            raise ValueError(
                f"wavelengths must be >= 3 pixels and anisotropies >= 1, got {self.wavelengths} and {self.anisotropies}"
            )
        check_range(self, "organ_radius organ_orbit camera_orbit instrument_orbit")
        check_range(self, "organ_speed camera_speed instrument_speed instrument_width", zero=True)


DEFAULT = SceneParameters()

HELD_OUT = SceneParameters(
    border_radius=0.88,
    base_colour=(182.0, 112.0, 84.0),
    colour_jitter=14.0,
    colour_variation=0.13,
    wavelengths=(7.0, 11.0, 7.0),
    anisotropies=(1.0, 1.0, 2.5),
    contrast=0.13,
    organ_radius=(0.17, 0.26),
    organ_speed=(1.2, 3.6),
    organ_orbit=(7.0, 16.0),
    organ_rotation=9.0,
    camera_speed=(0.5, 1.6),
    camera_orbit=(6.0, 14.0),
    camera_rotation=3.0,
    instrument_width=(9.0, 15.0),
    instrument_speed=(2.0, 4.5),
    instrument_grey=0.45,
    specular_density=0.018,
    specular_strength=0.8,
    shading=0.45,
    sensor_noise=3.0,
)
