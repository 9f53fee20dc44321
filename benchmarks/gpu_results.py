"""The results file of ``make gpu-check``: what ran, when and on what, on disk as soon as it is known.

An earlier file is never lost to a run that measures nothing:

- of the same commit and device, or with ``--only``: stages are added to it, those that run again are replaced, and a stage
  that is skipped now leaves what it gave before;
- of another commit or device: it stays until a stage of this run has passed and given rows, and is replaced then. Until
  then this run is in NAME.started.json beside it, for good where nothing was measured.

Every record names its commit, device and date, as a file may hold several. Full outputs are in the folder NAME beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.files import write_atomically

Row = dict[str, Any]
OF_A_STAGE = ("commit", "uncommitted_changes", "device", "date")


class ResultsFile:
    """Records of stages, by name.

    Args:
        path: the file; its folder is made.
        facts: machine, versions, commit and date of this run.
        only: this run is of chosen stages, which are added to the file that is there, whatever its commit.
    """

    def __init__(self, path: Path, facts: Row, only: bool = False) -> None:
        self.path, self.facts = path, facts
        self.ran: dict[str, Row] = {}
        self.content: Row = {"about": facts, "stages": {}}
        older = _read(path)
        same = older is not None and _same_source(older["about"], facts)
        if older is not None and (same or only):
            about = {**older["about"], **facts} if same else older["about"]
            self.content = {**older, "about": about}
        self.started = path.with_suffix(".started.json") if path.exists() and not (older and (same or only)) else None

    def begin(self, name: str, command: list[str]) -> Row:
        """An empty record of a stage; what is written into it goes to disk with the next ``save``."""
        record: Row = {"command": " ".join(command), "rows": []}
        record |= {fact: self.facts[fact] for fact in OF_A_STAGE if fact in self.facts}
        self.ran[name] = record
        return record

    def save(self) -> None:
        """Write the file in one step."""
        for name, record in self.ran.items():
            if record.get("status") != "skipped" or name not in self.content["stages"]:
                self.content["stages"][name] = record
        given = any(record.get("status") == "passed" and record["rows"] for record in self.ran.values())
        write_atomically(self.path if given else self.written, json.dumps(self.content, indent=1) + "\n")
        if given and self.started is not None:
            self.started.unlink(missing_ok=True)
            self.started = None

    @property
    def written(self) -> Path:
        """Where this run is now."""
        return self.started or self.path

    def log_file(self, name: str) -> Path:
        """Where the whole output of a stage goes."""
        return self.path.with_suffix("") / f"{name}.log"

    def outcome(self, name: str) -> str | None:
        """Status of a stage of this run: passed, failed, stopped or skipped; None where it has not run."""
        return self.ran.get(name, {}).get("status")


def _read(path: Path) -> Row | None:
    """The content of a results file, None where there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(content, dict) and all(isinstance(content.get(part), dict) for part in ("about", "stages"))
    return content if whole else None


def _same_source(one: Row, other: Row) -> bool:
    """Same known commit, same device."""
    return bool(one.get("commit")) and all(one.get(fact) == other.get(fact) for fact in ("commit", "device"))
