"""The segmentation probe finds what the features hold, and nothing where they hold nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import BlindEncoder, Blocks, ColourEncoder

from laparoflow.datasets.samples import IGNORE_INDEX
from laparoflow.probes.clusters import fit_knn
from laparoflow.probes.heads import moments
from laparoflow.probes.segmentation import class_shares, probe_segmentation, share_loss
from laparoflow.probes.settings import ProbeOptions

TRAIN, TEST = Blocks().select(range(6)), Blocks().select(range(6, 12))


@pytest.mark.parametrize("head", ["linear", "conv", "knn", "kmeans"])
def test_heads_on_perfect_and_on_blind_features(head: str) -> None:
    options = ProbeOptions(labels=[3], seeds=[0, 1], head=head, steps=60, pictures=0)  # type: ignore[arg-type]
    result = probe_segmentation({"seeing": ColourEncoder(), "blind": BlindEncoder()}, TRAIN, TEST, options)
    scores = {(run.backbone, run.seed): run.metrics["mean_iou"] for run in result.runs}
    assert len(scores) == 4
    for seed in (0, 1):
        assert scores["seeing", seed] > 0.9
        assert scores["blind", seed] < 0.35


def test_same_seed_same_scores_and_labels_are_recorded() -> None:
    options = ProbeOptions(labels=[1, 4], seeds=[7], steps=30)
    first = probe_segmentation(ColourEncoder(), TRAIN, TEST, options)
    again = probe_segmentation(ColourEncoder(), TRAIN, TEST, options)
    assert [run.metrics for run in first.runs] == [run.metrics for run in again.runs]
    small, large = (run.train_frames for run in first.runs)
    assert len(small) == 1
    assert len(large) == 4
    assert set(small) < set(large)
    assert set(large) <= {frame.name for frame in TRAIN.frames}


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    probe_segmentation(ColourEncoder(), TRAIN, TEST, ProbeOptions(labels=[2], seeds=[0], steps=5, pictures=0))
    assert torch.equal(torch.rand(3), expected)


def test_pictures_show_picture_truth_and_prediction() -> None:
    options = ProbeOptions(labels=[2], seeds=[0], steps=5, pictures=2)
    result = probe_segmentation(ColourEncoder(), TRAIN, TEST, options)
    names = set(result.pictures)
    assert names == {"trained_f006", "trained_f011", "trained_features_pca"}
    picture = result.pictures["trained_f006"]
    assert (picture[:, :48] == TEST[0].image).all()
    assert picture.shape[1] == 3 * 48 + 8


def test_class_shares_count_labelled_pixels_only() -> None:
    mask = np.array([[0, 0, 1, IGNORE_INDEX], [0, 1, IGNORE_INDEX, IGNORE_INDEX]])
    shares = class_shares(mask, 2, (1, 2))
    assert shares[:, 0].tolist() == [[0.75, 0.0], [0.25, 0.25]]


def test_share_loss_is_cross_entropy_for_whole_cells() -> None:
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    labels[0, 0] = IGNORE_INDEX
    shares = torch.stack([class_shares(row.numpy(), 3, (4, 5)) for row in labels])
    expected = torch.nn.functional.cross_entropy(maps, labels, ignore_index=IGNORE_INDEX)
    assert torch.allclose(share_loss(maps, shares), expected)


def test_too_many_labels_says_how_many_there_are() -> None:
    with pytest.raises(ValueError, match="22 frames, the training part has 6"):
        probe_segmentation(ColourEncoder(), TRAIN, TEST, ProbeOptions())


def test_size_must_fit_the_stride() -> None:
    with pytest.raises(ValueError, match="stride 4"):
        probe_segmentation(ColourEncoder(), TRAIN, TEST, ProbeOptions(labels=[1], image_size=(30, 48)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": []}, "labels and seeds"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"head": "forest"}, "head must be"),
        ({"steps": 0}, "steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbeOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("head", ["linear", "knn"])
def test_large_feature_caches_are_kept_in_half_precision(monkeypatch: pytest.MonkeyPatch, head: str) -> None:
    options = ProbeOptions(labels=[4], seeds=[0], head=head, steps=40, pictures=0)  # type: ignore[arg-type]
    whole = probe_segmentation(ColourEncoder(), TRAIN, TEST, options).runs[0].metrics["mean_iou"]
    monkeypatch.setattr("laparoflow.probes.features.MOST_FLOAT32", 10)
    half = probe_segmentation(ColourEncoder(), TRAIN, TEST, options).runs[0].metrics["mean_iou"]
    assert half == pytest.approx(whole, abs=0.02)
    assert half > 0.9


def test_moments_are_those_of_all_cells() -> None:
    features = torch.randn(70, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
    mean, deviation = moments(features)
    assert torch.allclose(mean, features.mean((0, 2, 3), keepdim=True), rtol=1e-5)
    assert torch.allclose(deviation, features.std((0, 2, 3), keepdim=True, correction=0), rtol=1e-5)


def test_votes_of_neighbours_sum_to_one_where_cells_are_labelled_in_part() -> None:
    features = torch.nn.functional.normalize(torch.rand(1, 4, 2, 2), dim=1)
    shares = torch.tensor([[1.0, 0.0, 0.25, 0.0], [0.0, 0.5, 0.0, 0.0]]).reshape(1, 2, 2, 2)  # the last cell has no label
    scores = fit_knn(features, shares, neighbours=3, seed=0)(features)
    torch.testing.assert_close(scores.sum(1), torch.ones(1, 2, 2))
