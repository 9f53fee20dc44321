import json
import shutil

import pytest
import timm
import torch
from huggingface_hub import HfApi, ModelCard, RepoUrl

from laparoflow.bounds import plain
from laparoflow.cli import main
from laparoflow.models import EncoderSettings, build_encoder, load_encoder
from laparoflow.models.loading import SETTINGS_KEY
from laparoflow.probes.heads import Head
from laparoflow.probes.saved import SavedHead, load_head, save_head, weights_hash

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
    torch.save({"state_dict": state, SETTINGS_KEY: plain(request.param)}, folder / "checkpoints" / "last.ckpt")
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


@pytest.mark.slow
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
        (["--format", "timm", "--out", "m.safetensors", "--licence", "mit"], "format hub"),
    ],
)
def test_wrong_requests_leave_nothing(run, tmp_path, words, text, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), *words]) != 0
    assert text in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_an_existing_file_is_kept(run, tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    out.write_text("precious")
    assert main(["export", str(run), "--out", str(out)]) == 1
    assert "overwrite" in capsys.readouterr().err
    assert out.read_text() == "precious"


@pytest.fixture
def offline(monkeypatch):
    """No name is looked up: a socket is an error."""

    def refuse(*arguments, **options):
        raise AssertionError("something asked for the network")

    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.fixture
def probe(run, tmp_path):
    """A probe's folder with two heads of the run and one of another backbone, without the training."""
    encoder = load_encoder(run)
    out = tmp_path / "probe-seg"
    runs = []
    for backbone, labels in (("trained", 1), ("trained", 5), ("random", 5)):
        torch.manual_seed(labels)
        head = Head(torch.randn(4, encoder.feature_dim, 8, 8), 3, "linear").eval()
        torch.nn.init.normal_(head.network.weight)
        saved = SavedHead(
            head, "segmentation", ("a", "b", "c"), backbone, labels, 0, "linear", (32, 32), encoder.feature_stride,
            weights_hash(encoder),
        )  # fmt: skip
        save_head(saved, out)
        runs.append({"backbone": backbone, "labels": labels, "seed": 0, "head_file": saved.file, "train_frames": ["Mr X"]})
    mean = {"mean": 0.625, "deviation": None, "values": [0.625]}
    summary = [{"backbone": r["backbone"], "labels": r["labels"], "seeds": [0], "mean_iou": mean} for r in runs]
    settings = {"root": "/secret/place"}
    content = {"task": "segmentation", "dataset": "synthetic", "settings": settings, "summary": summary, "runs": runs}
    (out / "metrics.json").write_text(json.dumps(content))
    return out


def test_a_hub_folder_loads_in_timm_and_here(run, probe, tmp_path, offline):
    out = tmp_path / "hub"
    words = ["export", str(run), "--format", "hub", "--out", str(out), "--probes", str(probe), "--licence", "cc-by-nc-4.0"]
    assert main(words) == 0
    encoder, again = load_encoder(run), load_encoder(out)
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    images = torch.rand(2, 3, 32, 32)
    ours = encoder.backbone.model.forward_features(encoder.normalise(images))
    assert (model.forward_features(encoder.normalise(images)) - ours).abs().max() <= 1e-5 * ours.abs().max()
    assert torch.equal(again(images), encoder(images))  # the pixel head, too
    data = timm.data.resolve_model_data_config(model)
    assert torch.allclose(torch.tensor(data["mean"]), encoder.image_mean.flatten())
    assert data["input_size"] == (3, 32, 32)
    larger = timm.create_model(f"local-dir:{out}", pretrained=True, img_size=64).eval()  # as the card says
    assert larger(torch.rand(1, 3, 64, 64)).shape == (1, encoder.feature_dim)
    kept = load_head(out / "probes" / "probe-seg", encoder=again)
    picture = (torch.rand(40, 48, 3) * 255).byte().numpy()
    wanted = load_head(probe, encoder=encoder)
    assert len(set(wanted.predict(encoder, [picture])[0].flatten())) > 1
    assert kept.labels == 5
    assert (kept.predict(again, [picture])[0] == wanted.predict(encoder, [picture])[0]).all()
    assert len(list(out.glob("probes/*/heads/*.safetensors"))) == 2  # those of the trained backbone


def test_the_card_of_a_hub_folder(run, probe, tmp_path):
    out = tmp_path / "hub"
    words = ["export", str(run), "--format", "hub", "--out", str(out)]
    assert main([*words, "--probes", str(probe), "--licence", "cc-by-nc-4.0"]) == 0
    card = ModelCard((out / "README.md").read_text())
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.library_name == "timm"
    assert "| probe-seg | synthetic | 5 | mean_iou | 0.6250 |" in card.text
    for text in ("abc123", "img_size=SIDE", 'local-dir:hub"', "push_to_hf_hub"):
        assert text in card.text
    everything = "".join(path.read_text() for path in out.rglob("*") if path.suffix in (".md", ".json"))
    assert "secret" not in everything
    assert "Mr X" not in everything
    assert main([*words, "--overwrite", "true"]) == 0  # without probes and licence, in place of the first
    assert ModelCard((out / "README.md").read_text()).data.license == "other"
    assert not (out / "probes").exists()


def test_push_to_hf_hub_uploads_what_was_exported(run, tmp_path, monkeypatch):
    out = tmp_path / "hub"
    assert main(["export", str(run), "--format", "hub", "--out", str(out)]) == 0
    model = timm.create_model(f"local-dir:{out}", pretrained=True)
    sent = tmp_path / "sent"
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **options: RepoUrl(f"https://huggingface.co/{name}"))
    monkeypatch.setattr(HfApi, "file_exists", lambda self, **options: True)
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, folder_path, **options: shutil.copytree(folder_path, sent))
    timm.models.push_to_hf_hub(model, "me/hub", safe_serialization=True)
    pushed = timm.create_model(f"local-dir:{sent}", pretrained=True).eval()
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(pushed(image), model.eval()(image))


def test_a_hub_folder_replaces_no_folder_of_others(run, tmp_path, capsys):
    out = tmp_path / "precious"
    out.mkdir()
    (out / "file").write_text("precious")
    assert main(["export", str(run), "--format", "hub", "--out", str(out), "--overwrite", "true"]) == 1
    assert "no folder of `laparoflow export" in capsys.readouterr().err
    assert (out / "file").read_text() == "precious"
    assert not list(tmp_path.glob(".*"))


def test_a_probe_of_another_network_is_refused(run, probe, tmp_path, capsys):
    head = probe / "heads" / "trained_5_0.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"encoder_hash": "0" * 64}))
    words = ["export", str(run), "--format", "hub", "--out", str(tmp_path / "hub"), "--probes", str(probe)]
    assert main(words) == 1
    assert "other weights" in capsys.readouterr().err
    assert not (tmp_path / "hub").exists()
