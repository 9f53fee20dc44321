from pathlib import Path

import pytest

from laparoflow.methods.settings import MethodSettings
from laparoflow.models import EncoderSettings
from laparoflow.synthetic import SceneParameters, write_dataset
from laparoflow.training.settings import PretrainSettings, TrainerSettings
from laparoflow.video.prepare import prepare
from laparoflow.video.settings import PrepareSettings
from laparoflow.views.settings import ViewSettings


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """A cache of one small generated clip."""
    folder = tmp_path_factory.mktemp("cache")
    write_dataset(folder / "synthetic", SceneParameters(height=64, width=64), 1, 14, flow=False, label_every=14)
    settings = PrepareSettings(short_side=None, frame_rate=None, crop_border=False)
    prepare([folder / "synthetic" / "videos" / "clip_000.mp4"], folder / "cache", settings, progress=False)
    return folder / "cache"


@pytest.fixture
def make_settings(cache, tmp_path):
    """Settings of a run of seconds; keywords replace top-level ones, ``trainer`` those of the trainer."""

    def build(out="run", trainer=None, **changes):
        trainer = {"accelerator": "cpu", "progress": False, "log_every": 1, "tensorboard": False} | (trainer or {})
        defaults = {
            "max_steps": 4,
            "batch_size": 2,
            "encoder": EncoderSettings("laparoflow_convvit_mini", 32, dim=8, hidden=16),
            "method": MethodSettings(),
            "views": ViewSettings(size=(16, 16)),
        }
        return PretrainSettings(
            data=cache, out=tmp_path / out, trainer=TrainerSettings(**trainer), **(defaults | changes)
        )

    return build
