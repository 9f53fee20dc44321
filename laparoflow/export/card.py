"""Model cards: what an export is, how to load it, what it was trained on and how it scored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from laparoflow.export.run import ExportSettings
from laparoflow.export.timm_weights import create_arguments
from laparoflow.models.encoder import PixelEncoder

NOT_RECORDED = "not recorded"
ANOTHER_SIZE = "# At another size pass img_size=SIDE, a multiple of the stride; timm resamples the position embedding."


def file_card(encoder: PixelEncoder, settings: ExportSettings, size: tuple[int, int]) -> str:
    """The card beside a timm or ONNX file, as Markdown; ``size`` is (height, width) of an ONNX model's pictures."""
    file = Path(settings.out).name
    if settings.format == "timm":
        arguments = "".join(f", {key}={value!r}" for key, value in create_arguments(encoder).items())
        usage = (
            f"import timm\n{_registers(encoder)}"
            f'model = timm.create_model("{encoder.settings.backbone}", checkpoint_path="{file}"{arguments})\n'
            "tokens = model.forward_features(images)  # images normalised with the mean and deviation below\n"
            f"{ANOTHER_SIZE}"
        )
    else:
        usage = (
            f'import onnxruntime\nsession = onnxruntime.InferenceSession("{file}")\n'
            f"# images float32 [B, 3, {size[0]}, {size[1]}], RGB in 0..1; normalisation is inside\n"
            'features, embeddings = session.run(None, {"images": images})'
        )
    return _card(encoder, settings, usage)


def hub_card(encoder: PixelEncoder, settings: ExportSettings, probes: Mapping[str, dict[str, Any]]) -> str:
    """The README.md of a hub folder, with the scores of probes, name -> the content of its metrics.json."""
    header: dict[str, Any] = {"library_name": "timm", "pipeline_tag": "image-feature-extraction"}
    header |= {"license": settings.licence} if settings.licence else {"license": "other", "license_name": "not-stated"}
    header["tags"] = ["timm", "laparoflow", "self-supervised-learning", "surgical-video"]
    name = Path(settings.out).resolve().name
    usage = (
        f"import timm\n{_registers(encoder)}"
        f'model = timm.create_model("local-dir:{name}", pretrained=True)  # or "hf-hub:USER/{name}" once it is there\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
        "tokens = model.forward_features(transform(image)[None])  # image: a PIL picture\n"
        f"{ANOTHER_SIZE}"
    )
    push = (
        "With timm, which writes the weights and the configuration, or as it stands with its card and its probes:\n\n"
        f'```python\nimport timm\nfrom huggingface_hub import HfApi\n\ntimm.models.push_to_hf_hub(model, "USER/{name}")\n'
        f'HfApi().upload_folder(repo_id="USER/{name}", folder_path="{name}")\n```\n'
    )
    parts = [f"\n## Pushing it to the hub\n\n{push}"]
    if probes:
        parts.append(f"\n## Scores and heads\n\n{_score_table(probes)}\n\n{_heads_usage(name, probes)}")
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n" + _card(encoder, settings, usage, "".join(parts))


def _score_table(probes: Mapping[str, dict[str, Any]]) -> str:
    """Mean and deviation over the draws of labelled frames, per probe and budget."""
    lines = ["| probe | data set | labels | score | mean | deviation | draws |", "|" + " --- |" * 7]
    for name, content in probes.items():
        for entry in content["summary"]:
            for score, found in entry.items():
                if isinstance(found, dict) and found.get("mean") is not None:
                    deviation = "" if found["deviation"] is None else f"{found['deviation']:.4f}"
                    cells = (name, content.get("dataset"), entry["labels"], score, f"{found['mean']:.4f}", deviation)
                    lines.append("| " + " | ".join(map(str, (*cells, len(found["values"])))) + " |")
    return "\n".join(lines)


def _heads_usage(name: str, probes: Mapping[str, dict[str, Any]]) -> str:
    first = next(iter(probes))
    return (
        "The heads are in `probes/`, and need `pip install laparoflow[train]`:\n\n"
        f"```bash\nlaparoflow predict {name} {name}/probes/{first} VIDEO --out predicted\n```\n"
    )


def _registers(encoder: PixelEncoder) -> str:
    ours = encoder.settings.backbone.startswith("laparoflow_")
    return "import laparoflow.models  # registers the model; pip install laparoflow[train]\n" if ours else ""


def _card(encoder: PixelEncoder, settings: ExportSettings, usage: str, more: str = "") -> str:
    """Title, how to load it, facts, settings."""
    run = Path(settings.run)
    run = run if run.is_dir() else run.parent.parent
    summary = json.loads((run / "run.json").read_text()) if (run / "run.json").is_file() else {}
    config = (run / "config.yaml").read_text() if (run / "config.yaml").is_file() else f"{NOT_RECORDED}\n"
    mean, std = (
        [round(value, 4) for value in values.flatten().tolist()] for values in (encoder.image_mean, encoder.image_std)
    )
    facts = {
        "backbone": encoder.settings.backbone,
        "feature stride (pixels)": encoder.feature_stride,
        "feature channels": encoder.feature_dim,
        "size of pictures it was laid out for": encoder.settings.image_size,
        "mean of RGB in 0..1": mean,
        "deviation of RGB in 0..1": std,
        **{name: summary.get(name, NOT_RECORDED) for name in ("method", "steps", "frames")},
        "content hash of the data": summary.get("data_hash", NOT_RECORDED),
        "versions": summary.get("versions", NOT_RECORDED),
        "source commit": summary.get("commit") or NOT_RECORDED,
    }
    if settings.format == "hub":
        facts["licence"] = settings.licence or "none was stated at the export"
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return (
        f"# {Path(settings.out).name}\n\nA vision transformer pretrained without labels on surgical video by laparoflow.\n\n"
        f"```python\n{usage}\n```\n\n| | |\n| --- | --- |\n{rows}\n\n"
        "This is not a medical device. All that it knows comes from the videos named by the hash above; test it on your "
        f"own labels before use.\n{more}\n## Settings\n\n```yaml\n{_without_paths(config)}```\n"
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
