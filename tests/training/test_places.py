"""A run finds its cache again from another folder, or says where it looked."""

import shutil

import yaml

from laparoflow.files import write_json
from laparoflow.training.places import DATA_FILE, candidates, data_places, find_data


def lay_out(root, given, stored=True):
    """A cache and a run below ``root``, the run made from ``root`` with ``data: given``."""
    for folder in ("cache", "runs/one"):
        (root / folder).mkdir(parents=True)
    (root / "cache" / "cache.json").write_text("{}")
    run = root / "runs" / "one"
    (run / "config.yaml").write_text(yaml.safe_dump({"data": given}))
    if stored:
        write_json(run / DATA_FILE, data_places(run, root / "cache"))
    return run


def test_a_relative_path_is_found_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    for name, stored in (("new", True), ("old", False)):
        run = lay_out(tmp_path / name, "cache", stored)
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert find_data(run).resolve() == tmp_path / name / "cache"


def test_run_and_cache_that_moved_together_are_found(tmp_path):
    run = lay_out(tmp_path / "here", str(tmp_path / "here" / "cache"))
    assert find_data(run) == tmp_path / "here" / "cache"
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert find_data(tmp_path / "there" / "runs" / "one").resolve() == tmp_path / "there" / "cache"
    shutil.rmtree(tmp_path / "there" / "cache")
    assert find_data(tmp_path / "there" / "runs" / "one") is None
    assert tmp_path / "here" / "cache" in candidates(tmp_path / "there" / "runs" / "one")
