"""Class scores without gradient training: nearest neighbours, clusters, and propagation, on cells of unit length.

knn          scores_c(x) = sum over the k nearest labelled cells y of exp(x.y / 0.07) share_c(y), normalised
kmeans       as many clusters as classes, fitted without labels; the clusters are given to the classes one to one so
             that the labelled area they agree on is largest (Hungarian method)
propagation  through a video, as DINO's evaluation on DAVIS does it, without a radius: as knn, from the cells of the first
             frame and of the last frames, with the scores that these have got
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from laparoflow.probes.heads import Head

TEMPERATURE = 0.07
MOST_CELLS = 20_000
KMEANS_ROUNDS = 50
KMEANS_STARTS = 4


def fit_knn(features: Tensor, shares: Tensor, neighbours: int, seed: int) -> Callable[[Tensor], Tensor]:
    """Votes of so many nearest labelled cells: features [B, C, h, w] -> class scores [B, K, h, w] that sum to one.

    Args:
        features, shares: of the labelled pictures, [n, C, h, w] and [n, K, h, w]; cells without any share are left out.
        neighbours: how many cells vote.
        seed: which cells are kept when there are more than 20,000.
    """
    cells, labels = _labelled_cells(features, shares, seed)
    votes_of = labels / labels.sum(1, keepdim=True)  # a cell that is ignored in part has a whole vote

    def predict(batch: Tensor) -> Tensor:
        rows = F.normalize(batch.flatten(2).transpose(1, 2), dim=-1)
        found = [votes(picture, cells, votes_of, neighbours) for picture in rows]
        return torch.stack(found).transpose(1, 2).unflatten(2, batch.shape[2:])

    return predict


def votes(rows: Tensor, cells: Tensor, labels: Tensor, neighbours: int) -> Tensor:
    """Scores [N, K] of rows [N, C] by the labels [M, K] of the nearest of cells [M, C], all of unit length."""
    similarity, nearest = (rows @ cells.T).topk(min(neighbours, len(cells)), dim=1)
    return ((similarity / TEMPERATURE).softmax(1)[..., None] * labels[nearest]).sum(1)


def propagate(features: Tensor, first: Tensor, neighbours: int = 5, context: int = 4) -> Tensor:
    """Class scores [T, K, h, w] of every frame from the labels of the first; of frame 0 the shares as given.

    Features [T, C, h, w] are of the frames in time order and are scaled per channel over the first, ``first`` are its class
    shares [K, h, w]. So many ``neighbours`` vote, from it and the ``context`` frames before the one at hand.
    """
    if features.shape[2:] != first.shape[1:]:
        raise ValueError(f"features, first: expected one h and w, got {tuple(features.shape)} and {tuple(first.shape)}")
    scaled = Head(features[:1], len(first), "linear").standardise(features)
    cells = F.normalize(scaled.flatten(2).transpose(1, 2), dim=-1)
    known = [first.flatten(1).T]
    for number in range(1, len(cells)):
        frames = [0, *range(max(1, number - context), number)]
        keys, labels = torch.cat([cells[i] for i in frames]), torch.cat([known[i] for i in frames])
        known.append(votes(cells[number], keys, labels, neighbours))
    return torch.stack(known).transpose(1, 2).unflatten(2, features.shape[2:])


def fit_kmeans(features: Tensor, shares: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """Clusters matched one to one to the classes: features [B, C, h, w] -> similarity to each class's centre [B, K, h, w].

    The class shares [n, K, h, w] of the labelled pictures serve the matching alone; the seed is of the initial centres.
    """
    cells, labels = _labelled_cells(features, shares, seed)
    centres = cluster_centres(cells, shares.shape[1], seed)
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


def cluster_centres(cells: Tensor, clusters: int, seed: int) -> Tensor:
    """Centres [clusters, C] of unit length, by k-means on cells [n, C] of unit length: k-means++ start, best of four."""
    if len(cells) < clusters:
        raise ValueError(f"kmeans needs at least {clusters} labelled cells, got {len(cells)}")
    generator, rows = np.random.default_rng(seed), cells.cpu().numpy()
    starts = [kmeans2(rows, clusters, KMEANS_ROUNDS, minit="++", seed=generator)[0] for _ in range(KMEANS_STARTS)]
    centres = [F.normalize(torch.from_numpy(found).to(cells), dim=1) for found in starts]
    return max(centres, key=lambda found: float((cells @ found.T).amax(1).sum()))


def _labelled_cells(features: Tensor, shares: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Unit cells [n, C] and their shares [n, K], at most MOST_CELLS of them."""
    cells = F.normalize(features.permute(0, 2, 3, 1).flatten(0, 2), dim=1)
    labels = shares.permute(0, 2, 3, 1).flatten(0, 2)
    kept = (labels.sum(1) > 0).nonzero().flatten().cpu()
    if len(kept) > MOST_CELLS:
        kept = kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed))[:MOST_CELLS]]
    kept = kept.to(cells.device)
    return cells[kept], labels[kept]
