import argparse
import os
import pathlib

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from laparoflow.bounds import plain
from laparoflow.models import EncoderSettings, build_encoder, load_encoder
from laparoflow.models.loading import AVERAGED_KEY, SETTINGS_KEY, find_checkpoint, initial_encoder

NAME, OPTIONS = "vit_tiny_patch16_224", {"depth": 1, "embed_dim": 32, "num_heads": 2}
MINI = EncoderSettings("laparoflow_convvit_mini", 32, dim=8, hidden=16)


def plain_model(size):
    torch.manual_seed(3)
    return timm.create_model(NAME, num_classes=0, img_size=size, **OPTIONS).eval()


def settings(path, size=64):
    return EncoderSettings(NAME, size, weights=path, backbone_options=OPTIONS, dim=8)


@pytest.mark.parametrize("layout", ["timm", "safetensors", "dino", "module"])
def test_local_weights_give_the_same_tokens(tmp_path, layout):
    model = plain_model(64)
    state = model.state_dict()
    path = tmp_path / ("w.safetensors" if layout == "safetensors" else "w.pth")
    if layout == "safetensors":
        save_file(state, path)
    elif layout == "dino":
        nested = {f"module.backbone.{name}": value for name, value in state.items()}
        torch.save({"teacher": nested | {"module.head.mlp.weight": torch.zeros(2, 2)}, "epoch": 3}, path)
    elif layout == "module":
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    else:
        torch.save(state, path)
    encoder = build_encoder(settings(path)).eval()
    images = torch.rand(1, 3, 64, 64)
    expected = model.forward_features(encoder.normalise(images))[:, 1:].transpose(1, 2).reshape(1, 32, 4, 4)
    torch.testing.assert_close(encoder.features(images), expected)


PREFIXES = ["module.", "model.", "encoder.", "backbone.", "student.", "teacher.", "module.base_encoder.", "a.b.c."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix_is_taken_off_and_said(tmp_path, caplog, prefix):
    model = plain_model(64)
    torch.save({f"{prefix}{name}": value for name, value in model.state_dict().items()}, tmp_path / "w.pth")
    encoder = build_encoder(settings(tmp_path / "w.pth"))
    assert torch.equal(encoder.backbone.model.cls_token, model.cls_token)
    assert repr(prefix) in caplog.text


def test_a_teacher_is_taken_before_a_student(tmp_path, caplog):
    state = plain_model(64).state_dict()
    both = {f"teacher.{name}": value for name, value in state.items()}
    both |= {f"student.{name}": value + 1 for name, value in state.items()}
    torch.save(dict(reversed(both.items())), tmp_path / "w.pth")
    assert torch.equal(build_encoder(settings(tmp_path / "w.pth")).backbone.model.cls_token, state["cls_token"])
    assert "not from under 'student.'" in caplog.text


def test_whole_training_files_of_dino_and_mae_are_read(tmp_path):
    model = plain_model(64)
    whole = {
        "model": model.state_dict(), "args": argparse.Namespace(lr=0.1, output_dir=pathlib.Path("out")), "epoch": 3,
        "loss": np.float64(0.5), "best": np.array(1.5, np.float32)[()], "steps": np.int64(7),
    }  # fmt: skip
    torch.save(whole, tmp_path / "w.pth")
    assert torch.equal(build_encoder(settings(tmp_path / "w.pth")).backbone.model.cls_token, model.cls_token)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-checkpoint",)


def test_files_that_are_no_checkpoints_are_named_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pth").write_text("every checkpoint is a text file")
    (tmp_path / "half.safetensors").write_bytes(b"abc")
    torch.save({"model": plain_model(64).state_dict(), "x": Harmful()}, tmp_path / "harmful.pth")
    for name in ("text.pth", "half.safetensors", "harmful.pth"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as a checkpoint"):
            build_encoder(settings(tmp_path / name))
    assert not (tmp_path / "made-by-a-checkpoint").exists()
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"holds nothing of the backbone; .*found layer\.weight"):
        build_encoder(settings(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("name", "patch"),
    [("vit_small_patch14_dinov2", 14), ("vit_small_patch14_reg4_dinov2", 14), ("vit_small_patch16_dinov3", 16)],
)
def test_dino_checkpoints_of_later_versions(tmp_path, name, patch):
    """As their authors publish them: with a mask token, registers under other names and beside a class place."""
    options = {"depth": 2, "embed_dim": 48, "num_heads": 2}
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, img_size=2 * patch, dynamic_img_size=True, **options).eval()
    state = {key: torch.randn_like(value) * 0.1 for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    published = state | {"mask_token": torch.zeros(1, 48)}
    if "reg4" in name:
        published["register_tokens"] = published.pop("reg_token")
        place = torch.randn(1, 1, 48)
        published["pos_embed"] = torch.cat([place, state["pos_embed"]], 1)
        published["cls_token"] = state["cls_token"] - place
    if "dinov3" in name:
        for ours, theirs in (("reg_token", "storage_tokens"), ("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma")):
            published = {key.replace(ours, theirs): value for key, value in published.items()}
    torch.save(published, tmp_path / "w.pth")
    encoder = build_encoder(
        EncoderSettings(name, 2 * patch, weights=tmp_path / "w.pth", backbone_options=options, dim=8, feature_blocks=2)
    ).eval()
    images = torch.rand(1, 3, 2 * patch, 3 * patch)
    tokens = model.forward_features(encoder.normalise(images))[:, model.num_prefix_tokens :]
    expected = tokens.transpose(1, 2).reshape(1, 48, 2, 3)
    torch.testing.assert_close(encoder.tokens(images), expected)
    torch.testing.assert_close(encoder.features(images)[:, 48:], expected)


def test_a_file_that_may_want_another_normalisation_is_told_of_it(tmp_path, caplog):
    options = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    plain, tagged = "vit_small_patch16_224", "vit_small_patch16_224.dino"
    torch.save(timm.create_model(plain, num_classes=0, img_size=32, **options).state_dict(), tmp_path / "w.pth")

    def build(backbone, weights=tmp_path / "w.pth", **more):
        caplog.clear()
        encoder = build_encoder(EncoderSettings(backbone, 32, weights=weights, backbone_options=options, dim=8, **more))
        return encoder.image_mean.flatten().tolist(), caplog.text

    mean, text = build(plain)
    assert mean == pytest.approx([0.5, 0.5, 0.5])
    assert "w.pth runs with mean (0.5, 0.5, 0.5)" in text
    assert f"{tagged} (mean (0.485, 0.456, 0.406))" in text
    mean, text = build(tagged)
    assert mean == pytest.approx([0.485, 0.456, 0.406])
    assert not text
    assert not build(plain, weights=None)[1]
    assert not build(plain, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5])[1]


def test_position_embedding_of_another_size_is_resampled(tmp_path):
    torch.save(plain_model(64).state_dict(), tmp_path / "w.pth")
    encoder = build_encoder(settings(tmp_path / "w.pth", size=96))
    assert encoder.backbone.model.pos_embed.shape == (1, 1 + 36, 32)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    state = plain_model(64).state_dict()
    state.pop("blocks.0.attn.qkv.weight")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.qkv\.weight"):
        build_encoder(settings(tmp_path / "w.pth"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not fit"):
        build_encoder(settings(tmp_path / "other.pth"))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_damaged_and_missing_files_are_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        build_encoder(settings(tmp_path / name))
    (tmp_path / name).write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=name):
        build_encoder(settings(tmp_path / name))


def test_checkpoint_round_trip_prefers_the_average(tmp_path):
    encoder = build_encoder(MINI, seed=1).eval()
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    state = {f"method.encoder.{name}": value for name, value in encoder.state_dict().items()}
    content = {"state_dict": state | {"method.other": torch.zeros(1)}, SETTINGS_KEY: plain(MINI)}
    torch.save(content, folder / "last.ckpt")
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(load_encoder(tmp_path / "run").features(images), encoder.features(images))
    averaged = build_encoder(MINI, seed=2).eval()
    torch.save(content | {AVERAGED_KEY: averaged.state_dict()}, folder / "last.ckpt")
    assert torch.equal(load_encoder(tmp_path / "run").features(images), averaged.features(images))
    assert torch.equal(load_encoder(tmp_path / "run", averaged=False).features(images), encoder.features(images))
    assert not torch.equal(initial_encoder(tmp_path / "run").features(images), encoder.features(images))


def test_folders_without_a_checkpoint_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt"):
        load_encoder(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="laparoflow pretrain"):
        load_encoder(tmp_path / "x.ckpt")


def test_a_checkpoint_of_another_network_is_refused_with_what_differs(tmp_path):
    encoder = build_encoder(MINI, seed=1)
    state = {f"method.encoder.{name}": value for name, value in encoder.state_dict().items()}
    path = tmp_path / "x.ckpt"
    changed = dict(state)
    changed["method.encoder.old_part.weight"] = changed.pop("method.encoder.head.projection.0.bias")
    changed["method.encoder.head.projection.0.weight"] = torch.zeros(3, 3, 1, 1)
    torch.save({"state_dict": changed, SETTINGS_KEY: plain(MINI)}, path)
    with pytest.raises(ValueError, match=r"x\.ckpt does not fit") as refused:
        load_encoder(path)
    for part in ("projection.0.bias: expected (16,), found none", "old_part.weight: expected none, found (16,)"):
        assert part in str(refused.value)
    assert "found (3, 3, 1, 1)" in str(refused.value)
    torch.save({"state_dict": state, SETTINGS_KEY: plain(MINI) | {"older_name": 1}}, path)
    with pytest.raises(ValueError, match="older_name"):
        load_encoder(path)
    torch.save({SETTINGS_KEY: plain(MINI)}, path)
    with pytest.raises(ValueError, match="more"):
        load_encoder(path)


def test_the_newest_checkpoint_counts_where_the_last_one_could_not_be_written(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    last, step = folder / "last.ckpt", folder / "step_0000030.ckpt"
    torch.save({"global_step": 20}, last)
    torch.save({"global_step": 30}, step)
    os.utime(last, (100, 100))
    assert find_checkpoint(tmp_path) == step
    torch.save({"global_step": 33}, last)  # stopped by a signal, then copied: times no longer tell
    os.utime(last, (100, 100))
    assert find_checkpoint(tmp_path) == last
    os.utime(step, (50, 50))
    assert find_checkpoint(tmp_path) == last
