"""A run that is told to stop in mid-epoch goes on as if nothing had happened, bit for bit."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from run_logs import logged

from laparoflow.bounds import plain
from laparoflow.cli import main
from laparoflow.methods.settings import FlowSettings, MethodSettings
from laparoflow.models import load_encoder
from laparoflow.models.loading import AVERAGED_KEY
from laparoflow.training import module as module_file
from laparoflow.training.run import Interrupted, pretrain

LIMIT = 180


def wait_for(path, process):
    deadline = time.monotonic() + LIMIT
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start(settings, folder, *prefix):
    config = folder / "settings.yaml"
    config.write_text(yaml.safe_dump(plain(settings)))
    command = [*(prefix or (sys.executable,)), "-m", "laparoflow", "pretrain", "--config", str(config)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="no SIGTERM on this system")
def test_terminated_run_resumes_bit_for_bit(make_settings, tmp_path):
    torch.set_num_threads(1)
    trainer = {"checkpoint_every": 5, "keep": 1}
    steps = 30
    whole = make_settings("whole", trainer, max_steps=steps)
    pretrain(whole)
    cut = make_settings("cut", trainer, max_steps=steps)
    process = start(cut, tmp_path)
    wait_for(cut.out / "checkpoints" / "step_0000005.ckpt", process)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + signal.SIGTERM, text
    command = next(line for line in text.splitlines() if "Go on: " in line).partition("Go on: ")[2]
    assert command == f"laparoflow pretrain --data {cut.data} --out {cut.out} --resume true"
    stopped = torch.load(cut.out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 5 <= stopped < steps - 5
    assert main(shlex.split(command)[1:]) == 0
    after, expected = logged(cut.out), logged(whole.out)
    assert [after[step] for step in range(stopped, stopped + 5)] == [
        expected[step] for step in range(stopped, stopped + 5)
    ]
    one, two = (load_encoder(settings.out).state_dict() for settings in (whole, cut))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_sigterm_saves_is_all_of_one_step(make_settings, monkeypatch):
    method = MethodSettings(flow=FlowSettings(momentum=0.9))
    options = {"trainer": {"average": 0.9, "checkpoint_every": 2}, "max_steps": 5, "method": method}
    whole = make_settings("whole", **options)
    pretrain(whole)
    plain_views = module_file.two_views

    def told(batch, *rest):
        if int(batch.number[0]) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain_views(batch, *rest)

    monkeypatch.setattr(module_file, "two_views", told)
    with pytest.raises(Interrupted):
        pretrain(make_settings("cut", **options))
    monkeypatch.undo()
    cut = make_settings("cut", resume=True, **options)
    assert pretrain(cut)["steps"] == 5
    assert sorted(logged(cut.out)) == [0, 1, 2, 3, 4]
    for part in ("state_dict", AVERAGED_KEY):
        one, two = (torch.load(s.out / "checkpoints" / "last.ckpt", weights_only=True)[part] for s in (whole, cut))
        assert [name for name in one if not torch.equal(one[name], two[name])] == [], part


@pytest.mark.slow
def test_torchrun_trains_on_two_processes(make_settings, tmp_path):
    settings = make_settings("two", max_steps=3)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    process = start(settings, tmp_path, *launcher)
    text, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, text
    assert yaml.safe_load((settings.out / "run.json").read_text())["processes"] == 2
    assert len(logged(settings.out)) == 3


def test_an_interrupt_before_the_first_checkpoint_saves_too(make_settings, tmp_path):
    settings = make_settings(trainer={"checkpoint_every": 1000, "workers": 1}, max_steps=500)
    process = start(settings, tmp_path)
    wait_for(settings.out / "logs" / "csv" / "from_step_0" / "metrics.csv", process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the reading process too
    text, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, text
    assert "Traceback" not in text
    assert f"Go on: laparoflow pretrain --data {settings.data} --out {settings.out} --resume true" in text
    stopped = torch.load(settings.out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 1 <= stopped < 500


def test_full_shared_memory_names_the_way_out(make_settings, monkeypatch):
    def full(self, key):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)")

    monkeypatch.setattr("laparoflow.training.frames.CachedFrames.__getitems__", full)
    with pytest.raises(RuntimeError, match=r"--trainer.workers 0.*--shm-size") as error:
        pretrain(make_settings(trainer={"workers": 1}))
    assert "\n" not in str(error.value)


def test_a_run_says_its_threads_and_its_rate_without_a_terminal(make_settings, monkeypatch, capsys):
    monkeypatch.setattr("laparoflow.progress.EVERY", 0.0)
    pretrain(make_settings(trainer={"progress": True}, max_steps=3))
    lines = capsys.readouterr().err.splitlines()
    assert any("cores: 1 process of " in line for line in lines)
    steps = [line for line in lines if line.startswith("steps: ")]
    assert len(steps) == 3
    assert "3 of 3" in steps[-1] and "left" in steps[-1] and "loss " in steps[-1]
