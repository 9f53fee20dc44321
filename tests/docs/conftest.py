"""The playground: a folder in which every name that the pages use exists, small and generated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.docs.pages import PAGES, blocks

RECIPE = """
batch_size: 2
encoder: {backbone: laparoflow_convvit_mini, image_size: 32, dim: 8, hidden: 16}
views: {size: [16, 16]}
trainer: {accelerator: cpu, progress: false, tensorboard: false}
"""


@pytest.fixture(scope="session")
def playground(tmp_path_factory) -> Path:
    """videos/, labelled/, data/NAME/, cache/, run/, probe/, backbone.safetensors, and the YAML files of the pages."""
    from laparoflow.cli import main
    from laparoflow.synthetic import SceneParameters, write_dataset
    from tests.docs.commands import SMALL
    from tests.video.version_1 import write_version_1

    root = tmp_path_factory.mktemp("playground")
    write_dataset(root / "labelled", SceneParameters(height=64, width=64), 3, 8, flow=True, label_every=2)
    (root / "videos").mkdir()
    shutil.copy(root / "labelled" / "videos" / "clip_000.mp4", root / "videos")
    write_labelled_sets(root / "data")
    write_version_1(root / "old-cache")
    for page in PAGES:
        for block in blocks(page, "yaml"):
            name = block.text.splitlines()[0].removeprefix("# ")
            if name.endswith(".yaml"):
                (root / name).write_text(block.text)
    (root / "evidence-small.yaml").write_text(RECIPE)
    steps = [
        ["prepare", str(root / "videos"), "--out", str(root / "cache")],
        ["prepare", str(root / "videos"), "--out", str(root / "cache-stack"), "--frame-rate", "null",
         "--gap-choice", "stack", "--gaps", "-1", "1"],
        ["pretrain", "--data", str(root / "cache"), "--out", str(root / "run")],
        ["export", str(root / "run"), "--out", str(root / "backbone.safetensors")],
        ["probe", "--task", "segmentation", "--dataset", "synthetic", "--root", str(root / "labelled"), "--checkpoint",
         str(root / "run"), "--out", str(root / "probe")],
    ]  # fmt: skip
    for words in steps:
        shorter = ["--max-steps", "1"] if words[0] == "pretrain" else []  # so that a resumed run has a step left
        assert main([*words, *SMALL[words[0]], *shorter]) == 0, words
    return root


def write_labelled_sets(data: Path) -> None:
    """Each public set that has a reader, in its own layout, from the miniatures of the readers' tests."""
    from tests.datasets import miniatures

    for name in ("cholecseg8k", "m2caiseg", "sar_rarp50", "endovis15_pose", "sznitman",
                 "endovis15_robotic", "endovis15_rigid", "coco_keypoints", "coco_segmentation"):  # fmt: skip
        getattr(miniatures, name)(data / name)
    points = data / "coco_keypoints" / "annotations" / "keypoints.json"
    content = json.loads(points.read_text())  # a part without labels to score is refused, so every picture gets some
    content["annotations"] = [{**content["annotations"][0], "id": k, "image_id": k} for k in (1, 2, 3)]
    points.write_text(json.dumps(content))
    own = data / "image_masks"
    for video in ("a", "b", "c"):
        for number in range(2):
            miniatures.save(own / "images" / video / f"{number}.png", np.full((32, 32, 3), 40 * number))
            miniatures.save(own / "masks" / video / f"{number}.png", np.eye(32))
    (own / "classes.json").write_text('{"classes": ["tissue", "instrument"], "ignore": [255]}')


@pytest.fixture
def in_playground(playground, monkeypatch) -> Path:
    """The playground as the current folder."""
    monkeypatch.chdir(playground)
    return playground
