"""``laparoflow export``: one run to one file, with a model card beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass
class ExportSettings:
    """What to write.

    Attributes:
        run: folder of a pretraining run, or one of its checkpoints.
        out: file to write; ``.safetensors`` for timm, ``.onnx`` for ONNX. The card goes to ``OUT.md``.
        format: ``timm`` (backbone weights) or ``onnx`` (backbone and pixel head).
        image_size: (height, width) of an ONNX model's pictures; null for the size of the position embedding.
        overwrite: replace an existing file.
    """

    run: Path
    out: Path
    format: Literal["timm", "onnx"] = "timm"
    image_size: tuple[int, int] | None = None
    overwrite: bool = False


def export_run(settings: ExportSettings) -> list[Path]:
    """Write the file and its card; returns both paths.

    Raises:
        FileNotFoundError: no checkpoint.
        FileExistsError: ``out`` is there and ``overwrite`` is off.
        ValueError: a name or a size that does not fit.
        RuntimeError: what was written does not give the same output.
    """
    from laparoflow.export.card import model_card
    from laparoflow.export.onnx_model import write_onnx
    from laparoflow.export.timm_weights import write_timm
    from laparoflow.files import write_text
    from laparoflow.models.loading import load_encoder

    out = Path(settings.out)
    if out.exists() and not settings.overwrite:
        raise FileExistsError(f"out: {out} exists; name another file or set overwrite")
    encoder = load_encoder(settings.run)
    size = settings.image_size or (encoder.settings.image_size,) * 2
    out.parent.mkdir(parents=True, exist_ok=True)
    if settings.format == "timm":
        write_timm(encoder, out)
    else:
        write_onnx(encoder, out, size)
    run = Path(settings.run)
    folder = run if run.is_dir() else run.parent.parent
    card = out.with_name(out.name + ".md")
    write_text(card, model_card(encoder, folder, out, settings.format, size))
    return [out, card]
