"""Classes and joints without a label are named; nothing to learn from or to score is an error."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_finetune import ColourEncoderWithWeight
from toys import ColourEncoder, Dots

from laparoflow.datasets import build_dataset
from laparoflow.datasets.image_masks import ImageMasks
from laparoflow.datasets.reading import DatasetError
from laparoflow.datasets.samples import KeypointSample
from laparoflow.metrics.segmentation import MEAN_RULE
from laparoflow.probes.keypoints import probe_keypoints
from laparoflow.probes.segmentation import probe_segmentation
from laparoflow.probes.settings import ProbeOptions


def binary_masks(root: Path, description: str, value: int = 255) -> ImageMasks:
    """Eight bright squares on dark ground in two videos; masks hold 0 and 255, as most tools export them."""
    for video, number in itertools.product("ab", range(4)):
        mask = np.zeros((32, 48), np.uint8)
        mask[4 * number : 4 * number + 12, 8:24] = value
        image = np.where(mask[..., None] > 0, 220, 30).repeat(3, axis=-1).astype(np.uint8)
        for folder, pixels in (("images", image), ("masks", mask)):
            (root / folder / video).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / video / f"{number}.png")
    (root / "classes.json").write_text(description)
    return ImageMasks(root)


QUICK = ProbeOptions(labels=[1, 4], seeds=[0], steps=150, pictures=0)


def test_masks_of_0_and_255_are_named_with_a_hint_that_mends_them(tmp_path: Path) -> None:
    data = binary_masks(tmp_path, '{"classes": ["tissue", "instrument"], "ignore": [255]}')
    result = probe_segmentation(ColourEncoder(), data.select(range(4)), data.select(range(4, 8)), QUICK)
    warnings = "\n".join(result.warnings)
    assert "the 4 labelled frames have no label of instrument" in warnings
    assert f"the 4 test frames have no label of instrument: {MEAN_RULE}" in warnings
    assert '"colours": [[0, 0, 0], [255, 255, 255]]' in warnings
    assert [run.metrics["without_labels"] for run in result.runs] == [["instrument"]] * 2
    assert result.runs[0].metrics["classes_without_truth"] == ["instrument"]
    data = binary_masks(tmp_path, '{"classes": ["tissue", "instrument"], "colours": [[0, 0, 0], [255, 255, 255]]}')
    mended = probe_segmentation(ColourEncoder(), data.select(range(4)), data.select(range(4, 8)), QUICK)
    assert mended.warnings == []
    assert mended.runs[1].metrics["per_class_iou"]["instrument"] > 0.7
    assert mended.runs[1].metrics["classes_in_mean"] == ["tissue", "instrument"]


@pytest.mark.parametrize("finetuned", [False, True])
def test_nothing_to_learn_from_and_nothing_to_score_are_errors(tmp_path: Path, finetuned: bool) -> None:
    options = dataclasses.replace(QUICK, labels=[2], finetune=finetuned, finetune_steps=1)
    side = "test" if finetuned else "labelled"  # a fine-tuned network is scored before all of its frames are known
    data = binary_masks(tmp_path, '{"classes": ["tissue", "instrument"], "ignore": [0, 255]}')
    with pytest.raises(DatasetError, match=f"{side} frames have no label of any of tissue, instrument"):
        probe_segmentation(ColourEncoderWithWeight(), data.select(range(4)), data.select(range(4, 8)), options)
    (tmp_path / "classes.json").write_text('{"classes": ["tissue", "instrument"], "ignore": [255]}')
    labelled = ImageMasks(tmp_path)
    with pytest.raises(DatasetError, match=r"4 test frames have no label of any of tissue, instrument"):
        probe_segmentation(ColourEncoderWithWeight(), labelled.select(range(4)), data.select(range(4, 8)), options)


class Bare(Dots):
    """The second joint, or both, is never labelled."""

    def __init__(self, labelled: int) -> None:
        super().__init__()
        self.labelled = labelled

    def read(self, frame) -> KeypointSample:
        sample = super().read(frame)
        sample.keypoints[:, self.labelled :, 2] = 0
        return sample


def test_a_joint_without_a_point_is_named_and_no_point_at_all_is_an_error() -> None:
    options = ProbeOptions(labels=[2], seeds=[0], steps=2, pictures=0)
    result = probe_keypoints(ColourEncoder(), Bare(1).select(range(4)), Bare(1).select(range(8, 12)), options)
    assert result.warnings == ["the 4 test frames have no label of green", "the 2 labelled frames have no label of green"]
    assert result.runs[0].metrics["without_labels"] == ["green"]
    with pytest.raises(DatasetError, match="4 test frames have no label of any of red, green"):
        probe_keypoints(ColourEncoder(), Bare(2).select(range(4)), Bare(0).select(range(8, 12)), options)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_classes_json_as_editors_save_it(tmp_path: Path, encoding: str) -> None:
    binary_masks(tmp_path, '{"classes": ["a", "b"]}', value=1)
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["Gewebe", "Hämatom"]}), encoding=encoding)
    assert build_dataset("image_masks", tmp_path).classes == ("Gewebe", "Hämatom")
    (tmp_path / "classes.json").write_bytes('{"classes": ["Gewebe", "Hämatom"]}'.encode("latin-1"))
    with pytest.raises(DatasetError, match=r"classes\.json as JSON in UTF-8 or UTF-16"):
        build_dataset("image_masks", tmp_path)
