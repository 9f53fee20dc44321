"""Sharing the work: any number of ranks, processes and interruptions gives the same cache."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from footage import SMALL_SHARDS, tree, video

from laparoflow.video.cache import FrameCache
from laparoflow.video.parallel import rank_and_world_size, units_of
from laparoflow.video.prepare import prepare

CHILD = """
import json, sys
from pathlib import Path
from laparoflow.video.prepare import prepare
from laparoflow.video.settings import PrepareSettings
if __name__ == "__main__":
    settings = PrepareSettings(**json.loads(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()
    prepare([Path(sys.argv[2])], Path(sys.argv[3]), settings, progress=False, workers=int(sys.argv[4]))
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder with two videos of 28 and 23 frames and the tree of their undisturbed cache."""
    root = tmp_path_factory.mktemp("source")
    video(root / "videos" / "a.mp4", 28, seed=0)
    video(root / "videos" / "b.mp4", 23, seed=1)
    prepare([root / "videos"], root / "whole", SMALL_SHARDS, progress=False)
    return root / "videos", tree(root / "whole")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}, (1, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1)),  # a batch script, not a step
    ],
)
def test_rank_and_world_size(monkeypatch, variables, expected):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert rank_and_world_size() == expected


@pytest.mark.parametrize(("clips", "world"), [(1, 1), (5, 2), (2, 5), (3, 3), (1, 4), (100, 7)])
def test_ranks_cover_the_work_once(clips, world):
    shares = [units_of(clips, rank, world) for rank in range(world)]
    every = [unit for share in shares for unit in share]
    assert all(shares) or clips < world
    assert len(every) == len(set(every))
    for clip in range(clips):
        parts = [(part, of) for c, part, of in every if c == clip]
        assert sorted(part for part, _ in parts) == list(range(parts[0][1]))


def as_rank(monkeypatch, rank, world):
    """What torchrun tells a process."""
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))


@pytest.mark.parametrize("world", [2, 5])
def test_any_number_of_ranks_gives_the_same_cache(source, tmp_path, world, monkeypatch):
    videos, whole = source
    for rank in random.Random(world).sample(range(world), world):
        as_rank(monkeypatch, rank, world)
        prepare([videos], tmp_path / "cache", SMALL_SHARDS, progress=False)
    assert tree(tmp_path / "cache") == whole


def test_a_rank_writes_its_own_shards_and_no_more(source, tmp_path, monkeypatch):
    videos, _ = source
    folder = tmp_path / "cache" / "clips" / "a"
    for rank, own in ((1, {1, 4}), (2, {1, 2, 4, 5})):
        as_rank(monkeypatch, rank, 3)
        report = prepare([videos / "a.mp4"], tmp_path / "cache", SMALL_SHARDS, progress=False)
        assert {int(path.stem) for path in folder.glob("0*.json")} == own
        assert report.prepared == []
        assert not (folder / "clip.json").exists()
    as_rank(monkeypatch, 0, 3)
    report = prepare([videos / "a.mp4"], tmp_path / "cache", SMALL_SHARDS, progress=False)
    assert report.prepared == ["a"]


def test_ranks_at_the_same_time_on_one_clip(source, tmp_path):
    """Three processes share the shards of one video, without knowing of each other but by rank."""
    videos, whole = source
    children = [
        start(videos / "a.mp4", tmp_path / "cache", environment={"RANK": str(rank), "WORLD_SIZE": "3"}) for rank in range(3)
    ]
    for child in children:
        go(child)
    for child in children:
        output, _ = child.communicate(timeout=100)
        assert (child.returncode, output) == (0, "done\n")
    expected = {name: content for name, content in whole.items() if "/b" not in name}
    assert tree(tmp_path / "cache") == expected


def test_launcher_variables_are_used(source, tmp_path, monkeypatch):
    videos, whole = source
    for rank in (1, 0):
        as_rank(monkeypatch, rank, 2)
        report = prepare([videos], tmp_path / "cache", SMALL_SHARDS, progress=False)
        assert (report.rank, report.world_size, len(report.prepared)) == (rank, 2, 1)
    assert tree(tmp_path / "cache") == whole
    as_rank(monkeypatch, 2, 2)
    with pytest.raises(ValueError, match=r"RANK must be in \[0, WORLD_SIZE\), got 2 of 2"):
        prepare([videos], tmp_path / "cache", SMALL_SHARDS, progress=False)
    with pytest.raises(ValueError, match="workers"):
        prepare([videos], tmp_path / "cache", SMALL_SHARDS, progress=False, workers=-1)


def start(videos, out, workers=1, script=None, environment=None) -> subprocess.Popen:
    settings = json.dumps(asdict(SMALL_SHARDS))
    program = [str(script)] if script else ["-c", CHILD]
    command = [sys.executable, *program, settings, str(videos), str(out), str(workers)]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    assert child.stdin is not None
    return child


def go(child: subprocess.Popen) -> None:
    child.stdin.write("\n")
    child.stdin.flush()


def test_worker_processes_give_the_same_cache(source, tmp_path):
    videos, whole = source
    script = tmp_path / "run.py"
    script.write_text(CHILD)
    command = [sys.executable, str(script), json.dumps(asdict(SMALL_SHARDS)), str(videos), str(tmp_path / "cache"), "3"]
    subprocess.run(command, input="\n", text=True, check=True, timeout=100, capture_output=True)
    assert tree(tmp_path / "cache") == whole


DOOMED = """
import os, signal, sys
calls, last = 0, int(os.environ["last"])
def count(frame, event, argument):
    global calls
    calls += 1
    if calls == last:
        os.kill(os.getpid(), signal.SIGKILL)
prepare_alone = prepare
def prepare(*arguments, **options):
    sys.setprofile(count)
    prepare_alone(*arguments, **options)
    sys.setprofile(None)
    print(calls)
"""


def test_killed_at_random_moments_ten_times_the_cache_is_the_same(source, tmp_path):
    """SIGKILL before a random call or return, ten times, again and again on what the last run left behind."""
    videos, whole = source
    out, chance, script = tmp_path / "cache", random.Random(0), tmp_path / "run.py"
    script.write_text(CHILD.replace("if __name__", DOOMED + "if __name__", 1))

    def run(folder: Path, last: int) -> tuple[int, str]:
        child = start(videos, folder, script=script, environment={"last": str(last)})
        go(child)
        output, _ = child.communicate(timeout=100)
        return child.returncode, output

    status, output = run(tmp_path / "counting", 0)
    assert status == 0
    calls = int(output.split()[0])
    kills = 0
    while kills < 10:
        status, _ = run(out, chance.randrange(1, calls // 2))
        assert status in (0, -signal.SIGKILL)
        kills += status != 0
        for clip in (out / "clips").glob("*/clip.json"):
            assert clip.read_bytes() == whole[str(clip.relative_to(out))]
        if status == 0:
            assert tree(out) == whole
            shutil.rmtree(out)
    assert prepare([videos], out, SMALL_SHARDS, progress=False).problems == {}
    assert tree(out) == whole
    assert len(FrameCache.open(out)) > 40


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, seconds: float) -> bool:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


HELD = """
import os, time
from laparoflow.video.flow import DISFlow
estimate = DISFlow.__call__
def held(self, *arguments):
    open(f"{os.environ['hold']}.{os.getpid()}", "w").close()
    while os.path.exists(os.environ["hold"]):
        time.sleep(0.01)
    return estimate(self, *arguments)
DISFlow.__call__ = held
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_workers_end_with_their_parent_and_a_killed_worker_is_reported(source, tmp_path, victim):
    """The first pair of frames takes until a file is gone, so that no process is done before another is killed."""
    videos, whole = source
    script, hold = tmp_path / "run.py", tmp_path / "hold"
    script.write_text(HELD + CHILD)
    hold.touch()
    child = start(videos, tmp_path / "cache", workers=2, script=script, environment={"hold": str(hold)})
    go(child)
    assert until(lambda: len(list(tmp_path.glob("hold.*"))) == 2, 300)  # both workers are at their first pair
    workers = [int(path.suffix[1:]) for path in tmp_path.glob("hold.*")]
    if victim == "parent":
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=100)
        assert until(lambda: not any(map(alive, workers)), 300)
    else:
        os.kill(workers[-1], signal.SIGKILL)
        output, _ = child.communicate(timeout=100)
        assert (child.returncode, output) == (1, "")
    assert not list((tmp_path / "cache").rglob("clip.json"))
    prepare([videos], tmp_path / "cache", SMALL_SHARDS, progress=False)
    assert tree(tmp_path / "cache") == whole


def test_interrupted_work_is_kept(source, tmp_path):
    """Stopped within the second clip, the next run does not touch what was finished."""
    videos, whole = source
    out = tmp_path / "cache"
    prepare([videos / "a.mp4"], out, SMALL_SHARDS, progress=False)
    for path in sorted((out / "clips" / "a").glob("00003*")) + [out / "clips" / "a" / "clip.json"]:
        path.unlink()
    stamps = {path: path.stat().st_mtime_ns for path in (out / "clips" / "a").glob("*.bin")}
    report = prepare([videos], out, SMALL_SHARDS, progress=False)
    assert report.prepared == ["a", "b"]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert tree(out) == whole
