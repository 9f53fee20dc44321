"""Pretrain, export the backbone, go on from it with a part frozen."""

import pytest
import torch

from laparoflow.export.timm_weights import write_timm
from laparoflow.models import EncoderSettings, load_encoder
from laparoflow.training.run import pretrain
from laparoflow.training.settings import OptimiserSettings


@pytest.mark.parametrize("freeze", ["stem", 1])
def test_a_run_goes_on_from_exported_weights_and_keeps_what_is_frozen(make_settings, tmp_path, freeze):
    begun = make_settings("begun", max_steps=2)
    pretrain(begun)
    exported = load_encoder(begun.out)
    write_timm(exported, tmp_path / "backbone.safetensors")
    start = EncoderSettings("laparoflow_convvit_mini", 32, weights=tmp_path / "backbone.safetensors", dim=8, hidden=16)
    went_on = make_settings("went_on", max_steps=2, encoder=start, optimiser=OptimiserSettings(freeze=freeze))
    pretrain(went_on)
    before = exported.backbone.model.state_dict()
    after = load_encoder(went_on.out).backbone.model.state_dict()
    kept = ("patch_embed.", "pos_embed") if freeze == "stem" else ("patch_embed.", "pos_embed", "blocks.0.")
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith(kept), name
