"""The loss's statistics and gradients by dense NumPy in a chosen precision: the truth in float64.

Written from the formulas alone, without the package, so that an error in one is not an error in both.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

SMALLEST = 2.0**-126


@dataclass
class Case:
    """One packed problem. Embeddings are float64 holding values exact in the element type."""

    query: np.ndarray  # [Tq, D]
    key: np.ndarray  # [Tk, D]
    query_flow: np.ndarray  # [Tq, F] float32
    key_flow: np.ndarray
    query_sizes: list[int]
    key_sizes: list[int]
    temperature: float = 0.1
    bandwidth: list[float] = field(default_factory=list)  # one a frame
    query_mask: np.ndarray | None = None
    key_mask: np.ndarray | None = None
    element: str = "bfloat16"
    full_float: bool = True
    flow_kernel: str = "gaussian"
    positives: str = "outside"
    negatives: str = "all"
    scope: str = "frame"
    symmetric: bool = False
    bounded: bool = False
    query_group: np.ndarray | None = None  # [Tq] int64: pairs of equal groups count nowhere
    key_group: np.ndarray | None = None  # [Tk]
    weight_stats: bool = True

    @property
    def inv_bandwidth(self) -> np.ndarray:
        return (1.0 / np.asarray(self.bandwidth, dtype=np.float64)).astype(np.float32)


def flow_weights(case: Case, dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """w [Tq, Tk], log w (0 where w = 0) and the pairs [Tq, Tk] that count in the denominator."""
    tq, tk = len(case.query), len(case.key)
    frame_q = np.repeat(np.arange(len(case.query_sizes)), case.query_sizes)
    frame_k = np.repeat(np.arange(len(case.key_sizes)), case.key_sizes)
    keep_q = np.ones(tq, bool) if case.query_mask is None else case.query_mask
    keep_k = np.ones(tk, bool) if case.key_mask is None else case.key_mask
    same = frame_q[:, None] == frame_k[None, :]
    counted = keep_q[:, None] & keep_k[None, :]
    if case.query_group is not None:
        counted &= case.query_group[:, None] != case.key_group[None, :]
    f = np.where(keep_q[:, None], case.query_flow, 0).astype(dtype)
    g = np.where(keep_k[:, None], case.key_flow, 0).astype(dtype)
    r2 = ((f[:, None] - g[None]) ** 2).sum(-1)
    scaled = r2 * (case.inv_bandwidth.astype(dtype) ** 2)[frame_q][:, None]
    with np.errstate(divide="ignore"):
        log_w = {
            "gaussian": lambda: -scaled / 2,
            "laplace": lambda: -np.sqrt(scaled),
            "cauchy": lambda: -np.log1p(scaled),
            "tophat": lambda: np.where(scaled <= 1 + 2.0**-21, 0.0, -np.inf).astype(dtype),
        }[case.flow_kernel]()
        w = np.where(same & counted, np.exp(log_w), 0).astype(dtype)
    w = np.where(w < SMALLEST, 0, w)
    return w, np.where(w > 0, log_w, 0), counted & (same if case.scope == "frame" else True)


def _log_sum_exp(x: np.ndarray) -> np.ndarray:
    if x.shape[1] == 0:
        return np.full(len(x), -np.inf, x.dtype)
    top = x.max(1)
    safe = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        return safe + np.log(np.exp(x - safe[:, None]).sum(1))


def _side(case: Case, s, w, log_w, counted) -> np.ndarray:
    dtype = s.dtype.type
    with np.errstate(divide="ignore"):
        log_n = np.log1p(-w) if case.negatives == "dissimilar" else np.zeros_like(w)
    lse = _log_sum_exp(np.where(counted & np.isfinite(log_n), s + np.where(np.isfinite(log_n), log_n, 0), -np.inf))
    total = w.sum(1)
    if case.positives == "outside":
        positive = np.where(total > 0, (w * s).sum(1) / np.where(total > 0, total, 1), 0)
    else:
        positive = _log_sum_exp(np.where(w > 0, s + log_w, -np.inf))
    return np.stack([lse, total, positive, (w * log_w).sum(1)]).astype(dtype)


def _embeddings(case: Case, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    q = case.query if case.query_mask is None else np.where(case.query_mask[:, None], case.query, 0)
    k = case.key if case.key_mask is None else np.where(case.key_mask[:, None], case.key, 0)
    return q.astype(dtype), k.astype(dtype)


def forward(case: Case, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Row statistics [4, Tq] and column statistics [4, Tk] in ``dtype``."""
    q, k = _embeddings(case, dtype)
    s = q @ k.T / dtype(np.float32(case.temperature))
    w, log_w, counted = flow_weights(case, dtype)
    return _side(case, s, w, log_w, counted), _side(case, s.T, w.T, log_w.T, counted.T)


def positive_sizes(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """sum_j w |s| / W of rows and columns: the size of the terms of the "outside" positive."""
    q, k = _embeddings(case, np.float64)
    s = np.abs(q @ k.T / np.float32(case.temperature))
    w, _, _ = flow_weights(case, np.float64)
    return tuple((a * b).sum(1) / np.where(a.sum(1) > 0, a.sum(1), 1) for a, b in ((w, s), (w.T, s.T)))  # type: ignore[return-value]


def backward(case, row_stats, column_stats, row_grad, column_grad, dtype: type = np.float64):
    """dq [Tq, D], dk [Tk, D], dtemperature from statistics and upstream gradients; columns when symmetric."""
    q, k = _embeddings(case, dtype)
    t = dtype(np.float32(case.temperature))
    s = q @ k.T / t
    w, log_w, counted = flow_weights(case, dtype)

    def terms(s, w, log_w, counted, stats, grad):
        stats, grad = stats.astype(dtype), grad.astype(dtype)
        n = np.where(counted, 1 - w if case.negatives == "dissimilar" else 1, 0)
        lse, total, positive = stats[0], stats[1], stats[2]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            share = np.where(n > 0, np.exp(s + np.log(n) - np.where(np.isfinite(lse), lse, np.inf)[:, None]), 0)
            if case.positives == "outside":
                part = np.where(total[:, None] > 0, w / np.where(total > 0, total, 1)[:, None], 0)
            else:
                shift = np.where(np.isfinite(positive), positive, np.inf)[:, None]
                part = np.where(w > 0, np.exp(s + log_w - shift), 0)
        return grad[0][:, None] * share + grad[1][:, None] * part

    ds = terms(s, w, log_w, counted, row_stats, row_grad)
    if case.symmetric:
        ds = ds + terms(s.T, w.T, log_w.T, counted.T, column_stats, column_grad).T
    return ds @ k / t, ds.T @ q / t, -(ds * s).sum() / t


def weighted_sum(case: Case, values: np.ndarray, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """sum_j w_ij v_j [Tq, C] and sum_j w_ij [Tq]."""
    w, _, _ = flow_weights(case, dtype)
    keep = np.ones(len(values), bool) if case.key_mask is None else case.key_mask
    return w @ np.where(keep[:, None], values, 0).astype(dtype), w.sum(1)
