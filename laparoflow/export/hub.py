"""A folder for the Hugging Face hub, which timm and this package load as it stands.

OUT/config.json, model.safetensors   what ``timm.create_model("local-dir:OUT", pretrained=True)`` reads
OUT/pixel_head.safetensors           the head of the loss, with which ``load_encoder(OUT)`` gives the whole network
OUT/probes/NAME/                     trained heads, for ``laparoflow predict OUT OUT/probes/NAME VIDEO --out FOLDER``
OUT/README.md                        the model card, its YAML header on top
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from timm.models import save_for_hf

from laparoflow.bounds import plain
from laparoflow.export.card import model_card
from laparoflow.export.run import ExportSettings
from laparoflow.export.timm_weights import compare_with_timm, create_arguments, safetensors_bytes
from laparoflow.files import write_bytes, write_json, write_text
from laparoflow.models.encoder import PixelEncoder
from laparoflow.models.loading import HEAD_FILE, HUB_KEY, is_hub_folder
from laparoflow.probes.saved import FOLDER, load_head


def write_hub(encoder: PixelEncoder, settings: ExportSettings) -> None:
    """Write the folder ``settings.out``, complete or not at all; errors are those of ``export_run``."""
    out = Path(settings.out)
    if out.exists() and not is_hub_folder(out):
        raise FileExistsError(f"out: {out} is there and is no folder of `laparoflow export --format hub`; name another")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        model = encoder.backbone.model
        size = encoder.settings.image_size
        arguments = create_arguments(encoder) | {"dynamic_img_size": True}
        about = {"license": settings.licence or "other", "input_size": (3, size, size)}
        about |= {"mean": encoder.image_mean.flatten().tolist(), "std": encoder.image_std.flatten().tolist()}
        config = {"pretrained_cfg": about, HUB_KEY: {"encoder": plain(encoder.settings)}}
        save_for_hf(model, str(partial), model_config=config, model_args=arguments, safe_serialization=True)
        write_bytes(partial / "model.safetensors", safetensors_bytes(model))  # timm's is readable by its owner alone
        write_bytes(partial / HEAD_FILE, safetensors_bytes(encoder.head))
        compare_with_timm(encoder, f"local-dir:{partial}", pretrained=True)
        probes = {path.resolve().name: _keep_heads(path, partial / "probes", encoder) for path in map(Path, settings.probes)}
        write_text(partial / "README.md", model_card(encoder, settings, (size, size), probes))
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _keep_heads(probe: Path, folder: Path, encoder: PixelEncoder) -> dict[str, Any]:
    """Copy the heads of the trained network, with the part of metrics.json that finds and describes them; returns it."""
    load_head(probe, encoder=encoder)  # refuses a probe without heads, or of another network
    metrics = json.loads((probe / "metrics.json").read_text(encoding="utf-8"))
    runs = [run for run in metrics["runs"] if run["backbone"] == "trained" and run.get("head_file")]
    kept = {name: metrics[name] for name in ("format", "task", "dataset", "head", "names", "image_size") if name in metrics}
    kept["summary"] = [entry for entry in metrics["summary"] if entry["backbone"] == "trained"]
    kept["runs"] = [{name: value for name, value in run.items() if name != "train_frames"} for run in runs]
    target = folder / probe.resolve().name
    if target.exists():
        raise ValueError(f"probes: two folders are named {target.name}; rename one")
    (target / FOLDER).mkdir(parents=True)
    for run in runs:
        for suffix in (".json", ".safetensors"):
            name = Path(run["head_file"]).with_suffix(suffix)
            write_bytes(target / name, (probe / name).read_bytes())
    write_json(target / "metrics.json", kept)
    return kept
