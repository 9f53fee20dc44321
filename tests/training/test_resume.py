"""A run goes on with the settings and the data that it was begun with, whatever is given again."""

import json
import shutil

import pytest
import torch
import yaml
from run_logs import logged

from laparoflow.bounds import plain
from laparoflow.cli import main
from laparoflow.methods.settings import CoordinateSettings, MethodSettings
from laparoflow.models import EncoderSettings
from laparoflow.training.run import pretrain
from laparoflow.training.settings import OnlineSettings, OptimiserSettings

NETWORK = {"backbone": "laparoflow_convvit_mini", "image_size": 32, "hidden": 16}


def content(out):
    """Every file of a run, as bytes."""
    return {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def saved(out):
    return torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 3, "seed": 1}, ["batch_size: was 2, now 3", "seed: was 0, now 1"]),
        ({"optimiser": OptimiserSettings(rate=1e-2)}, ["optimiser.rate: was 0.0005, now 0.01"]),
        ({"encoder": EncoderSettings(**NETWORK, dim=4)}, ["encoder.dim: was 8, now 4"]),
        ({"method": MethodSettings("coordinates")}, ["method.name: was 'flow', now 'coordinates'"]),
        ({"trainer": {"accumulate": 2, "average": 0.9}}, ["trainer.accumulate: was 1, now 2", "trainer.average: was"]),
    ],
)
def test_other_settings_are_refused_before_any_work_and_named(make_settings, changes, named):
    settings = make_settings(max_steps=1)
    pretrain(settings)
    before = content(settings.out)
    with pytest.raises(ValueError, match=r"was not begun like this.*config\.yaml") as refused:
        pretrain(make_settings(max_steps=2, resume=True, **changes))
    assert [text for text in named if text not in str(refused.value)] == []
    assert str(refused.value).count(": was ") == len(named)
    assert content(settings.out) == before


def test_what_the_steps_do_not_depend_on_may_change_and_is_recorded(make_settings):
    settings = make_settings(max_steps=1)
    pretrain(settings)
    other = make_settings(
        trainer={"workers": 1, "log_every": 2, "checkpoint_every": 7, "verify": "sizes"},
        max_steps=2,
        online=OnlineSettings(every=2),
        method=MethodSettings(coordinates=CoordinateSettings(bandwidth=2.0)),  # of a method that is not trained
        resume=True,
    )
    assert pretrain(other)["steps"] == 2
    record = yaml.safe_load((settings.out / "config.yaml").read_text())
    assert record == plain(other) | {"resume": False}


def test_a_cache_may_move_but_not_change(make_settings, tmp_path):
    settings = make_settings(max_steps=1)
    pretrain(settings)
    moved = make_settings(max_steps=2, resume=True)
    moved.data = shutil.copytree(settings.data, tmp_path / "moved")
    assert pretrain(moved)["steps"] == 2
    header = json.loads((moved.data / "cache.json").read_text())
    header["settings"]["min_motion"] = -1.0
    (moved.data / "cache.json").write_text(json.dumps(header))
    before = content(settings.out)
    with pytest.raises(ValueError, match=r"data: was \S+moved with content [0-9a-f]{64}, now \S+moved with [0-9a-f]{64}\."):
        pretrain(moved)
    assert content(settings.out) == before


def test_the_short_command_goes_on_with_the_settings_of_the_run(make_settings, tmp_path, capsys):
    settings = make_settings("whole", {"checkpoint_every": 2, "keep": 9}, optimiser=OptimiserSettings(rate=1e-3))
    mine = {key: value for key, value in plain(settings).items() if key not in ("data", "out", "resume")}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    begin = ["pretrain", "--config", str(tmp_path / "mine.yaml"), "--data", str(settings.data), "--batch-size", "3"]
    assert main([*begin, "--out", str(settings.out)]) == 0
    cut = tmp_path / "cut"
    (cut / "checkpoints").mkdir(parents=True)
    shutil.copy(settings.out / "config.yaml", cut)
    shutil.copy(settings.out / "checkpoints" / "step_0000002.ckpt", cut / "checkpoints")
    go_on = ["pretrain", "--data", str(settings.data), "--out", str(cut), "--resume", "true"]

    before = content(cut)
    for words, named in (
        (["--optimiser.rate", "0.01"], "optimiser.rate: was 0.001, now 0.01."),
        (["--config", str(tmp_path / "mine.yaml")], "batch_size: was 3, now 2."),
    ):
        assert main([*go_on, *words]) == 1
        assert f"not begun like this: {named}" in capsys.readouterr().err
    assert content(cut) == before

    assert main([*begin, "--out", str(cut), "--resume", "true", "--max-steps", "3"]) == 0  # all given again
    assert main([*go_on, "--max-steps", "4"]) == 0
    one, two = (yaml.safe_load((out / "config.yaml").read_text()) for out in (settings.out, cut))
    assert (two["batch_size"], two["optimiser"]["rate"]) == (3, 1e-3)
    assert two == one | {"out": str(cut)}
    assert logged(cut)[2] == logged(settings.out)[2]
    assert sorted(logged(cut)) == [2, 3]


def test_a_run_goes_on_without_the_weights_that_it_started_from(make_settings, tmp_path):
    pretrain(make_settings("source", max_steps=1))
    weights = shutil.copy(tmp_path / "source" / "checkpoints" / "last.ckpt", tmp_path / "start.ckpt")
    encoder = EncoderSettings(**NETWORK, dim=8, weights=weights)
    pretrain(make_settings(max_steps=1, encoder=encoder))
    weights.unlink()
    resumed = make_settings(max_steps=2, encoder=encoder, resume=True)
    assert pretrain(resumed)["steps"] == 2
    assert saved(resumed.out)["laparoflow_settings"]["encoder"]["weights"] == str(weights)


def test_a_network_that_another_version_built_is_refused(make_settings):
    settings = make_settings(max_steps=1)
    pretrain(settings)
    state = saved(settings.out)
    name = next(name for name in state["state_dict"] if "head" in name)
    state["state_dict"][name] = state["state_dict"][name][:1]
    torch.save(state, settings.out / "checkpoints" / "last.ckpt")
    with pytest.raises(ValueError, match=rf"to resume, does not fit.*{name}: expected"):
        pretrain(make_settings(max_steps=2, resume=True))
