"""The script that makes the README's pictures, on small results."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from laparoflow.files import write_png
from laparoflow.report.pictures import beside
from laparoflow.synthetic import DEFAULT, write_dataset
from scripts.readme_pictures import PEERS, demo_picture, memory_picture, read, transfer_picture
from tests.docs.pages import ROOT


def test_the_demo_picture_shows_each_frame_with_its_own_features(tmp_path):
    """Frame n is painted with the grey 40 n everywhere; so are the features of the pretrained network."""
    probe = tmp_path / "probe"
    plain = [np.full((30, 40, 3), 40 * number, np.uint8) for number in range(5)]
    for who in ("random", "trained"):
        for number, picture in enumerate(plain):
            write_png(probe / "predictions" / f"{who}_clip_{number}.png", beside([picture] * 3))
        write_png(probe / "features" / f"{who}_features_pca.png", beside(plain))
    demo_picture(probe, tmp_path / "demo.png", frames=(1, 4))
    found = read(tmp_path / "demo.png")
    for number, row in ((1, 0.35), (4, 0.8)):
        line = found[int(row * found.shape[0])]
        columns = [line[int((column + 0.5) * found.shape[1] / 6)] for column in range(6)]
        assert np.abs(np.stack(columns).astype(int) - 40 * number).max() <= 3
    with pytest.raises(FileNotFoundError, match="make demo"):  # a folder without pictures
        demo_picture(tmp_path / "probe" / "features", tmp_path / "nothing.png", frames=())


class Blank:
    """A network whose features are the colours of the frame, or nothing."""

    def __init__(self, factor):
        self.factor = factor

    def eval(self):
        return self

    def levels(self, images):
        colours = functional.avg_pool2d(images, 4)
        return {"both": self.factor * colours + 0.01 * torch.rand(colours.shape, generator=torch.Generator().manual_seed(0))}


def test_the_picture_of_propagation_shows_both_networks_on_an_unseen_clip(tmp_path, monkeypatch):
    write_dataset(tmp_path / "synthetic", DEFAULT, 3, 8, 0, label_every=2, flow=False)
    monkeypatch.setattr("scripts.readme_pictures.load_encoder", lambda run: Blank(1.0))
    monkeypatch.setattr("scripts.readme_pictures.initial_encoder", lambda run, seed: Blank(0.0))
    transfer_picture(tmp_path, tmp_path / "propagation.png", clips=("clip_002",), first_unseen="clip_002", labels=4)
    picture = read(tmp_path / "propagation.png")
    columns = np.array_split(picture[30:].astype(int), 6, axis=1)
    small = min(column.shape[1] for column in columns)
    for one, other in ((0, 1), (2, 3), (4, 5)):  # frame and truth, untrained and pretrained
        assert np.abs(columns[one][:, :small] - columns[other][:, :small]).mean() > 1


def test_the_memory_picture_is_drawn_from_the_results_file(tmp_path):
    memory_picture(ROOT / "benchmarks" / "results" / "cpu.json", tmp_path / "memory.png")
    assert min(cv2.imread(str(tmp_path / "memory.png")).shape[:2]) > 300
    results = json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text())
    assert set(PEERS) <= {row["peer"] for row in results["rows"]}
