"""Frames of a cache as batches whose order depends on (seed, step) alone, so that a run resumes anywhere.

Batch ``t`` of process ``r`` out of ``R`` holds the positions t * B * R + r * B ... + B - 1 of an endless sequence. It
walks through one random permutation of the frames after the other, or, balanced, draws each frame from a clip that
is drawn from a folder that is drawn, so that a folder of many clips and a clip of many frames weigh no more than others.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from laparoflow.training.neighbours import Neighbours, neighbour, neighbour_position
from laparoflow.video.cache import CachedFrame, FrameCache

SHARED_MEMORY = re.compile(r"shared memory|unable to (write to|open|mmap|resize|allocate).*(torch_|shm)|Bus error", re.S)
"""What torch says where /dev/shm is full."""


class FrameBatch(NamedTuple):
    """A batch of whole frames.

    Attributes:
        image: uint8 [B, 3, H, W].
        flow: float32 [B, 2, H, W], source-frame pixels; [B, 2 G, H, W] for flows over G gaps.
        valid: bool [B, H, W].
        position: int64 [B], position in the cache.
        clip: int64 [B], clip of the cache.
        number: int64 [B], number of the batch in the run (the same in all of it).
        near: neighbours of every second frame, or None where nobody asked for them.
    """

    image: Tensor
    flow: Tensor
    valid: Tensor
    position: Tensor
    clip: Tensor
    number: Tensor
    near: Neighbours | None = None

    def ends_step(self, accumulate: int) -> bool:
        """Whether the optimiser steps after this batch, one of so many to a step."""
        return (int(self.number[0]) + 1) % accumulate == 0


def collate(items: list[FrameBatch]) -> FrameBatch:
    """Single frames as a batch, with the neighbours of those that have one."""
    near = [item.near for item in items if item.near is not None]
    frames = default_collate([tuple(item[:-1]) for item in items])
    return FrameBatch._make([*frames, default_collate(near) if near else None])


class CachedFrames(Dataset[FrameBatch]):
    """A cache as a data set, with ``neighbours`` of every second frame of a batch if they are asked for.

    An item is asked for by (frame, batch number), or a whole batch by a list of these.
    """

    def __init__(self, cache: Sequence[CachedFrame], neighbours: bool = False) -> None:
        if len(cache) == 0:
            raise ValueError("data: the cache holds no frame to train on")
        self.cache = cache
        self.clips = getattr(cache, "ranges", ()) if neighbours else ()
        # clips differ in size (their borders are cropped): every frame of a batch is enlarged to the largest
        sizes = getattr(cache, "sizes", ())
        self.size = (max(h for h, _ in sizes), max(w for _, w in sizes)) if sizes else None

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, item: tuple[int, int]) -> FrameBatch:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: list[tuple[int, int]]) -> list[FrameBatch]:
        """A batch in one call, as torch's loader asks for it."""
        batch = []
        for row, (index, number) in enumerate(items):
            frame = self._frame(index)
            near = None
            if self.clips and row % 2 == 0:
                place = neighbour_position(index, self.clips[frame.clip], after=bool(mixed_seed(number, index) & 1))
                near = neighbour(row, frame, self._frame(place))
            batch.append(
                FrameBatch(
                    torch.from_numpy(np.array(frame.image)).permute(2, 0, 1),
                    torch.from_numpy(np.array(frame.flow, dtype=np.float32)),
                    torch.from_numpy(np.array(frame.valid, dtype=bool)),
                    torch.tensor(index),
                    torch.tensor(getattr(frame, "clip", 0)),
                    torch.tensor(number),
                    near,
                )
            )
        return batch

    def _frame(self, index: int) -> CachedFrame:
        frame = self.cache[index]
        return frame if self.size is None else frame.padded(*self.size)


Groups = list[list[range]]
"""Frames of each clip of each folder."""


def groups_of(cache: FrameCache, balance: Literal["frames", "clips", "folders"]) -> Groups | None:
    """What the sampler balances: nothing, the clips, or the folders that their sources lie in and then the clips."""
    if balance == "frames":
        return None
    folders: dict[str, list[range]] = {}
    for clip, frames in zip(cache.clips, cache.ranges, strict=True):
        if len(frames):
            folders.setdefault(str(Path(clip.source).parent) if balance == "folders" else "", []).append(frames)
    return list(folders.values())


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Batches ``start`` to ``stop`` of the sequence of so many frames, for process ``rank`` of ``world``; see the module.

    ``groups`` are what is balanced; None for permutations.
    """

    def __init__(
        self, frames: int, batch_size: int, start: int, stop: int, seed: int, rank: int = 0, world: int = 1,
        groups: Groups | None = None,
    ) -> None:  # fmt: skip
        self.groups = groups
        self.frames, self.batch_size, self.start, self.stop = frames, batch_size, start, stop
        self.seed, self.rank, self.world = seed, rank, world
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __len__(self) -> int:
        """Batches of the whole run: the trainer counts those before ``start`` as done."""
        return self.stop

    def _frame(self, position: int) -> int:
        if self.groups is not None:
            shares = np.random.default_rng([self.seed, position]).random(3)
            clips = self.groups[int(shares[0] * len(self.groups))]
            frames = clips[int(shares[1] * len(clips))]
            return frames[int(shares[2] * len(frames))]
        epoch, place = divmod(position, self.frames)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
            self._order = (epoch, torch.randperm(self.frames, generator=generator))
        return int(self._order[1][place])

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number in range(self.start, self.stop):
            first = (number * self.world + self.rank) * self.batch_size
            yield [(self._frame(first + i), number) for i in range(self.batch_size)]


def mixed_seed(*parts: int) -> int:
    """A 63-bit seed from several numbers, well spread for neighbouring ones."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint64)[0] >> 1)


def ignore_interrupt(worker: int) -> None:
    """A reading process leaves Ctrl-C, which reaches it too, to the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def shared_memory_named(workers: int) -> Iterator[None]:
    """Say what to do where the reading processes find no room in /dev/shm, which is 64 MB in Docker."""
    try:
        yield
    except RuntimeError as error:
        if not workers or not SHARED_MEMORY.search(str(error)):
            raise
        size = shutil.disk_usage("/dev/shm").total / 2**20 if Path("/dev/shm").is_dir() else 0
        raise RuntimeError(
            f"trainer.workers: {workers} reading processes found no room in shared memory (/dev/shm has {size:.0f} MB); "
            "read in the training process with --trainer.workers 0, or give the container more with --shm-size 8g"
        ) from error


def frame_loader(frames: CachedFrames, steps: StepSampler, workers: int, pin_memory: bool = False) -> DataLoader[FrameBatch]:
    """The batches of the sequence, read by so many processes."""
    return DataLoader(
        frames, batch_sampler=steps, num_workers=workers, worker_init_fn=ignore_interrupt, collate_fn=collate,
        pin_memory=pin_memory,
    )  # fmt: skip
