"""Model cards: what an export is, how to load it, what it was trained on and how it scored; the text is in card.md.jinja."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from laparoflow.export.run import ExportSettings
from laparoflow.export.timm_weights import create_arguments
from laparoflow.models.encoder import PixelEncoder

NOT_RECORDED = "not recorded"


def model_card(
    encoder: PixelEncoder, settings: ExportSettings, size: tuple[int, int], probes: Mapping[str, dict[str, Any]]
) -> str:
    """The card of a timm or ONNX file, for pictures of this (height, width), or of a hub folder, as Markdown.

    ``probes`` are those in the folder, name -> the content of its metrics.json.
    """
    run, out = Path(settings.run), Path(settings.out)
    run = run if run.is_dir() else run.parent.parent
    summary = json.loads((run / "run.json").read_text()) if (run / "run.json").is_file() else {}
    config = (run / "config.yaml").read_text() if (run / "config.yaml").is_file() else f"{NOT_RECORDED}\n"
    facts = {
        "backbone": encoder.settings.backbone,
        "feature stride (pixels)": encoder.feature_stride,
        "feature channels": encoder.feature_dim,
        "size of pictures it was laid out for": encoder.settings.image_size,
        "mean of RGB in 0..1": [round(value, 4) for value in encoder.image_mean.flatten().tolist()],
        "deviation of RGB in 0..1": [round(value, 4) for value in encoder.image_std.flatten().tolist()],
        **{name: summary.get(name, NOT_RECORDED) for name in ("method", "steps", "frames")},
        "content hash of the data": summary.get("data_hash", NOT_RECORDED),
        "versions": summary.get("versions", NOT_RECORDED),
        "source commit": summary.get("commit") or NOT_RECORDED,
    }
    if settings.format == "hub":
        facts["licence"] = settings.licence or "none was stated at the export"
    header: dict[str, Any] = {"library_name": "timm", "pipeline_tag": "image-feature-extraction"}
    header |= {"license": settings.licence} if settings.licence else {"license": "other", "license_name": "not-stated"}
    header["tags"] = ["timm", "laparoflow", "self-supervised-learning", "surgical-video"]
    loader = PackageLoader("laparoflow", "export")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return environment.get_template("card.md.jinja").render(
        format=settings.format,
        header=yaml.safe_dump(header, sort_keys=False),
        title=out.name,
        name=out.resolve().name if settings.format == "hub" else out.name,
        arguments="".join(f", {key}={value!r}" for key, value in create_arguments(encoder).items()),
        size=size,
        facts=facts,
        probes=probes,
        config=_without_paths(config),
    )


def _without_paths(config: str) -> str:
    """Settings without the places on disk, which mean nothing elsewhere and may name people; of files the name is kept."""
    values = yaml.safe_load(config)
    if not isinstance(values, dict):
        return config
    return yaml.safe_dump(_names({k: v for k, v in values.items() if k not in ("data", "out")}), sort_keys=False)


def _names(value: Any) -> Any:
    """Paths within settings as the last of their parts."""
    if isinstance(value, dict):
        return {key: _names(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_names(item) for item in value]
    return PurePath(value).name if isinstance(value, str) and ("/" in value or "\\" in value) else value
