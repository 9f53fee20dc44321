import itertools
from pathlib import Path

import pytest

from laparoflow.methods.build import build_method
from laparoflow.methods.settings import MethodSettings
from laparoflow.models import EncoderSettings, build_encoder
from laparoflow.training.optim import freeze, parameter_groups, rate_at
from laparoflow.training.settings import OptimiserSettings, PretrainSettings


def method():
    return build_method(build_encoder(EncoderSettings("laparoflow_convvit_mini", 16, dim=8)), MethodSettings())


def test_schedule_warms_up_and_ends_low():
    settings = OptimiserSettings(warmup=0.1, final_rate=0.02)
    rates = [rate_at(step, 100, settings) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == rates[10] == 1.0
    assert rates[100] == pytest.approx(0.02)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.51)


def test_layer_decay_and_weight_decay_reach_the_right_parameters():
    model = method()
    settings = OptimiserSettings(rate=1.0, layer_decay=0.5, weight_decay=0.3)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, 2, settings)
        for p in group["params"]
    }
    backbone = "encoder.backbone.model."
    assert len(found) == len(names)
    assert found[backbone + "patch_embed.proj.0.weight"] == (0.125, 0.3)
    assert found[backbone + "pos_embed"] == (0.125, 0.0)
    assert found[backbone + "blocks.0.attn.qkv.weight"] == (0.25, 0.3)
    assert found[backbone + "blocks.1.attn.qkv.bias"] == (0.5, 0.0)
    assert found["encoder.head.projection.0.weight"] == (1.0, 0.3)


def test_a_teacher_is_not_optimised():
    settings = MethodSettings()
    settings.flow.momentum = 0.9
    model = build_method(build_encoder(EncoderSettings("laparoflow_convvit_mini", 16, dim=8)), settings)
    groups = parameter_groups(model, 2, OptimiserSettings())
    optimised = {id(p) for group in groups for p in group["params"]}
    assert not optimised & {id(p) for p in model.teacher.parameters()}


@pytest.mark.parametrize("change", [{"rate": 0.0}, {"warmup": 1.0}, {"layer_decay": 0.0}])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=f"optimiser.{next(iter(change))}"):
        PretrainSettings(Path("cache"), Path("out"), optimiser=OptimiserSettings(**change))


@pytest.mark.parametrize(("part", "kept"), [("stem", ()), (1, ("blocks.0.",)), (2, ("blocks.0.", "blocks.1."))])
def test_what_is_frozen_is_not_trained(part, kept):
    model = method()
    freeze(model, 2, part)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    wanted = ("patch_embed.", "pos_embed", *kept)
    starts = tuple("encoder.backbone.model." + start for start in wanted)
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(starts)}
    trained = [p for group in parameter_groups(model, 2, OptimiserSettings()) for p in group["params"]]
    assert len(trained) == len(list(model.parameters())) - len(frozen)


@pytest.mark.parametrize("part", [0, 3, "head"])
def test_a_part_that_the_backbone_has_not_is_refused(part):
    with pytest.raises(ValueError, match=r"optimiser\.freeze: expected stem, null or a number of blocks from 1 to 2"):
        freeze(method(), 2, part)
