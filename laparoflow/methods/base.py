"""What a pretraining method is: a network, two views of a batch of frames, a loss.

Every method takes the same views through the same trainer, so that a comparison compares methods only.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from laparoflow.models.encoder import PixelEncoder

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class PixelView(NamedTuple):
    """One view, with what is known of each of its embedding cells.

    Attributes:
        image: float [B, 3, h, w], RGB 0..1, after photometric changes.
        grid: float [B, h', w', 2], source pixel (x, y) of each cell's centre; h' = h / stride.
        flow: float [B, 2, h', w'], flow at that source pixel, source-frame pixels and axes.
        valid: bool [B, h', w'], cell inside the frame with a trusted flow.
        inside: bool [B, h', w'], cell inside the frame, whatever its flow.
        spread: float [B, G], robust spread of the whole frame's flow over each gap in pixels, the same for both views.
        extent: (height, width) of the source frame in pixels.
    """

    image: Tensor
    grid: Tensor
    flow: Tensor
    valid: Tensor
    inside: Tensor
    spread: Tensor
    extent: tuple[int, int]


class NearView(NamedTuple):
    """A view of the neighbouring frame of some frames, and where the first view's cells have gone in it.

    Attributes:
        row: int64 [n], the frames' places in the batch.
        image: [n, 3, h, w], the view.
        grid: float32 [n, h', w', 2], (x, y) of its cells in the neighbour's pixels.
        inside: bool [n, h', w'], its cells inside the neighbour.
        moved: float32 [n, h', w', 2], (x, y) in the neighbour's pixels of what the first view's cells show.
        trusted: bool [n, h', w'], the first view's cells whose motion to the neighbour is known.
    """

    row: Tensor
    image: Tensor
    grid: Tensor
    inside: Tensor
    moved: Tensor
    trusted: Tensor


class MethodOutput(NamedTuple):
    """A scalar loss and named scalars to log (detached)."""

    loss: Tensor
    logs: dict[str, Tensor]


def mean_output(one: MethodOutput, two: MethodOutput) -> MethodOutput:
    """Mean of two losses and of their logs."""
    logs = {name: (value + two.logs[name]) / 2 for name, value in one.logs.items()}
    return MethodOutput((one.loss + two.loss) / 2, logs)


class Method(nn.Module):
    """Base of every method; a subclass implements :meth:`forward`. Without a momentum, in [0, 1), there is no teacher.

    Attributes:
        shuffle_flow: ask the trainer for another frame's flow (a control).
        neighbours: ask it for the neighbours of every second frame.
    """

    shuffle_flow = False
    neighbours = False

    def __init__(self, encoder: PixelEncoder, momentum: float | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.momentum = momentum
        self.taught: list[tuple[nn.Module, nn.Module]] = []  # (teacher, student) that after_step keeps together
        self.teacher = self.teacher_of(encoder)

    def teacher_of(self, student: ModuleT) -> ModuleT | None:
        """A copy that no gradient reaches and that :meth:`after_step` moves towards the student; None without a momentum."""
        if self.momentum is None:
            return None
        teacher = copy.deepcopy(student).requires_grad_(False)
        self.taught.append((teacher, student))
        return teacher

    def forward(self, first: PixelView, second: PixelView, near: NearView | None = None) -> MethodOutput:
        """Loss of two views of the same frames, and of their neighbours where the method asks for them."""
        raise NotImplementedError

    @torch.no_grad()
    def teach(self, image: Tensor) -> Tensor:
        """Embeddings [B, D, h', w'] of the teacher, without gradient; a RuntimeError where there is none."""
        if self.teacher is None:
            raise RuntimeError("this method has no momentum teacher; set its momentum")
        return self.teacher(image)

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> None:
        """Move the teachers after optimiser step ``step`` of ``total``."""
        if self.momentum is None:
            return
        progress = min(step / max(total, 1), 1.0)
        keep = 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2
        for teacher, student in self.taught:
            for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.lerp_(theirs.detach(), 1 - keep)
            for held, given in zip(teacher.buffers(), student.buffers(), strict=True):
                held.copy_(given)


def cell_diagonal(grid: Tensor) -> Tensor:
    """Mean diagonal of a view's cells in source pixels: grid [B, h, w, 2] (x, y), h and w at least 2 -> [B]."""
    if grid.shape[1] < 2 or grid.shape[2] < 2:
        raise ValueError(f"grid: expected at least 2 x 2 cells, got {tuple(grid.shape[1:3])}")
    diagonal = grid[:, 1:, 1:] - grid[:, :-1, :-1]
    return diagonal.float().norm(dim=-1).mean(dim=(1, 2))


def place_guides(first: Tensor, second: Tensor) -> list[Tensor]:
    """Grids [B, h, w, 2] of two views as maps [B, 2, h, w] in units of a cell's diagonal, the mean of both views'."""
    unit = (cell_diagonal(first) + cell_diagonal(second)) / 2
    unit = torch.clamp(unit, min=1e-6).view(-1, 1, 1, 1)
    return [grid.float().movedim(-1, 1) / unit for grid in (first, second)]
