"""A cache as version 0.1 wrote it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laparoflow.bounds import plain
from laparoflow.video.settings import PrepareSettings


def write_version_1(old: Path) -> dict[str, NDArray[Any]]:
    """A clip of two shards, of two frames and of none; returns the arrays of the first."""
    rng = np.random.default_rng(0)
    folder = old / "clips" / "a"
    folder.mkdir(parents=True)
    ramp = np.broadcast_to(np.linspace(0, 250, 26).astype(np.uint8)[:, None], (2, 20, 26, 3))
    arrays = {
        "frames": np.ascontiguousarray(ramp),
        "flow": rng.normal(0, 2, (2, 2, 20, 26)).astype(np.float16),
        "valid": np.packbits(rng.random((2, 20, 26)) > 0.3, axis=-1),
    }
    files = {}
    for part, array in arrays.items():
        path = folder / f"00000.{part}.npy"
        np.save(path, array)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    samples = [{"frame": k, "time": k / 25, "gap": 1 + k, "motion": 2.0} for k in range(2)]
    (folder / "00000.json").write_text(json.dumps({"number": 0, "samples": samples, "excluded": {}, "files": files}))
    (folder / "00001.json").write_text(json.dumps({"number": 1, "samples": [], "excluded": {"black": [2]}, "files": {}}))
    clip = {
        "name": "a", "source": "a.mp4", "fingerprint": "f", "frames": 2, "height": 20, "width": 26, "frame_rate": 25.0,
        "shards": 2, "content_hash": "c", "decoder": "d", "border": {}, "report": {"excluded": {"black": [2]}},
    }  # fmt: skip
    (folder / "clip.json").write_text(json.dumps(clip))
    settings = plain(PrepareSettings(dis_preset="fine", frame_rate=None))
    for later in ("flow_stride", "jpeg_quality"):
        del settings[later]
    (old / "cache.json").write_text(json.dumps({"format": "laparoflow-cache", "version": 1, "settings": settings}))
    return arrays
