"""`laparoflow view` and `laparoflow predict` on a small video, with an untrained network and a head made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from laparoflow.bounds import plain
from laparoflow.cli import main
from laparoflow.files import write_json
from laparoflow.models import EncoderSettings, build_encoder, load_encoder
from laparoflow.models.backbone import TokenBackbone
from laparoflow.probes.heads import Head
from laparoflow.probes.saved import SavedHead, save_head, weights_hash
from laparoflow.report.predict import coco_instruments, pictures
from laparoflow.synthetic.dataset import write_video

SIZE = (32, 48)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run/, segmentation/ and keypoints/ (probes of it), and video.mp4: left half dark, right half bright, 10 frames."""
    root = tmp_path_factory.mktemp("place")
    settings = EncoderSettings(
        "laparoflow_convvit_mini", 32, backbone_options={"depth": 1, "embed_dim": 24, "num_heads": 2}, dim=8, hidden=8
    )
    encoder = build_encoder(settings, seed=0)
    state = {f"method.encoder.{name}": value for name, value in encoder.state_dict().items()}
    (root / "run" / "checkpoints").mkdir(parents=True)
    torch.save({"laparoflow_encoder": plain(settings), "state_dict": state}, root / "run" / "checkpoints" / "last.ckpt")
    frames = np.full((10, *SIZE, 3), 20, np.uint8)
    frames[:, :, 24:] = 230
    write_video(root / "video.mp4", frames, 10)
    encoder = load_encoder(root / "run")
    with torch.no_grad():
        features = encoder.features(torch.from_numpy(frames[:1]).permute(0, 3, 1, 2) / 255)
    bright = torch.nn.functional.normalize(features[0, :, 4, 9] - features[0, :, 4, 2], dim=0)
    for task, names in (("segmentation", ("dark", "bright")), ("keypoints", ("tip", "wrist"))):
        head = Head(features, 2, "linear").eval()
        with torch.no_grad():
            if task == "segmentation":
                head.network.weight[1, :, 0, 0] = bright * head.deviation.flatten()
                middle = (features[0, :, 4, 9] + features[0, :, 4, 2]) / 2 - head.mean.flatten()
                head.network.bias[1] = -(bright * middle).sum()
            else:
                draw = torch.Generator().manual_seed(0)
                head.network.weight[:] = 0.1 * torch.randn(head.network.weight.shape, generator=draw)
        saved = SavedHead(
            head, task, names, "trained", 4, 0, "linear", SIZE, encoder.feature_stride, weights_hash(encoder), threshold=0.0
        )
        save_head(saved, root / task)
        run = {"backbone": "trained", "labels": 4, "seed": 0, "head_file": saved.file}
        write_json(root / task / "metrics.json", {"runs": [run]})
    return root


def test_masks_are_right_and_at_the_picture_s_own_size(place: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    picture = np.full((64, 96, 3), 20, np.uint8)
    picture[:, 48:] = 230
    Image.fromarray(picture).save(tmp_path / "large.png")
    words = [str(place / "run"), str(place / "segmentation"), str(place / "video.mp4"), str(tmp_path / "large.png")]
    assert main(["predict", *words, "--out", str(out), "--every", "5"]) == 0
    assert "masks of 3 frames" in capsys.readouterr().out
    assert {path.name for path in (out / "masks").iterdir()} == {"video_000000.png", "video_000005.png", "large.png"}
    mask = np.array(Image.open(out / "masks" / "large.png"))
    assert mask.shape == (64, 96)
    assert (mask[16:48, 8:32] == 0).mean() > 0.9
    assert (mask[16:48, 64:88] == 1).mean() > 0.9
    names = [entry["name"] for entry in json.loads((out / "classes.json").read_text())["classes"]]
    assert names == ["dark", "bright"]
    assert main(["predict", *words, "--out", str(out)]) == 1  # it holds files


def test_key_points_are_read_by_pycocotools(place: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    words = [str(place / "run"), str(place / "keypoints"), str(place / "video.mp4")]
    assert main(["predict", *words, "--out", str(tmp_path / "out"), "--every", "9"]) == 0
    read = coco.COCO(str(tmp_path / "out" / "keypoints.json"))
    assert [image["file_name"] for image in read.loadImgs(read.getImgIds())] == ["video_000000", "video_000009"]
    assert read.loadCats(1)[0]["keypoints"] == ["tip", "wrist"]
    for annotation in read.loadAnns(read.getAnnIds()):
        assert len(annotation["keypoints"]) == 6


def test_a_joint_that_was_not_found_is_not_made_up() -> None:
    found = [np.array([[10.0, 12.0, 0.9]]), np.zeros((0, 3)), np.array([[14.0, 15.0, 0.6]])]
    (instrument,) = coco_instruments(found)
    assert instrument["keypoints"] == [10.0, 12.0, 2, 0, 0, 0, 14.0, 15.0, 2]
    assert instrument["num_keypoints"] == 2
    assert instrument["bbox"] == [10.0, 12.0, 4.0, 3.0]
    assert list(coco_instruments([np.zeros((0, 3))] * 2)) == []


def test_two_pictures_of_one_name_are_refused(place: Path, tmp_path: Path, capsys) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (48, 32)).save(tmp_path / folder / "1.png")
    assert [name for name, *_ in pictures([tmp_path / "a"], 1)] == ["1"]
    words = [str(place / "run"), str(place / "segmentation"), str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["predict", *words, "--out", str(tmp_path / "out")]) == 1
    assert "would both be written as 1" in capsys.readouterr().err


def test_view_writes_a_video_of_panels_at_the_stated_speed(place: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "view.mp4"
    words = [str(place / "video.mp4"), "--checkpoint", str(place / "run"), "--probe", str(place / "segmentation")]
    words += ["--width", "96", "--pixel", "40", "16", "--frame-rate", "5"]
    assert main(["view", *words, "--out", str(out), "--speed", "2"]) == 0
    assert "5 frames in" in (said := capsys.readouterr().out)
    assert "plays 10 frames a second, 2 x life" in said
    with av.open(str(out)) as container:
        assert container.streams.video[0].average_rate == 10
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5
    first, last = frames[0].astype(int), frames[-1].astype(int)
    similarity = last[22 + 64 + 22 : 2 * (22 + 64), :96]
    assert similarity[34:38, 82:86, 0].mean() > 200  # yellow in the pixel's own cell, which is alike in every frame
    assert similarity[30:34, 8:32, 0].mean() < 150
    features = np.abs(first - last)[22:86, 96:]
    assert features.mean() < 8  # equal frames have equal colours from the first to the last
    assert main(["view", *words, "--out", str(out)]) == 1
    assert "exists" in capsys.readouterr().err
    assert main(["view", *words, "--pixel", "48", "0", "--out", str(tmp_path / "b.mp4")]) == 1
    assert "pixel: expected x below 48" in capsys.readouterr().err


def test_view_writes_a_page_to_click_in(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "view.html"
    words = [str(place / "video.mp4"), "--checkpoint", str(place / "run"), "--probe", str(place / "segmentation")]
    assert main(["view", *words, "--out", str(out), "--frames", "2"]) == 0
    text = out.read_text(encoding="utf-8")
    view = json.loads(text.split('<script type="application/json">')[1].split("</script>")[0])
    assert len(view["frames"]) == 2
    assert set(view["frames"][0]["layers"]) == {"image", "PCA", "prediction"}
    assert "bright" in text


def test_the_backbone_sees_each_frame_once(place: Path, tmp_path: Path, monkeypatch) -> None:
    """10 frames in batches of 4, and the frames that colours are fitted to; pages look at 5 frames."""
    sizes: list[int] = []
    plain = TokenBackbone.forward
    monkeypatch.setattr(TokenBackbone, "forward", lambda self, images: (sizes.append(len(images)), plain(self, images))[1])
    words = [str(place / "video.mp4"), "--checkpoint", str(place / "run"), "--probe", str(place / "segmentation")]
    words += ["--frame-rate", "null", "--batch-size", "4"]
    assert main(["view", *words, "--out", str(tmp_path / "view.mp4")]) == 0
    assert sizes[-3:] == [4, 4, 2]
    fitted = sum(sizes[:-3])
    assert 1 <= fitted <= 16
    sizes.clear()
    assert main(["view", *words, "--out", str(tmp_path / "view.html"), "--frames", "5"]) == 0
    assert sum(sizes) == 5
    sizes.clear()
    words = [str(place / "run"), str(place / "segmentation"), words[0], "--batch-size", "4"]
    assert main(["predict", *words, "--out", str(tmp_path / "out")]) == 0
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize("task", ["segmentation", "keypoints"])
def test_a_batch_changes_no_prediction(place: Path, tmp_path: Path, task: str) -> None:
    found = []
    for size in ("1", "8"):
        out = tmp_path / size
        words = [str(place / "run"), str(place / task), str(place / "video.mp4"), "--batch-size", size, "--out", str(out)]
        assert main(["predict", *words]) == 0
        pictures = {path.name: np.array(Image.open(path)) for path in out.rglob("masks/*.png")}
        file = out / "keypoints.json"
        found.append((pictures, json.loads(file.read_text())["annotations"] if file.is_file() else []))
    assert found[0][0].keys() == found[1][0].keys()
    assert all((found[0][0][name] != found[1][0][name]).mean() < 0.01 for name in found[0][0])
    assert len(found[0][1]) == len(found[1][1])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert one["keypoints"] == pytest.approx(other["keypoints"], abs=1e-2)


@pytest.mark.parametrize("level", ["stem", "last", "both"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_features_and_embeddings_of_one_pass_are_those_of_two(blocks: int, level: str) -> None:
    options = {"depth": 2, "embed_dim": 24, "num_heads": 2}
    settings = EncoderSettings("vit_tiny_patch16_224", 32, backbone_options=options, feature_blocks=blocks, dim=8, hidden=8)
    encoder = build_encoder(settings, seed=0).eval().at(level)
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        features, embeddings = encoder.features_and_embeddings(images)
        torch.testing.assert_close(features, encoder.features(images))
        torch.testing.assert_close(embeddings, encoder(images))
