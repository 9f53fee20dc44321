"""Going on with a run: with the settings and the data that its checkpoint was made with, or not at all.

Free to differ is what the steps so far do not depend on: FREE, and the options of methods that are not trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from laparoflow.bounds import plain
from laparoflow.training.settings import PretrainSettings

RUN_KEY = "laparoflow_settings"
DATA_KEY = "laparoflow_data_hash"

TRAINER = (
    "accelerator devices workers verify checkpoint_every keep log_every progress deterministic tensorboard wandb profiler"
)
FREE = frozenset({"data", "out", "resume", "max_steps", "online"} | {f"trainer.{name}" for name in TRAINER.split()})
"""Of ``data`` the content is compared."""


def check_same_run(checkpoint: dict[str, Any], settings: PretrainSettings, data_hash: str) -> None:
    """Refuse to go on from a checkpoint's content with other settings or data, by its hash, than it was made with.

    What only one of both knows, as checkpoints of another version do, is not compared. The ValueError names each setting
    that differs, and what to do.
    """
    before, now = checkpoint.get(RUN_KEY, {}), plain(settings)
    other = {f"method.{name}" for name in now["method"]} - {"method.name", f"method.{settings.method.name}"}
    was = dict(_flat(before, FREE | other))
    changed = [
        f"{key}: was {was[key]!r}, now {value!r}"
        for key, value in _flat(now, FREE | other)
        if key in was and was[key] != value
    ]
    trained_on = checkpoint.get(DATA_KEY)
    if trained_on not in (None, data_hash):
        changed.append(f"data: was {before.get('data')} with content {trained_on}, now {settings.data} with {data_hash}")
    if changed:
        raise ValueError(
            f"resume: {settings.out} was not begun like this: {'; '.join(changed)}. Give what it was begun with, or on "
            f"the command line nothing (`laparoflow pretrain --data CACHE --out {settings.out} --resume true` takes the "
            "rest from its config.yaml); for other settings name another folder as out"
        )


def _flat(values: dict[str, Any], skip: frozenset[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested settings; a key of ``skip`` is left out with all that is in it."""
    for name, value in values.items():
        key = prefix + name
        if key in skip:
            continue
        if isinstance(value, dict) and value:
            yield from _flat(value, skip, f"{key}.")
        else:
            yield key, value
