"""Heads without gradient training: nearest neighbours and clusters, on cells of unit length.

knn      scores_c(x) = sum over the k nearest labelled cells y of exp(x.y / 0.07) share_c(y), normalised
kmeans   as many clusters as classes, fitted without labels; the clusters are given to the classes one to one so
         that the labelled area they agree on is largest (Hungarian method)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

KNN_TEMPERATURE = 0.07
MOST_CELLS = 20_000
KMEANS_ROUNDS = 50
KMEANS_STARTS = 4


def fit_knn(features: Tensor, shares: Tensor, neighbours: int, seed: int) -> Callable[[Tensor], Tensor]:
    """Nearest-neighbour votes of labelled cells.

    Args:
        features: [n, C, h, w].
        shares: class shares [n, K, h, w]; cells without any are left out.
        neighbours: how many cells vote.
        seed: which cells are kept when there are more than 20,000.

    Returns:
        features [B, C, h, w] -> class scores [B, K, h, w] that sum to one.
    """
    cells, labels = _labelled_cells(features, shares, seed)
    count = min(neighbours, len(cells))
    votes_of = labels / labels.sum(1, keepdim=True)  # a cell that is ignored in part has a whole vote

    def predict(batch: Tensor) -> Tensor:
        rows = F.normalize(batch.flatten(2).transpose(1, 2), dim=-1)
        votes = []
        for picture in rows:
            similarity, nearest = (picture @ cells.T).topk(count, dim=1)
            weight = (similarity / KNN_TEMPERATURE).softmax(1)
            votes.append((weight[..., None] * votes_of[nearest]).sum(1))
        return torch.stack(votes).transpose(1, 2).unflatten(2, batch.shape[2:])

    return predict


def fit_kmeans(features: Tensor, shares: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """Clusters of cells, matched one to one to the classes.

    Args:
        features: [n, C, h, w].
        shares: class shares [n, K, h, w], used for the matching only.
        seed: of the initial centres.

    Returns:
        features [B, C, h, w] -> similarity to the centre of each class [B, K, h, w].
    """
    cells, labels = _labelled_cells(features, shares, seed)
    centres = spherical_kmeans(cells, shares.shape[1], seed)
    cluster = (cells @ centres.T).argmax(1)
    agreement = torch.zeros(len(centres), labels.shape[1], dtype=labels.dtype, device=labels.device)
    agreement.index_add_(0, cluster, labels)
    clusters, classes = linear_sum_assignment(agreement.cpu().numpy(), maximize=True)
    order = torch.empty(len(centres), dtype=torch.int64)
    order[torch.from_numpy(classes)] = torch.from_numpy(clusters)
    matched = centres[order.to(centres.device)]

    def predict(batch: Tensor) -> Tensor:
        return torch.einsum("bchw,kc->bkhw", F.normalize(batch, dim=1), matched)

    return predict


def spherical_kmeans(cells: Tensor, clusters: int, seed: int) -> Tensor:
    """Centres [clusters, C] of unit length of cells [n, C] of unit length: k-means++ start, best of four.

    Raises:
        ValueError: fewer cells than clusters.
    """
    if len(cells) < clusters:
        raise ValueError(f"kmeans needs at least {clusters} labelled cells, got {len(cells)}")
    generator = torch.Generator().manual_seed(seed)
    best, best_score = cells[:clusters], -float("inf")
    for _ in range(KMEANS_STARTS):
        centres = _spread_start(cells, clusters, generator)
        for _ in range(KMEANS_ROUNDS):
            nearest = (cells @ centres.T).argmax(1)
            sums = torch.zeros_like(centres).index_add_(0, nearest, cells)
            empty = sums.norm(dim=1) == 0
            updated = torch.where(empty[:, None], centres, F.normalize(sums, dim=1))
            if torch.equal(updated, centres):
                break
            centres = updated
        score = float((cells @ centres.T).amax(1).sum())
        if score > best_score:
            best, best_score = centres, score
    return best


def _spread_start(cells: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next centre is drawn with a chance proportional to its distance from the ones before."""
    chosen = [int(torch.randint(len(cells), (1,), generator=generator))]
    for _ in range(clusters - 1):
        far = (1 - (cells @ cells[chosen].T).amax(1)).clamp_min(0).cpu().double() + 1e-12
        chosen.append(int(torch.multinomial(far, 1, generator=generator)))
    return cells[chosen]


def _labelled_cells(features: Tensor, shares: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Unit cells [n, C] and their shares [n, K], at most MOST_CELLS of them."""
    cells = F.normalize(features.permute(0, 2, 3, 1).flatten(0, 2), dim=1)
    labels = shares.permute(0, 2, 3, 1).flatten(0, 2)
    kept = (labels.sum(1) > 0).nonzero().flatten().cpu()
    if len(kept) > MOST_CELLS:
        kept = kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed))[:MOST_CELLS]]
    kept = kept.to(cells.device)
    return cells[kept], labels[kept]
