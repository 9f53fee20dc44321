"""Rates are those of what was done, and the command reports them."""

import json
import time

import pytest
import torch
import yaml

from laparoflow.bounds import plain
from laparoflow.cli import main
from laparoflow.training.clock import RateMeter, Stopwatch


def test_a_rate_is_frames_over_the_time_inside(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = RateMeter()
    for seconds in (1.0, 3.0):
        with meter.measure(8, torch.device("cpu")):
            now[0] += seconds
        now[0] += 100.0  # what happens outside does not count
    assert meter.read() == pytest.approx(4.0)
    assert meter.read() == 0.0


def test_the_share_of_waiting(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = Stopwatch()
    for _ in range(4):
        now[0] += 1.0
        watch.batch_arrived()
        now[0] += 3.0
        watch.batch_done()
    assert watch.read() == (16.0, 0.25)
    now[0] += 2.0
    assert watch.read() == (2.0, 0.0)


def test_the_command_reports_reading_views_and_steps(make_settings, tmp_path, capsys):
    values = plain(make_settings(max_steps=1))
    del values["out"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    out = tmp_path / "speed.json"
    assert main(["speed", "--config", str(tmp_path / "recipe.yaml"), "--batches", "3", "--out", str(out)]) == 0
    speed = json.loads(out.read_text())
    for name in ("read", "views", "step"):
        assert speed[name] > 0
    assert speed["views_and_step"] < min(speed["views"], speed["step"])
    assert 0 <= speed["wait_share"] < 1
    assert (speed["device"], speed["batch_size"], speed["batches"]) == ("cpu", 2, 3)
    assert "of a step" in capsys.readouterr().out
    assert main(["speed", "--data", "nowhere", "--batches", "0"]) == 2
    assert "batches" in capsys.readouterr().err
    assert main(["speed", "--data", str(tmp_path / "nowhere")]) == 1
