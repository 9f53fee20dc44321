"""Synthetic laparoscopy: short videos whose flow, masks and key points are known exactly."""

from laparoflow.synthetic.dataset import write_dataset
from laparoflow.synthetic.parameters import CLASSES, DEFAULT, HELD_OUT, IGNORE_INDEX, KEYPOINTS, SceneParameters
from laparoflow.synthetic.scene import SyntheticClip, render_clip

__all__ = [
    "CLASSES", "DEFAULT", "HELD_OUT", "IGNORE_INDEX", "KEYPOINTS",
    "SceneParameters", "SyntheticClip", "render_clip", "write_dataset",
]  # fmt: skip
