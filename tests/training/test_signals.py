"""A run that is told to stop in mid-epoch goes on as if nothing had happened, bit for bit."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from run_logs import logged

from laparoflow.models import load_encoder
from laparoflow.training.run import pretrain
from laparoflow.training.settings import plain

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
    assert "--resume true" in text
    stopped = torch.load(cut.out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 5 <= stopped < steps - 5
    pretrain(make_settings("cut", trainer, max_steps=steps, resume=True))
    after, expected = logged(cut.out), logged(whole.out)
    assert [after[step] for step in range(stopped, stopped + 5)] == [
        expected[step] for step in range(stopped, stopped + 5)
    ]
    one, two = (load_encoder(settings.out).state_dict() for settings in (whole, cut))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_torchrun_trains_on_two_processes(make_settings, tmp_path):
    settings = make_settings("two", max_steps=3)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    process = start(settings, tmp_path, *launcher)
    text, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, text
    assert yaml.safe_load((settings.out / "run.json").read_text())["processes"] == 2
    assert len(logged(settings.out)) == 3
