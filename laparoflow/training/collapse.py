"""Signs of collapse and progress that need no training: spread, effective rank, k-NN."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def feature_spread(features: Tensor) -> Tensor:
    """Mean standard deviation per channel of unit features [N, C], times sqrt(C): 1 for isotropic, 0 for collapsed."""
    unit = F.normalize(features.float(), dim=1)
    return unit.std(0, correction=0).mean() * features.shape[1] ** 0.5


def effective_rank(features: Tensor) -> Tensor:
    """exp of the entropy of the normalised spectrum of centred features [N, C]: between 1 and min(N, C).

    Source: Roy and Vetterli, The effective rank, 2007.
    """
    centred = features.double() - features.double().mean(0)
    values = torch.linalg.svdvals(centred)
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(share).sum().exp().float()


def nearest_accuracy(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, neighbours: int = 10) -> Tensor:
    """Share of test cells [M, C] whose class is the one most frequent among the nearest train cells [N, C]."""
    similarity = F.normalize(test.float(), dim=1) @ F.normalize(train.float(), dim=1).T
    nearest = similarity.topk(min(neighbours, len(train)), dim=1).indices
    return (labels[nearest].mode(dim=1).values == truth).float().mean()


def linear_accuracy(
    train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, classes: int, penalty: float = 1e-2
) -> Tensor:
    """Mean recall over the classes in ``truth`` of a ridge classifier on standardised features, in closed form."""
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    x, y = ((part - mean) / std for part in (train, test))
    x, y = (torch.cat([part, torch.ones_like(part[:, :1])], 1).double() for part in (x, y))
    targets = F.one_hot(labels, classes).double()
    weight = targets.sum(0).clamp(min=1).reciprocal()[labels]  # every class counts the same
    gram = (x * weight[:, None]).T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    solved = torch.linalg.solve(gram, (x * weight[:, None]).T @ targets)
    right = (y @ solved).argmax(1) == truth
    return torch.stack([right[truth == c].float().mean() for c in truth.unique()]).mean()
