"""Flow that was computed elsewhere.

Layout of the folder, for a clip that the cache calls NAME::

    NAME/000017.flo                 from source frame 17 to frame 17 + gap; also .npz or .png
    NAME/000017_backward.flo        optional: back from frame 17 + gap to frame 17
    NAME.npz                        or all frames in one: "flow" [T, 2, H, W], optionally "backward" and "valid"

``.flo`` is Middlebury's format; unknown flow there is larger than 1e9. ``.png`` is KITTI's: 16 bit, (value - 2^15) / 64
pixels, third channel valid. ``.npz`` holds "flow" [2, H, W] (or [H, W, 2]), optionally "valid" bool [H, W]. Flow has the
size of the source frame, and is then cropped and scaled as the frame is, or that of the cached frame.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from laparoflow.video.flow import Flow, FlowPair, Image, Mask

SUFFIXES = (".flo", ".npz", ".png")


def read_flow(path: Path) -> tuple[Flow, Mask]:
    """Flow float32 [2, H, W] and valid bool [H, W] of .flo, .npz or KITTI's .png; a ValueError names a damaged file."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as content:
            flow: NDArray[np.floating] = content.get("flow", np.empty(0))
            if flow.ndim == 3 and flow.shape[0] != 2 and flow.shape[2] == 2:
                flow = flow.transpose(2, 0, 1)
            if flow.ndim != 3 or flow.shape[0] != 2:
                raise ValueError(f"{path} must hold an array 'flow' [2, H, W] or [H, W, 2], got {list(flow.shape)}")
            valid = np.isfinite(flow).all(0) & np.asarray(content.get("valid", True), bool)
            return np.ascontiguousarray(flow, np.float32), valid
    stored: Any = None  # [H, W, 2]
    if path.suffix == ".png":
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"{path} is not a KITTI flow image: expected 16 bit with 3 channels")
        valid = pixels[..., 0] > 0  # OpenCV reads blue first: valid, dy, dx
        stored = (pixels[..., 2:0:-1].astype(np.float32) - 2**15) / 64.0
    elif path.suffix == ".flo":
        with suppress(cv2.error):  # the header has a size that memory does not hold
            stored = cv2.readOpticalFlow(str(path))
        if stored is None or path.stat().st_size != 12 + stored.nbytes:
            raise ValueError(f"{path} is not a .flo file, or is damaged")
        valid = np.asarray((np.abs(stored) < 1e9).all(-1), bool)
    else:
        raise ValueError(f"{path} has no known flow format, expected one of {SUFFIXES}")
    return np.ascontiguousarray(np.where(valid, stored.transpose(2, 0, 1), 0), np.float32), valid


class PrecomputedFlow:
    """Flow of one clip, by its name, from a folder of the layout above, for a crop of source frames of a size (H, W)."""

    def __init__(self, folder: Path | str, name: str, crop: tuple[int, int, int, int], source_size: tuple[int, int]) -> None:
        self.folder, self.crop, self.source_size = Path(folder) / name, crop, source_size
        self.whole: dict[str, NDArray[np.floating]] = {}
        bundle = Path(folder) / f"{name}.npz"
        if bundle.is_file():
            with np.load(bundle, allow_pickle=False) as content:
                self.whole = {key: content[key] for key in ("flow", "backward", "valid") if key in content}
            if "flow" not in self.whole or self.whole["flow"].ndim != 4:
                raise ValueError(f"{bundle} must hold an array 'flow' [T, 2, H, W]")
        elif not self.folder.is_dir():
            raise ValueError(f"flow_folder holds no flow for clip {name!r}: neither {bundle} nor {self.folder}/")

    def _read(self, frame: int, suffix: str) -> tuple[Flow, Mask] | None:
        key = "backward" if suffix else "flow"
        if self.whole:
            if frame >= len(self.whole.get(key, ())):
                return None
            flow = self.whole[key][frame].astype(np.float32)
            known = self.whole["valid"][frame] if "valid" in self.whole and not suffix else True
            return flow, np.isfinite(flow).all(0) & np.asarray(known, bool)
        paths = (self.folder / f"{frame:06d}{suffix}{kind}" for kind in SUFFIXES)
        return next((read_flow(path) for path in paths if path.is_file()), None)

    def _fit(self, flow: Flow, valid: Mask, size: tuple[int, int]) -> tuple[Flow, Mask]:
        """Crop and scale flow of the source frame to the cached frame of the given size."""
        if flow.shape[1:] == size and size != self.source_size:
            return flow, valid
        if flow.shape[1:] != self.source_size:
            raise ValueError(
                f"precomputed flow in {self.folder} must have the size of the source frame {self.source_size} "
                f"or of the cached frame {size}, got {flow.shape[1:]}"
            )
        left, top, right, bottom = self.crop
        flow, valid = flow[:, top:bottom, left:right], valid[top:bottom, left:right]
        if flow.shape[1:] == size:
            return np.ascontiguousarray(flow), valid
        weight = valid.astype(np.float32)
        target = (size[1], size[0])
        share = cv2.resize(weight, target, interpolation=cv2.INTER_AREA)
        scale = (size[1] / flow.shape[2], size[0] / flow.shape[1])
        planes = [
            cv2.resize(np.nan_to_num(plane) * weight, target, interpolation=cv2.INTER_AREA) / np.maximum(share, 1e-6) * k
            for plane, k in zip(flow, scale, strict=True)
        ]
        return np.stack(planes).astype(np.float32), share > 0.5

    def __call__(self, source: Image, target: Image, frame: int) -> FlowPair:
        """Flow of the pair that starts at source frame ``frame``; invalid everywhere if there is no file for it."""
        size = source.shape[:2]
        found = self._read(frame, "")
        if found is None:
            return FlowPair(np.zeros((2, *size), np.float32), None, np.zeros(size, bool))
        forward, valid = self._fit(*found, size)
        back = self._read(frame, "_backward")
        return FlowPair(forward, self._fit(*back, size)[0] if back else None, valid)
