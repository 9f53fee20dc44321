"""Label propagation through a video, as DINO's evaluation on DAVIS does it, without a radius.

    scores_c(x) = sum over the k cells y of the first frame and of the last n frames that are most similar to x,
                  of exp(x.y / temperature) scores_c(y), normalised

Features are scaled per channel over the first frame, then brought to unit length. Nothing is trained.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from laparoflow.probes.heads import Head


def propagate(features: Tensor, first: Tensor, neighbours: int = 5, context: int = 4, temperature: float = 0.07) -> Tensor:
    """Class scores of every frame from the labels of the first.

    Args:
        features: [T, C, h, w] of the frames in time order.
        first: class shares [K, h, w] of frame 0.
        neighbours: cells that vote.
        context: frames before the one at hand that vote beside the first.
        temperature: of the votes.

    Returns:
        [T, K, h, w]; of frame 0 the shares as given.

    Raises:
        ValueError: the two differ in h or w.
    """
    if features.shape[2:] != first.shape[1:]:
        raise ValueError(f"features, first: expected one h and w, got {tuple(features.shape)} and {tuple(first.shape)}")
    scaled = Head(features[:1], len(first), "linear").standardise(features)
    cells = F.normalize(scaled.flatten(2).transpose(1, 2), dim=-1)
    known = [first.flatten(1).T]
    for number in range(1, len(cells)):
        frames = [0, *range(max(1, number - context), number)]
        keys, labels = torch.cat([cells[i] for i in frames]), torch.cat([known[i] for i in frames])
        similarity, nearest = (cells[number] @ keys.T).topk(min(neighbours, len(keys)), dim=1)
        known.append(((similarity / temperature).softmax(1)[..., None] * labels[nearest]).sum(1))
    return torch.stack(known).transpose(1, 2).unflatten(2, features.shape[2:])
