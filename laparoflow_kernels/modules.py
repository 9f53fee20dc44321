"""``FlowInfoNCELoss``: the loss as a module, on maps or token sequences, with normalised embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from laparoflow_kernels import checks
from laparoflow_kernels.functional import flow_infonce

MAD_TO_SIGMA = 1.4826  # the median absolute deviation of a normal distribution is sigma / 1.4826


def robust_flow_spread(flow: Tensor, mask: Tensor | None = None, floor: float = 0.25) -> Tensor:
    """Robust standard deviation [B] of each frame's flow: 1.4826 x the median distance per axis from the median flow.

    Args:
        flow: [B, N, F] in pixels.
        mask: [B, N] bool, True = keep; a frame with nothing kept gets ``floor``.
        floor: pixels; lower bound, so that a still frame's noise is not taken for motion. Our choice.

    Example:
        >>> robust_flow_spread(torch.zeros(2, 10, 2)).tolist()
        [0.25, 0.25]
    """
    flow = flow.detach().float()
    if mask is not None:
        flow = flow.masked_fill(~mask[..., None], torch.nan)
    if flow.shape[1] == 0:
        return flow.new_full((flow.shape[0],), floor)
    deviation = (flow - flow.nanmedian(1, keepdim=True).values).abs().nanmedian(1).values.mean(-1)
    return (MAD_TO_SIGMA * deviation).nan_to_num(0.0).clamp(min=floor)


class FlowInfoNCELoss(nn.Module):
    """Flow-weighted InfoNCE on embedding maps; see ``flow_infonce`` for the formula and the options.

    Embeddings are L2-normalised here. ``bandwidth="auto"`` takes, per frame, ``auto_scale`` times the robust spread of the
    flow of both views, at least ``auto_floor`` pixels (our choice; the paper's abstract does not say).

    Args:
        temperature: a float, or an ``nn.Parameter`` (0-d) to learn it.
        bandwidth: pixels of flow, or "auto".
        flow_kernel, positives, negatives, scope, symmetric, reduction, return_stats, backend: as ``flow_infonce``.
        auto_scale, auto_floor: for ``bandwidth="auto"``.

    Shapes:
        query, key: [B, D, H, W] maps (any memory format; views may differ in size), or [B, N, D] tokens.
        query_flow, key_flow: [B, F, H, W] (F = 2 for plain flow), or [B, N, F].
        query_mask, key_mask: [B, H, W] or [B, N], bool, True = keep.
        ``reduction="none"`` and statistics come as [B, N] with N = H W, row-major.

    Example:
        >>> loss = FlowInfoNCELoss(temperature=0.1, bandwidth="auto", positives="inside")
        >>> view = lambda: (torch.randn(2, 16, 8, 8), torch.randn(2, 2, 8, 8))
        >>> (q, f), (k, g) = view(), view()
        >>> loss(q, k, f, g).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: float | nn.Parameter = 0.1,
        bandwidth: float | str = 1.0,
        *,
        flow_kernel: str = "gaussian",
        positives: str = "outside",
        negatives: str = "all",
        scope: str = "frame",
        symmetric: bool = False,
        reduction: str = "mean",
        return_stats: bool = False,
        backend: str = "auto",
        auto_scale: float = 1.0,
        auto_floor: float = 0.25,
    ) -> None:
        super().__init__()
        if isinstance(bandwidth, str) and bandwidth != "auto":
            raise ValueError(f"bandwidth: expected a number or 'auto', got {bandwidth!r}")
        if not isinstance(bandwidth, str):
            checks.check_positive("bandwidth", bandwidth)
        checks.check_positive("temperature", temperature)
        checks.check_positive("auto_scale", auto_scale)
        checks.check_positive("auto_floor", auto_floor)
        self.temperature = temperature
        self.bandwidth = bandwidth
        self.auto_scale, self.auto_floor = auto_scale, auto_floor
        self.options: dict[str, Any] = dict(
            flow_kernel=flow_kernel, positives=positives, negatives=negatives, scope=scope, symmetric=symmetric,
            reduction=reduction, return_stats=return_stats, backend=backend,
        )  # fmt: skip

    def extra_repr(self) -> str:
        shown = {"temperature": self.temperature, "bandwidth": self.bandwidth, **self.options}
        return ", ".join(f"{k}={v!r}" for k, v in shown.items() if not isinstance(v, Tensor))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        query_flow: Tensor,
        key_flow: Tensor,
        query_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> Any:
        """The loss; with ``return_stats`` the pair (loss, statistics). Raises as ``flow_infonce``."""
        query, key = (F.normalize(_tokens(n, x), dim=-1) for n, x in (("query", query), ("key", key)))
        query_flow, key_flow = _tokens("query_flow", query_flow), _tokens("key_flow", key_flow)
        query_mask, key_mask = (None if m is None else m.flatten(1) for m in (query_mask, key_mask))
        bandwidth: float | Tensor
        if not isinstance(self.bandwidth, str):
            bandwidth = self.bandwidth
        else:
            flows = torch.cat([query_flow, key_flow], 1)
            keep = None
            if query_mask is not None or key_mask is not None:
                keep = torch.cat(
                    [
                        torch.ones(f.shape[:2], dtype=torch.bool, device=f.device) if m is None else m
                        for m, f in ((query_mask, query_flow), (key_mask, key_flow))
                    ],
                    1,
                )
            bandwidth = self.auto_scale * robust_flow_spread(flows, keep, self.auto_floor)
        return flow_infonce(
            query, key, query_flow, key_flow, temperature=self.temperature, bandwidth=bandwidth, query_mask=query_mask,
            key_mask=key_mask, normalized=True, **self.options,
        )  # fmt: skip


def _tokens(name: str, value: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H W, C] (a view); [B, N, C] stays."""
    checks.check_tensor(name, value)
    if value.ndim == 4:
        return value.flatten(2).transpose(1, 2)
    if value.ndim == 3:
        return value
    raise ValueError(f"{name}: expected a map [B, C, H, W] or tokens [B, N, C], got shape {list(value.shape)}")
