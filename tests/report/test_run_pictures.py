"""Pictures of a pretraining run: from a real cache and a real checkpoint, and nothing when they are gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from laparoflow.models import EncoderSettings, build_encoder
from laparoflow.report import run_pictures, write_report
from laparoflow.report.files import write_json
from laparoflow.report.pictures import GAP
from laparoflow.report.run_pictures import query_pixels, weight_pictures
from laparoflow.synthetic import SceneParameters, write_dataset
from laparoflow.video.cache import CachedFrame, FrameCache
from laparoflow.video.prepare import prepare
from laparoflow.video.settings import PrepareSettings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `pretrain` leaves it, beside the cache it names."""
    root = tmp_path_factory.mktemp("run")
    write_dataset(root / "data", SceneParameters(height=48, width=64), 1, 8, 0, flow=False)
    prepare([root / "data" / "videos"], root / "cache", PrepareSettings(short_side=None, frame_rate=None, min_motion=0))
    folder = root / "run"
    (folder / "checkpoints").mkdir(parents=True)
    options = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    settings = EncoderSettings("laparoflow_convvit_mini", 32, backbone_options=options, dim=8, hidden=8)
    encoder = build_encoder(settings, seed=0)
    state = {f"method.encoder.{name}": value for name, value in encoder.state_dict().items()}
    torch.save({"laparoflow_encoder": settings.plain(), "state_dict": state}, folder / "checkpoints" / "last.ckpt")
    write_json(folder / "run.json", {"kind": "pretrain", "steps": 1})
    method = {"name": "flow", "flow": {"guide": "flow", "bandwidth": 0.7}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": str(root / "cache"), "method": method}))
    return folder


def test_page_shows_flow_weights_features_and_retrieval(run: Path, tmp_path: Path) -> None:
    text = write_report([run], tmp_path / "page.html").read_text(encoding="utf-8")
    for caption in ("frame and its flow", "pair weights of the marked", "principal components", "similarity to the marked"):
        assert caption in text


def test_page_without_cache_or_checkpoint(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints")
    text = write_report([copy], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "frame and its flow" in text
    assert "similarity to the marked" not in text
    (copy / "config.yaml").write_text("data: /nowhere\n")
    assert "frame and its flow" not in write_report([copy], tmp_path / "other.html").read_text(encoding="utf-8")


def two_motions() -> CachedFrame:
    flow = np.zeros((2, 32, 32), dtype=np.float32)
    flow[0, :, 20:] = 6
    valid = np.ones((32, 32), dtype=bool)
    valid[:, :4] = False
    return CachedFrame(np.zeros((32, 32, 3), dtype=np.uint8), flow, valid, 0, 0, 0.0, 1)


def test_weights_are_high_where_motion_is_alike() -> None:
    frame = two_motions()
    (_, x), *_ = query_pixels(frame)
    assert x >= 20
    panel = weight_pictures(frame, {"bandwidth": 0.2})[:, 36:68].astype(int)
    moving, still, masked = panel[2, 30].sum(), panel[2, 10].sum(), panel[2, 1].sum()
    assert moving > still + 100
    assert masked == still


def test_queries_are_valid_pixels() -> None:
    frame = two_motions()
    assert all(frame.valid[y, x] for y, x in query_pixels(frame))
    frame.valid[:] = False
    assert query_pixels(frame) == [(16, 16)]


def test_cache_is_opened_as_written(run: Path) -> None:
    cache = FrameCache.open(run.parent / "cache")
    assert len(cache) > 0


class PlaceEncoder(torch.nn.Module):
    """Embeddings by place: those of one cell are alike to themselves alone."""

    feature_stride = 16

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = (side // 4 for side in images.shape[-2:])
        return torch.eye(height * width).reshape(1, height, width, -1).permute(0, 3, 1, 2)


def test_the_cell_that_is_compared_is_the_one_that_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a frame that is no multiple of the stride the network sees a part, in which its cells lie."""
    marked = []
    monkeypatch.setattr(run_pictures, "_mark", lambda picture, place: marked.append(place) or picture)
    height, width = 46, 63
    flow = np.zeros((2, height, width), np.float32)
    flow[:, :, 40:] = 9
    frame = CachedFrame(np.zeros((height, width, 3), np.uint8), flow, np.ones((height, width), bool), 0, 0, 0.0, 1)
    sheet = run_pictures.retrieval_picture(PlaceEncoder(), frame, frame)  # type: ignore[arg-type]
    assert sheet.shape[0] == 32  # what is seen is 32 x 48
    heat = sheet[:, 48 + GAP :][:, :48].astype(int).sum(-1)
    rows, columns = np.nonzero(heat == heat[marked[0]])
    assert (set(rows // 4), set(columns // 4)) == ({marked[0][0] // 4}, {marked[0][1] // 4})
    assert len(rows) == 16, "one cell is alike, that of the mark"
    assert (marked[2][0] // 4, marked[2][1] // 4) == (marked[0][0] // 4, marked[0][1] // 4)
