"""DenseCL: a pixel and its most similar pixel of the other view are positives, other frames are negatives.

    c(i)   = argmax_j cos(t_i, t'_j)                   on the backbone's tokens, without gradient
    dense  = InfoNCE of q_i against k_c(i), negatives the mean pixel of each other frame (batch and queue)
    loss   = (1 - share) * image + share * dense       with the image-level loss of ``image.py``

Source: Wang et al., Dense Contrastive Learning, CVPR 2021, rebuilt from its formulas.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from laparoflow.methods.base import Method, MethodOutput, NearView, PixelView, mean_output
from laparoflow.methods.gather import joint_mean
from laparoflow.methods.image import ImageHead, KeyQueue, frame_contrast, frame_logits, image_vector
from laparoflow.methods.settings import DenseCLSettings
from laparoflow.models.encoder import PixelEncoder


class DenseCLMethod(Method):
    """See the module."""

    def __init__(self, encoder: PixelEncoder, settings: DenseCLSettings) -> None:
        super().__init__(encoder, settings.momentum)
        self.settings = settings
        self.head = ImageHead(encoder.backbone.token_dim, settings.hidden, settings.dim)
        self.teacher_head = self.teacher_of(self.head)
        self.image_queue = KeyQueue(settings.queue, settings.dim)
        self.pixel_queue = KeyQueue(settings.queue, encoder.embed_dim)

    def forward(self, first: PixelView, second: PixelView, near: NearView | None = None) -> MethodOutput:
        """Loss of two views, each once the query."""
        one, keys, pixels = self._direction(first, second)
        two, _, _ = self._direction(second, first)
        if self.training:
            self.image_queue.push(keys)
            self.pixel_queue.push(pixels)
        return mean_output(one, two)

    def _direction(self, query: PixelView, key: PixelView) -> tuple[MethodOutput, Tensor, Tensor]:
        assert self.teacher is not None and self.teacher_head is not None
        settings = self.settings
        tokens = self.encoder.tokens(query.image)
        q = F.normalize(self.encoder.head(tokens).float(), dim=1)
        vector = image_vector(tokens, self.head)
        with torch.no_grad():
            key_tokens = self.teacher.tokens(key.image)
            k = F.normalize(self.teacher.head(key_tokens).float(), dim=1)
            key_vector = image_vector(key_tokens, self.teacher_head)
            matches = match_pixels(_resize(tokens, q), _resize(key_tokens, k), key.inside)
            pooled = masked_mean(k, key.inside)
        image = frame_contrast(vector, key_vector, self.image_queue, settings.temperature)
        dense = self._dense(q, k, matches, pooled, query.inside)
        loss = (1 - settings.share) * image.loss + settings.share * dense
        logs = {"image_loss": image.loss.detach(), "dense_loss": dense.detach(), "valid": query.inside.float().mean()}
        return MethodOutput(loss, logs), key_vector, pooled

    def _dense(self, q: Tensor, k: Tensor, matches: Tensor, pooled: Tensor, inside: Tensor) -> Tensor:
        queries = q.flatten(2).transpose(1, 2)
        positives = k.flatten(2).transpose(1, 2).gather(1, matches[..., None].expand_as(queries))
        logits, own = frame_logits(queries, pooled, self.pixel_queue, self.settings.temperature)
        logits = logits.scatter(2, own[:, None, None].expand(-1, logits.shape[1], 1), -torch.inf)
        positive = (queries * positives).sum(-1, keepdim=True) / self.settings.temperature
        losses = torch.cat([positive, logits], dim=-1).logsumexp(-1) - positive[..., 0]
        kept = inside.flatten(1) & inside.flatten(1).any(1, keepdim=True)
        return joint_mean((losses * kept).sum(), kept.sum())


def match_pixels(query: Tensor, key: Tensor, key_inside: Tensor) -> Tensor:
    """Index [B, N] of the most similar key pixel (inside where there is one): query, key [B, C, h, w]."""
    similarity = F.normalize(query.flatten(2), dim=1).transpose(1, 2) @ F.normalize(key.flatten(2), dim=1)
    return similarity.masked_fill(~key_inside.flatten(1)[:, None], -2.0).argmax(-1)


def masked_mean(maps: Tensor, keep: Tensor) -> Tensor:
    """Unit mean vector [B, D] of maps [B, D, h, w] over kept pixels [B, h, w]; zero where none is kept."""
    weight = keep[:, None].to(maps.dtype)
    return F.normalize((maps * weight).sum(dim=(2, 3)), dim=1)


def _resize(tokens: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(tokens.detach().float(), size=like.shape[-2:], mode="bilinear", align_corners=False)
