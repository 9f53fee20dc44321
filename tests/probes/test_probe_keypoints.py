"""The key-point probe: coordinates, several instruments, absent joints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import BlindEncoder, ColourEncoder, Dots

from laparoflow.probes.heatmaps import detect, focal_loss, heatmap_size, heatmap_target, rescaled
from laparoflow.probes.keypoints import best_threshold, probe_keypoints
from laparoflow.probes.settings import ProbeOptions

TRAIN, TEST = Dots().select(range(8)), Dots().select(range(8, 16))


@pytest.mark.parametrize("head", ["linear", "conv"])
def test_finds_all_joints_of_all_instruments(head: str) -> None:
    steps = 300 if head == "linear" else 80
    options = ProbeOptions(labels=["all"], seeds=[0], head=head, steps=steps, pictures=2)  # type: ignore[arg-type]
    result = probe_keypoints({"seeing": ColourEncoder(), "blind": BlindEncoder()}, TRAIN, TEST, options)
    seeing, blind = (run.metrics for run in result.runs)
    assert seeing["pck"]["0.05"] > 0.9
    assert seeing["rmse_px"] < 3
    assert seeing["f1"]["5"] > 0.85
    assert seeing["per_joint"]["green"]["points"] < seeing["per_joint"]["red"]["points"]
    assert blind["pck"]["0.05"] < 0.5
    assert set(result.pictures) >= {"seeing_f008", "seeing_features_pca", "blind_f015"}


@pytest.mark.parametrize("source", [(288, 384), (31, 17)])
def test_cells_and_pixels_invert_each_other(source: tuple[int, int]) -> None:
    points = np.random.default_rng(0).uniform(0, 30, (50, 2))
    assert np.allclose(rescaled(rescaled(points, source, (9, 12)), (9, 12), source), points)
    corners = rescaled(np.array([[-0.5, -0.5], [11.5, 8.5]]), (9, 12), source)
    assert np.allclose(corners, [[-0.5, -0.5], [source[1] - 0.5, source[0] - 0.5]])


def test_detection_recovers_targets_to_a_fraction_of_a_cell() -> None:
    truth = np.array([[[100.3, 40.7, 2], [0, 0, 0]], [[220.9, 150.2, 1], [33.3, 99.9, 2]]], dtype=np.float32)
    heat = heatmap_target(truth, (192, 256), (48, 64), 2.0)[0]
    found = detect(torch.logit(heat.clamp(1e-6, 1 - 1e-6)), (192, 256), 2)
    best = found[0][np.argsort(found[0][:, 0])]
    assert np.abs(best[:, :2] - [[100.3, 40.7], [220.9, 150.2]]).max() < 0.4
    assert np.abs(found[1][0, :2] - [33.3, 99.9]).max() < 0.4
    assert found[1][0, 2] > 0.9
    assert (found[1][1:, 2] < 0.01).all()


def test_absent_joint_has_an_empty_map() -> None:
    target = heatmap_target(np.zeros((2, 1, 3), dtype=np.float32), (8, 8), (4, 4), 1.0)
    assert target.shape == (2, 1, 4, 4)
    assert not target.any()


def test_focal_loss_is_small_only_at_the_target() -> None:
    target = heatmap_target(np.array([[[9.5, 9.5, 2]]], dtype=np.float32), (40, 40), (10, 10), 1.0)[None]
    right = torch.where(target[:, 1] > 0, 8.0, -8.0)
    assert focal_loss(right, target) < 1e-3
    assert focal_loss(right.roll(3, dims=-1), target) > 1
    assert focal_loss(torch.full_like(right, -8.0), target) > 1
    assert focal_loss(torch.full_like(right, 8.0), target) > 1


@pytest.mark.parametrize(("stride", "cells"), [(2, (96, 128)), (4, (48, 64)), (16, (48, 64)), (14, (96, 128))])
def test_heat_maps_are_at_most_four_pixels_coarse(stride: int, cells: tuple[int, int]) -> None:
    assert heatmap_size((192, 256), stride) == cells


def test_threshold_is_the_one_of_best_f1() -> None:
    found = [[np.array([[10.0, 10, 0.8], [30, 30, 0.6], [50, 50, 0.3]])]]
    truth = [np.array([[[10, 10, 2]], [[30, 30, 2]]], dtype=np.float32)]
    assert best_threshold(found, truth, 2.0) == 0.6


def test_heads_without_heat_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="linear or conv"):
        probe_keypoints(ColourEncoder(), TRAIN, TEST, ProbeOptions(labels=[1], head="knn"))
