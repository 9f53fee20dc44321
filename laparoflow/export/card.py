"""A model card beside an exported file: what it is, how to load it, what it was trained on."""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import Any

import yaml

from laparoflow.export.timm_weights import create_arguments
from laparoflow.models.encoder import PixelEncoder


def model_card(encoder: PixelEncoder, run: Path, file: Path, format: str, size: tuple[int, int]) -> str:
    """The card as Markdown.

    Args:
        encoder: what was exported.
        run: folder of the run, for its settings and its data's hash.
        file: the exported file.
        format: ``timm`` or ``onnx``.
        size: (height, width) that an ONNX file takes.
    """
    summary = _read_json(run / "run.json")
    config = (run / "config.yaml").read_text() if (run / "config.yaml").is_file() else "not recorded\n"
    mean, std = (value.flatten().tolist() for value in (encoder.image_mean, encoder.image_std))
    arguments = "".join(f", {key}={value!r}" for key, value in create_arguments(encoder).items())
    if format == "timm":
        registers = "import laparoflow.models  # registers the model\n" if _ours(encoder) else ""
        usage = (
            f"import timm\n{registers}"
            f'model = timm.create_model("{encoder.settings.backbone}", checkpoint_path="{file.name}"{arguments})\n'
            "tokens = model.forward_features(images)  # images normalised with the mean and deviation below\n"
            "# at another size: pass img_size=SIDE, a multiple of the stride; timm resamples the position embedding"
        )
    else:
        usage = (
            "import onnxruntime\n"
            f'session = onnxruntime.InferenceSession("{file.name}")\n'
            f'# images float32 [B, 3, {size[0]}, {size[1]}], RGB in 0..1; normalisation is inside\n'
            'features, embeddings = session.run(None, {"images": images})'
        )
    facts = {
        "backbone": encoder.settings.backbone,
        "feature stride (pixels)": encoder.feature_stride,
        "feature channels": encoder.feature_dim,
        "mean of RGB in 0..1": [round(value, 4) for value in mean],
        "deviation of RGB in 0..1": [round(value, 4) for value in std],
        "method": summary.get("method", "not recorded"),
        "steps": summary.get("steps", "not recorded"),
        "frames": summary.get("frames", "not recorded"),
        "content hash of the data": summary.get("data_hash", "not recorded"),
        "versions": summary.get("versions", "not recorded"),
        "source commit": summary.get("commit") or "not recorded",
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return (
        f"# {file.name}\n\nA vision transformer pretrained without labels on surgical video by laparoflow.\n\n"
        f"```python\n{usage}\n```\n\n| | |\n| --- | --- |\n{rows}\n\n"
        "Not a medical device. What it knows it learned from the videos named by the hash above; probe it on your "
        f"own labels before use.\n\n## Settings\n\n```yaml\n{_without_paths(config)}```\n"
    )


def _ours(encoder: PixelEncoder) -> bool:
    return encoder.settings.backbone.startswith("laparoflow_")


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


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}
