import json

import pytest
import timm
import torch

from laparoflow.cli import main
from laparoflow.models import EncoderSettings, build_encoder, load_encoder
from laparoflow.models.loading import SETTINGS_KEY

PLAIN = EncoderSettings(
    "vit_tiny_patch16_224", 32, backbone_options={"depth": 1, "embed_dim": 32, "num_heads": 2}, embed_stride=4, dim=8
)
CONV = EncoderSettings("laparoflow_convvit_mini", 32, dim=8, hidden=16)


@pytest.fixture(params=[PLAIN, CONV], ids=["vit", "convvit"])
def run(request, tmp_path):
    """A run folder as ``pretrain`` leaves it, without the training."""
    encoder = build_encoder(request.param, seed=1)
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    state = {f"method.encoder.{name}": value for name, value in encoder.state_dict().items()}
    torch.save({"state_dict": state, SETTINGS_KEY: request.param.plain()}, folder / "checkpoints" / "last.ckpt")
    (folder / "run.json").write_text(json.dumps({"method": "flow", "steps": 4, "data_hash": "abc123", "commit": "f00"}))
    (folder / "config.yaml").write_text(
        "data: /secret/place\nmax_steps: 4\nencoder: {weights: /secret/start.pth}\nonline: {root: /secret/labels}\n"
    )
    return folder


def test_exported_weights_give_the_same_features_in_plain_timm(run, tmp_path):
    out = tmp_path / "m.safetensors"
    assert main(["export", str(run), "--format", "timm", "--out", str(out)]) == 0
    encoder = load_encoder(run)
    settings = encoder.settings
    model = timm.create_model(
        settings.backbone, checkpoint_path=str(out), num_classes=0, img_size=32, **settings.backbone_options
    ).eval()
    image = encoder.normalise(torch.rand(2, 3, 32, 32))
    ours = encoder.backbone.model.forward_features(image)
    assert (model.forward_features(image) - ours).abs().max() <= 1e-5 * ours.abs().max()
    card = (tmp_path / "m.safetensors.md").read_text()
    assert "abc123" in card
    assert "f00" in card
    assert "max_steps: 4" in card
    assert "secret" not in card and "start.pth" in card


@pytest.mark.parametrize("change", [{"embed_dim": 48}, {"img_size": 64}, {"reg_tokens": 2}, "pooling"])
def test_a_wrong_size_or_pooling_does_not_load(run, tmp_path, change):
    out = tmp_path / "m.safetensors"
    assert main(["export", str(run), "--out", str(out)]) == 0
    settings = load_encoder(run).settings
    if change == "pooling":
        pooled = settings.backbone == CONV.backbone  # which has no class token
        change = {"global_pool": "token", "class_token": True} if pooled else {"global_pool": "avg"}
    with pytest.raises(RuntimeError):
        timm.create_model(
            settings.backbone,
            checkpoint_path=str(out),
            num_classes=0,
            **(settings.backbone_options | {"img_size": 32} | change),
        )


def test_onnx_gives_what_pytorch_gives(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "m.onnx"
    assert main(["export", str(run), "--format", "onnx", "--out", str(out)]) == 0
    encoder = load_encoder(run)
    images = torch.rand(3, 3, 32, 32)
    features, embeddings = onnxruntime.InferenceSession(str(out)).run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(features), encoder.features(images), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.from_numpy(embeddings), encoder(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--format", "timm", "--out", "m.onnx"], "safetensors"),
        (["--format", "onnx", "--out", "m.bin"], ".onnx"),
        (["--format", "onnx", "--out", "m.onnx", "--image_size", "33", "32"], "multiples"),
    ],
)
def test_wrong_requests_leave_nothing(run, tmp_path, words, text, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), *words]) == 1
    assert text in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_an_existing_file_is_kept(run, tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    out.write_text("precious")
    assert main(["export", str(run), "--out", str(out)]) == 1
    assert "overwrite" in capsys.readouterr().err
    assert out.read_text() == "precious"
