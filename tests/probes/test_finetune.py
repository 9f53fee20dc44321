"""Training the backbone too: it learns what frozen features lack, and leaves its start alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import HEIGHT, WIDTH, Blocks, ColourEncoder, Dots

from laparoflow.probes.finetune import augment
from laparoflow.probes.instruments import group_instruments, instrument_areas
from laparoflow.probes.keypoints import probe_keypoints
from laparoflow.probes.segmentation import probe_segmentation
from laparoflow.probes.settings import ProbeOptions


class DeadEncoder(nn.Module):
    """Features are zero until its weight is trained."""

    feature_dim = 6
    feature_stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.colour = ColourEncoder()
        self.gain = nn.Parameter(torch.zeros(6, 1, 1))

    def features(self, images: Tensor) -> Tensor:
        return self.colour.features(images) * self.gain


def test_finetuning_learns_where_frozen_features_are_blind() -> None:
    train, test = Blocks().select(range(6)), Blocks().select(range(6, 12))
    encoder = DeadEncoder()
    scores = {}
    for finetune in (False, True):
        options = ProbeOptions(
            labels=[4], seeds=[0], head="conv", finetune=finetune, finetune_steps=80, finetune_rate=0.1, steps=20
        )
        scores[finetune] = probe_segmentation(encoder, train, test, options).runs[0].metrics["mean_iou"]
    assert scores[False] < 0.35
    assert scores[True] > 0.7
    assert not encoder.gain.any()


def test_keypoints_can_be_finetuned() -> None:
    train, test = Dots().select(range(8)), Dots().select(range(8, 12))
    options = ProbeOptions(labels=[8], seeds=[0], finetune=True, finetune_steps=100, learning_rate=0.1)
    run = probe_keypoints(ColourEncoderWithWeight(), train, test, options).runs[0]
    assert run.metrics["pck"]["0.05"] > 0.7
    assert 0 < run.metrics["oks_ap50"] <= 1


class ColourEncoderWithWeight(ColourEncoder):
    """Has a parameter, as an optimiser needs."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(6, 1, 1))

    def features(self, images: Tensor) -> Tensor:
        return super().features(images) * self.gain


def test_clusters_cannot_be_finetuned() -> None:
    with pytest.raises(ValueError, match="linear or conv with finetune"):
        ProbeOptions(head="knn", finetune=True)


@pytest.mark.parametrize("scale", [1, 4])
def test_pictures_and_targets_are_cropped_and_mirrored_alike(scale: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    shades = [0.4 + 0.2 * rows / HEIGHT, 0.4 + 0.2 * columns / WIDTH, torch.full((HEIGHT, WIDTH), 0.5)]
    image = torch.stack(shades)[None].repeat(3, 1, 1, 1)
    step = 4 // scale
    target = torch.stack([rows, columns]).float()[None, :, ::step, ::step].repeat(3, 1, 1, 1)
    sizes = set()
    for _ in range(20):
        pictures, wanted = augment(image, target, 4, True, generator)
        sizes.add(tuple(pictures.shape[-2:]))
        assert pictures.shape[-1] * scale == wanted.shape[-1] * 4
        for picture, label in zip(pictures, wanted, strict=True):
            for channel in (0, 1):
                seen = picture[channel, ::step, ::step].flatten()
                if label[1, 0, 0] > label[1, 0, -1]:
                    seen = picture[channel].flip(-1)[::step, ::step].flip(-1).flatten()
                correlation = np.corrcoef(seen, label[channel].flatten())[0, 1]
                assert correlation > 0.99
    assert len(sizes) > 3


def test_instruments_are_put_together_by_nearness() -> None:
    tips = np.array([[10.0, 10, 0.9], [50, 10, 0.8]])
    wrists = np.array([[52.0, 14, 0.7], [11, 15, 0.6]])
    places, scores = group_instruments([tips, wrists, np.zeros((0, 3))])
    assert places[:, :2].tolist() == [[[10, 10], [11, 15]], [[50, 10], [52, 14]]]
    assert places[0, 2].tolist() == [10.5, 12.5]
    assert scores.tolist() == pytest.approx([0.5, 0.5])
    places, scores = group_instruments([np.zeros((0, 3))] * 2)
    assert places.shape == (0, 2, 2)
    assert len(scores) == 0


def test_area_of_an_instrument_is_never_nothing() -> None:
    one = np.array([[[10.0, 10, 2], [0, 0, 0]], [[0, 0, 2], [40, 30, 2]]])
    assert instrument_areas(one, (60, 80)).tolist() == pytest.approx([100, 1200])
    assert instrument_areas(one[:0], (60, 80)).shape == (0,)
