"""Options of every method; one key, ``name``, chooses the method, and the options of each sit under its own key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from laparoflow.bounds import check_numbers


@dataclass
class ContrastSettings:
    """Options of the loss, named as in ``laparoflow_kernels.flow_infonce``.

    Attributes:
        temperature: divides the cosine similarities.
        learn_temperature: train the temperature (its logarithm), kept in 0.01 to 1.
        positives: ``inside`` bears wrong positives better, ``outside`` is the plain weighted mean.
        negatives: ``all`` pixels, or ``dissimilar`` ones weighted by 1 - w.
        scope: negatives from the same ``frame``, the ``batch`` of this process, or that of all processes: ``gathered``
            (each holds all keys) or in a ``ring`` (each holds one other's; more to compute and to send).
        symmetric: contrast both ways.
        standardise: give each channel mean 0 and deviation 1 over the frame's kept pixels of both views before the
            vectors are normalised; see :func:`standardised`.
        neighbour_weight: weight of a second loss, from the first view to a view of the frame before or after it in the
            cache, for every second frame. Its positives are the same place, which the method ``flow`` follows by the
            flow between the two frames and ``coordinates`` does not. 0 leaves it out.
        backend: backend of the loss.
    """

    temperature: float = 0.1
    learn_temperature: bool = False
    positives: Literal["outside", "inside"] = "inside"
    negatives: Literal["all", "dissimilar"] = "all"
    scope: Literal["frame", "batch", "gathered", "ring"] = "frame"
    symmetric: bool = True
    standardise: bool = False
    neighbour_weight: float = 0.0
    backend: Literal["auto", "reference", "native", "triton"] = "auto"

    def __post_init__(self) -> None:
        check_numbers(self, "neighbour_weight", low=0)


@dataclass
class CoordinateSettings:
    """Options of the coordinate-weighted method.

    Attributes:
        bandwidth: width of the weights, in cell diagonals; with the method ``flow`` in spreads or in pixels.
        flow_kernel: shape of the weights.
        contrast: options of the loss.
        momentum: momentum of a teacher that encodes the keys; null for none.
    """

    bandwidth: float = 0.7
    flow_kernel: Literal["gaussian", "laplace", "cauchy", "tophat"] = "tophat"
    contrast: ContrastSettings = field(default_factory=lambda: ContrastSettings(positives="outside"))
    momentum: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "momentum", low=0, below=1)


@dataclass
class FlowSettings(CoordinateSettings):
    """Options of the flow-weighted method, beside those that it shares with ``coordinates``.

    Attributes:
        guide: what the weights compare: ``flow``; ``flow_and_place`` adds coordinates; ``shuffled`` takes
            another frame's flow and ``uniform`` gives every pair the same weight (two controls, which take the same
            place in place of the flow to neighbours).
        flow_normalisation: ``spread`` divides the flow by its frame's robust spread, ``none`` keeps pixels.
        min_spread: least spread in pixels that the flow is divided by.
        min_motion: frames with a smaller spread (pixels) are left out; 0 keeps all.
        place_width: with ``flow_and_place``, the distance that counts as one bandwidth, as a share of the
            frame's longer side.
    """

    guide: Literal["flow", "flow_and_place", "shuffled", "uniform"] = "flow"
    flow_normalisation: Literal["spread", "none"] = "spread"
    min_spread: float = 0.3
    min_motion: float = 0.0
    place_width: float = 0.3
    contrast: ContrastSettings = field(default_factory=lambda: ContrastSettings(standardise=True, neighbour_weight=0.3))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "min_spread place_width", above=0)
        if self.guide == "uniform" and self.contrast.positives == "inside":
            raise ValueError("guide: equal weights with contrast.positives=inside make the loss a constant; use outside")


@dataclass
class PixProSettings:
    """Options of PixPro.

    Attributes:
        bandwidth: distance in cell diagonals up to which two pixels are the same place.
        sharpness: exponent of the similarity within a view.
        momentum: of the teacher; it is part of the method.
    """

    bandwidth: float = 0.7
    sharpness: float = 2.0
    momentum: float = 0.99

    def __post_init__(self) -> None:
        check_numbers(self, "bandwidth sharpness", above=0)
        check_numbers(self, "momentum", low=0, below=1)


@dataclass
class ImageSettings:
    """Options of the image-level baseline.

    Attributes:
        temperature: divides the cosine similarities.
        dim: length of the vectors.
        hidden: width of the projection.
        queue: vectors of earlier batches that serve as negatives; needs a teacher; 0 for none.
        momentum: of a teacher that encodes the keys; null for none.
    """

    temperature: float = 0.2
    dim: int = 128
    hidden: int = 512
    queue: int = 0
    momentum: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "temperature", above=0)
        check_numbers(self, "queue", low=0)
        check_numbers(self, "momentum", low=0, below=1)
        if self.queue and self.momentum is None:
            raise ValueError(f"queue: keys of earlier batches need a teacher (momentum), got queue={self.queue}")


@dataclass
class DenseCLSettings(ImageSettings):
    """Options of DenseCL, beside those of its image-level loss.

    Attributes:
        share: weight of the dense loss, the rest is the image-level loss.
    """

    share: float = 0.5
    queue: int = 4096
    momentum: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "share", low=0, high=1)


@dataclass
class MethodSettings:
    """The method and its options; those of the methods not named play no part.

    Attributes:
        name: ``flow`` (ours), ``coordinates`` (PixContrast), ``pixpro``, ``densecl``, or ``image`` (one vector a picture).
        flow: options of ``flow``.
        coordinates: options of ``coordinates``.
        pixpro: options of ``pixpro``.
        densecl: options of ``densecl``.
        image: options of ``image``.
    """

    name: Literal["flow", "coordinates", "pixpro", "densecl", "image"] = "flow"
    flow: FlowSettings = field(default_factory=FlowSettings)
    coordinates: CoordinateSettings = field(default_factory=CoordinateSettings)
    pixpro: PixProSettings = field(default_factory=PixProSettings)
    densecl: DenseCLSettings = field(default_factory=DenseCLSettings)
    image: ImageSettings = field(default_factory=ImageSettings)
