"""Image-level baseline: both views of a frame get the same vector, other frames another one.

    loss = InfoNCE of pooled and projected tokens over the frames of the batch (all processes) and a queue

With a momentum teacher and a queue this is MoCo, without either SimCLR.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from laparoflow.methods.base import Method, MethodOutput, NearView, PixelView, mean_output
from laparoflow.methods.gather import gather_batch, joint_mean, rank_and_world_size
from laparoflow.methods.settings import ImageSettings
from laparoflow.models.encoder import PixelEncoder


class ImageHead(nn.Sequential):
    """Pooled tokens [B, C] -> [B, D], not normalised."""

    def __init__(self, channels: int, hidden: int, dim: int) -> None:
        super().__init__(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, dim))


class KeyQueue(nn.Module):
    """The last ``size`` keys, a ring of unit vectors [size, D]; part of the checkpoint.

    Rows that were never filled are zero vectors and do not count.
    """

    keys: Tensor
    place: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(size, dim))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def filled(self) -> Tensor:
        """bool [size]: rows that hold a key."""
        return self.keys.square().sum(1) > 0

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Add keys [B, D] of all processes, the oldest make room."""
        size = len(self.keys)
        if not size:
            return
        keys = gather_batch(keys.detach())[-size:].to(self.keys.dtype)
        rows = (self.place + torch.arange(len(keys), device=keys.device)) % size
        self.keys[rows] = keys
        self.place.copy_((self.place + len(keys)) % size)


def frame_logits(query: Tensor, key: Tensor, queue: KeyQueue, temperature: float) -> tuple[Tensor, Tensor]:
    """Logits [B, ..., F + Q] of queries [B, ..., D] against keys [B, D] of the F frames of all processes and a queue of Q.

    Places of the queue that are empty have the logit -inf. The second result [B] is the column of each frame's own key.
    """
    keys = gather_batch(key)
    logits = query @ torch.cat([keys, queue.keys.to(keys.dtype).clone()]).T / temperature
    empty = torch.cat([torch.zeros(len(keys), dtype=torch.bool, device=keys.device), ~queue.filled()])
    own = rank_and_world_size()[0] * len(key) + torch.arange(len(key), device=key.device)
    return logits.masked_fill(empty, -torch.inf), own


def frame_contrast(query: Tensor, key: Tensor, queue: KeyQueue, temperature: float) -> MethodOutput:
    """InfoNCE over frames: query and key unit vectors [B, D], row b of both from frame b.

    Returns:
        The loss as the joint batch of all processes has it, and ``accuracy`` for the logs.
    """
    logits, own = frame_logits(query, key, queue, temperature)
    losses = F.cross_entropy(logits, own, reduction="sum")
    count = torch.tensor(float(len(query)), device=query.device)
    return MethodOutput(joint_mean(losses, count), {"accuracy": (logits.argmax(1) == own).float().mean()})


class ImageMethod(Method):
    """See the module."""

    def __init__(self, encoder: PixelEncoder, settings: ImageSettings) -> None:
        super().__init__(encoder, settings.momentum)
        self.settings = settings
        encoder.head.requires_grad_(False)  # the pixel head plays no part; DDP would wait for its gradient
        self.head = ImageHead(encoder.backbone.token_dim, settings.hidden, settings.dim)
        self.teacher_head = self.teacher_of(self.head)
        self.queue = KeyQueue(settings.queue, settings.dim)

    def forward(self, first: PixelView, second: PixelView, near: NearView | None = None) -> MethodOutput:
        """Loss of two views."""
        queries = [image_vector(self.encoder.tokens(view.image), self.head) for view in (first, second)]
        keys = queries
        if self.teacher is not None and self.teacher_head is not None:
            with torch.no_grad():
                keys = [image_vector(self.teacher.tokens(view.image), self.teacher_head) for view in (first, second)]
        temperature = self.settings.temperature
        one = frame_contrast(queries[0], keys[1], self.queue, temperature)
        two = frame_contrast(queries[1], keys[0], self.queue, temperature)
        if self.training:
            self.queue.push(keys[1])
        return mean_output(one, two)


def image_vector(tokens: Tensor, head: nn.Module) -> Tensor:
    """Unit vector [B, D] of each picture, by its tokens [B, C, h, w]."""
    return F.normalize(head(tokens.mean(dim=(2, 3))).float(), dim=1)
