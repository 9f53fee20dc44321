"""The interactive view of a pretraining run: from a real cache and a real checkpoint, and nothing when they are gone."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from laparoflow.bounds import plain
from laparoflow.files import write_json
from laparoflow.methods.flow import FlowSettings
from laparoflow.methods.settings import MethodSettings
from laparoflow.models import EncoderSettings, build_encoder, load_encoder
from laparoflow.report import write_report
from laparoflow.report.explore import Item, _from_plain, cached_frames, explore_run, explorer
from laparoflow.synthetic import SceneParameters, write_dataset
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
    torch.save({"laparoflow_encoder": plain(settings), "state_dict": state}, folder / "checkpoints" / "last.ckpt")
    write_json(folder / "run.json", {"kind": "pretrain", "steps": 1})
    method = {"name": "flow", "flow": {"guide": "flow", "bandwidth": 0.7, "contrast": {"standardise": False}}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": str(root / "cache"), "method": method}))
    return folder


def vectors(frame: dict) -> np.ndarray:
    """[h, w, D] as the page's script reads them."""
    values = np.frombuffer(base64.b64decode(frame["embedding"]), np.int8).astype(np.float32) * frame["scale"]
    return values.reshape(frame["height"], frame["width"], -1)


def test_view_holds_embeddings_and_guides_of_frames_and_their_other_views(run: Path) -> None:
    frames = cached_frames(run)
    view = explore_run(run, frames, [("labelled", {"image": frames[0].image, "truth": frames[0].image}, (32, 48))])
    assert [frame["group"] for frame in view["frames"]] == [0, 0, 1, 1, 2, 2, -1]
    assert (view["kernel"], view["bandwidth"]) == ("tophat", 0.7)
    encoder = load_encoder(run)
    image = torch.from_numpy(frames[1].image).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = F.normalize(encoder(image), dim=1)[0].permute(1, 2, 0).numpy()
    assert np.abs(vectors(view["frames"][2]) - expected).max() <= view["frames"][2]["scale"]
    guide = np.frombuffer(base64.b64decode(view["frames"][2]["guide"]), np.float32)
    assert guide.size == 2 * expected[..., 0].size
    assert np.isfinite(guide).any()
    assert view["frames"][-1]["guide"] is None
    assert list(view["frames"][-1]["layers"]) == ["image", "PCA", "truth"]


def test_large_maps_are_averaged_and_long_vectors_keep_their_products() -> None:
    draw = torch.Generator().manual_seed(0)
    basis = torch.randn(40, 100, generator=draw)
    embedding = torch.einsum("khw,kc->chw", torch.randn(40, 50, 130, generator=draw), basis)
    item = Item("a", np.zeros((50, 130, 3), np.uint8), embedding[:4], embedding, guide=torch.zeros(2, 50, 130))
    (frame,) = explorer([item])["frames"]
    assert (frame["height"], frame["width"]) == (16, 43)
    assert len(base64.b64decode(frame["guide"])) == 4 * 2 * 16 * 43
    rows = vectors(frame).reshape(-1, 64)
    wanted = F.normalize(F.avg_pool2d(embedding[None], 3)[0].flatten(1), dim=0)
    assert np.abs(rows @ rows.T - (wanted.T @ wanted).numpy()).max() < 0.03


def test_page_with_and_without_cache_and_checkpoint(run: Path, tmp_path: Path) -> None:
    text = write_report([run], tmp_path / "whole.html").read_text(encoding="utf-8")
    assert 'class="explorer"' in text
    assert "over 1 frames" in text or "over 2 frames" in text  # the wheel with its scale
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints")
    text = write_report([copy], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "its flow (black: left out)" in text
    assert 'class="explorer"' not in text
    (copy / "config.yaml").write_text("data: /nowhere\n")
    text = write_report([copy], tmp_path / "other.html").read_text(encoding="utf-8")
    assert "its flow" not in text
    assert "features and similarities are not shown" in text
    assert "cache was looked for at /nowhere" in text


def test_settings_of_another_version_are_read_as_far_as_they_go() -> None:
    read = _from_plain(MethodSettings, {"name": "flow", "flow": {"bandwidth": 0.3, "gone": 1}, "unknown": {}})
    assert read == MethodSettings(name="flow", flow=FlowSettings(bandwidth=0.3))
