"""``laparoflow export``: one run to a file with its card beside it, or to a folder for the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SUFFIXES = {"timm": ".safetensors", "onnx": ".onnx"}


@dataclass
class ExportSettings:
    """What to write.

    Attributes:
        run: folder of a pretraining run, or one of its checkpoints.
        out: file to write; ``.safetensors`` for timm, ``.onnx`` for ONNX. The card goes to ``OUT.md``. For hub a folder.
        format: ``timm`` (backbone weights), ``onnx`` (backbone and pixel head) or ``hub`` (a folder that timm loads and
            pushes, with the card as its README.md).
        image_size: (height, width) of an ONNX model's pictures; null for the size of the position embedding.
        probes: for hub, folders of ``laparoflow probe`` of this run, whose trained heads and scores go along.
        licence: for hub, the licence of the weights as the hub spells it, as in apache-2.0; null says that none was stated.
        overwrite: replace an existing file, or an earlier hub folder.
    """

    run: Path
    out: Path
    format: Literal["timm", "onnx", "hub"] = "timm"
    image_size: tuple[int, int] | None = None
    probes: list[Path] = field(default_factory=list)
    licence: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        suffix = SUFFIXES.get(self.format)
        if suffix is not None and Path(self.out).suffix != suffix:
            raise ValueError(f"out: expected a name ending in {suffix} for format {self.format}, got {self.out}")
        if self.format != "onnx" and self.image_size is not None:
            raise ValueError(f"image_size: only an ONNX file has one size of pictures; format is {self.format}")
        if self.format != "hub" and (self.probes or self.licence is not None):
            raise ValueError(f"probes, licence: these are for the format hub; format is {self.format}")


def export_run(settings: ExportSettings) -> list[Path]:
    """Write the file and its card, or the folder; returns the paths.

    Raises:
        FileNotFoundError: no checkpoint, or a folder of ``probes`` without heads.
        FileExistsError: ``out`` is there and ``overwrite`` is off, or ``out`` is a folder that is no export.
        ValueError: a size that does not fit, or a probe of another network.
        RuntimeError: what was written does not give the same output.
    """
    from laparoflow.export.card import model_card
    from laparoflow.export.hub import write_hub
    from laparoflow.export.onnx_model import write_onnx
    from laparoflow.export.timm_weights import write_timm
    from laparoflow.files import write_text
    from laparoflow.models.loading import load_encoder

    out = Path(settings.out)
    if out.exists() and not settings.overwrite:
        raise FileExistsError(f"out: {out} exists; name another place or set overwrite")
    encoder = load_encoder(settings.run)
    out.parent.mkdir(parents=True, exist_ok=True)
    if settings.format == "hub":
        write_hub(encoder, settings)
        return [out]
    size = settings.image_size or (encoder.settings.image_size,) * 2
    if settings.format == "timm":
        write_timm(encoder, out)
    else:
        write_onnx(encoder, out, size)
    card = out.with_name(out.name + ".md")
    write_text(card, model_card(encoder, settings, size, {}))
    return [out, card]
