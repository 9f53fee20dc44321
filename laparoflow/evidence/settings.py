"""What `laparoflow evidence` compares, and under which budget."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from laparoflow.bounds import check_numbers

Scene = Literal["default", "held_out", "real"]
PoolName = Literal["unseen", "same procedure", "seen"]

METHODS: dict[str, dict[str, str]] = {
    "flow": {"method.name": "flow", "method.flow.guide": "flow"},
    "shuffled flow": {"method.name": "flow", "method.flow.guide": "shuffled"},
    "uniform": {"method.name": "flow", "method.flow.guide": "uniform", "method.flow.contrast.positives": "outside"},
    "coordinates": {"method.name": "coordinates", "method.coordinates.contrast.positives": "inside"},
    "flow and place": {"method.name": "flow", "method.flow.guide": "flow_and_place"},
    "pixpro": {"method.name": "pixpro"},
    "densecl": {"method.name": "densecl"},
    "image": {"method.name": "image"},
}
"""Methods by name, as options of `laparoflow pretrain`; everything else comes from one recipe.

Uniform weights take the form "outside" whatever the recipe says: "inside" of weights that are all one is the constant 0.
"""
OURS = "flow"
CONTROLS = ("shuffled flow", "uniform", "coordinates")
RANDOM_INIT, FROM_SCRATCH, COLOUR = "random init", "from scratch", "colour and place"


@dataclass
class EvidenceSettings:
    """The comparison.

    Attributes:
        out: folder to write; a later run with the same settings goes on where an earlier one stopped.
        scenes: "default" and "held_out" parameters of the synthetic laparoscopy; "real", from `real_root`, where
            labels and scores come from different recordings.
        pools: of the scene "real": what is pretrained on. "unseen" leaves the labelled recordings out, "same procedure" has
            the labelled one alone, "seen" has the tested one too, unlabelled.
        methods: what is pretrained; see `METHODS`.
        seeds: each draws weights and order of pretraining, the labelled frames, and the head.
        labels: label budgets of the frozen linear probes.
        probe_steps: training steps of the frozen probes' heads.
        scratch_labels: label budgets of the network of the same size trained with labels from scratch.
        scratch_steps: steps of that.
        scratch_tasks: the tasks that it is trained for.
        recipe: settings of pretraining, YAML files or names of ours; a later one changes an earlier one. Null takes
            "recordings" for the scene "real" and "evidence" for the others.
        max_steps: steps of pretraining; null for the recipe's, with which the whole fits an hour on two cores.
        pretrain_clips, test_clips, frames: size of a synthetic set; labels are drawn from the pretraining clips.
        test_every: score on every n-th frame of the test clips.
        real_root: folder with endovis15_robotic/, endovis15_rigid/ and folders of unlabelled video, for the scene "real".
        device: where probes run.
        quick: one seed, one scene (default where it is asked for), one pool, one supervised budget, half the steps.
    """

    out: Path
    scenes: list[Scene] = field(default_factory=lambda: ["default", "held_out"])
    pools: list[PoolName] = field(default_factory=lambda: ["unseen", "same procedure", "seen"])
    methods: list[str] = field(default_factory=lambda: [OURS, *CONTROLS])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    labels: list[int] = field(default_factory=lambda: [1, 5, 22])
    probe_steps: int = 300
    scratch_labels: list[int] = field(default_factory=lambda: [22, 220])
    scratch_steps: int = 150
    scratch_tasks: list[Literal["segmentation", "keypoints"]] = field(default_factory=lambda: ["segmentation"])
    recipe: list[str] | None = None
    max_steps: int | None = None
    pretrain_clips: int = 16
    test_clips: int = 6
    frames: int = 20
    test_every: int = 4
    real_root: Path | None = None
    device: str = "auto"
    quick: bool = False

    def __post_init__(self) -> None:
        known = {"methods": tuple(METHODS), "scenes": get_args(Scene), "pools": get_args(PoolName)}
        for name, names in known.items():
            given = getattr(self, name)
            if not given or set(given) - set(names):
                raise ValueError(f"{name} must be some of {', '.join(names)}, got {given}")
        if "real" in self.scenes and self.real_root is None:
            raise ValueError("real_root must name a folder for the scene real")
        for name in ("seeds", "labels"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")
        for name in (*known, "seeds", "labels", "scratch_labels"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"{name} must differ from one another, got {given}")
        check_numbers(self, "pretrain_clips test_clips frames test_every probe_steps scratch_steps", low=1)
        available = self.pretrain_clips * self.frames
        if set(self.scenes) & {"default", "held_out"} and max([*self.labels, *self.scratch_labels]) > available:
            raise ValueError(
                f"labels go up to {available} (pretrain_clips x frames), got {self.labels}, {self.scratch_labels}"
            )

    @property
    def effective(self) -> EvidenceSettings:
        """The settings with `quick` spelt out."""
        if not self.quick:
            return self
        scenes: list[Scene] = ["default"] if "default" in self.scenes else self.scenes[:1]
        first = {"scenes": scenes, "pools": self.pools[:1], "seeds": self.seeds[:1]}
        return replace(self, quick=False, scratch_labels=self.scratch_labels[:1], **first)  # type: ignore[arg-type]

    def recipe_of(self, scene: str) -> list[str]:
        """The recipe of a scene."""
        return self.recipe or ["recordings" if scene == "real" else "evidence"]
