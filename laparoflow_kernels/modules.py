"""``FlowInfoNCELoss``: the loss as a module, on maps or token sequences, with normalised embeddings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from laparoflow_kernels import checks
from laparoflow_kernels.backends import load_backend
from laparoflow_kernels.distributed import METHODS, check_scope, distributed_flow_infonce
from laparoflow_kernels.functional import flow_infonce
from laparoflow_kernels.guides import robust_flow_spread
from laparoflow_kernels.loss_forms import FlowInfoNCEStats
from laparoflow_kernels.packing import TensorOrList, check_alike, check_frames, frame_sizes
from laparoflow_kernels.problem import accumulator_dtype


class FlowInfoNCELoss(nn.Module):
    """Flow-weighted InfoNCE on embedding maps; see ``flow_infonce`` for the formula and the options.

    Embeddings are L2-normalised here. ``bandwidth="auto"`` takes, per frame, ``auto_scale`` times the robust spread of the
    flow of both views, at least ``auto_floor`` pixels (our choice; the paper's abstract does not say).

    Args:
        temperature: a float, or an ``nn.Parameter`` of one element to learn it (FSDP shards those of shape [1] only).
        bandwidth: pixels of flow, or "auto".
        flow_kernel, positives, negatives, scope, symmetric, exclude_self, reduction, return_stats, backend: as
            ``flow_infonce``.
        auto_scale, auto_floor: for ``bandwidth="auto"``.
        skip_tokens: class and register tokens at the front of query and key sequences, left out; flows and masks are
            those of the patch tokens alone.
        over_processes: "gathered" or "ring": negatives from the frames of all processes (with scope="batch" alone); "mean":
            the mean over the queries of all processes, negatives of this one; see ``distributed_flow_infonce``. None keeps
            to this process.
        warn_share: warn, once per module, when more than this share of the queries that the mask keeps has no positive;
            None disables the check. On the CPU it runs at every call. On other devices it waits for the device, and
            runs at calls 1, 2, 4, 8, and so on. It does not run inside torch.compile or a CUDA graph.

    Shapes:
        query, key: [B, D, H, W] maps (any memory format; views may differ in size), or [B, N, D] tokens. Queries and keys
            may differ in number. Or lists of B maps [D, H, W] or tokens [N, D] of any sizes: then all are lists.
        query_flow, key_flow: [B, F, H, W] (F = 2 for plain flow), or [B, N, F]; in lists [F, H, W] or [N, F].
        query_mask, key_mask: [B, H, W] or [B, N], bool, True = keep; in lists [H, W] or [N].
        query_weight, key_weight, query_group, key_group: of the same shapes; their meaning is that of ``flow_infonce``.
        loss per pixel (``reduction="none"``) and statistics: [B, N] with N = H W, row-major (lists of [N] for lists).

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
        exclude_self: bool = False,
        reduction: str = "mean",
        return_stats: bool = False,
        backend: str = "auto",
        auto_scale: float = 1.0,
        auto_floor: float = 0.25,
        skip_tokens: int = 0,
        over_processes: str | None = None,
        warn_share: float | None = 0.5,
    ) -> None:
        super().__init__()
        checks.check_loss_options(
            flow_kernel=flow_kernel, positives=positives, negatives=negatives, scope=scope, reduction=reduction
        )  # fmt: skip
        if backend != "auto":
            load_backend(backend)
        tokens: Any = skip_tokens  # NumPy's numbers count as well
        if isinstance(tokens, bool) or not isinstance(tokens, Integral) or int(tokens) < 0:
            raise ValueError(f"skip_tokens: expected a whole number of at least 0, got {skip_tokens!r}")
        if over_processes is not None:
            checks.check_option("over_processes", over_processes, METHODS)
            check_scope(over_processes, scope)
        share: Any = warn_share
        if share is not None and not (isinstance(share, Real) and 0 <= float(share) <= 1):
            raise ValueError(f"warn_share: expected a share from 0 to 1, or None, got {warn_share!r}")
        if isinstance(bandwidth, str) and bandwidth != "auto":
            raise ValueError(f"bandwidth: expected a number or 'auto', got {bandwidth!r}")
        if not isinstance(bandwidth, str):
            checks.check_positive("bandwidth", bandwidth)
            checks.check_no_gradient(bandwidth=bandwidth)
        checks.check_temperature(temperature)
        checks.check_positive("auto_scale", auto_scale)
        checks.check_positive("auto_floor", auto_floor)
        self.temperature = temperature
        self.bandwidth = bandwidth
        self.auto_scale, self.auto_floor = auto_scale, auto_floor
        self.over_processes = over_processes
        self.skip_tokens, self.warn_share = skip_tokens, warn_share
        self._calls, self._warned = 0, warn_share is None
        self.options: dict[str, Any] = dict(
            flow_kernel=flow_kernel, positives=positives, negatives=negatives, scope=scope, symmetric=symmetric,
            exclude_self=exclude_self, reduction=reduction, return_stats=return_stats, backend=backend,
        )  # fmt: skip

    def extra_repr(self) -> str:
        shown = {"temperature": self.temperature, "bandwidth": self.bandwidth, **self.options}
        shown |= {"skip_tokens": self.skip_tokens, "over_processes": self.over_processes}
        return ", ".join(f"{k}={v!r}" for k, v in shown.items() if not isinstance(v, Tensor))

    def forward(
        self,
        query: TensorOrList,
        key: TensorOrList,
        query_flow: TensorOrList,
        key_flow: TensorOrList,
        query_mask: TensorOrList | None = None,
        key_mask: TensorOrList | None = None,
        query_weight: TensorOrList | None = None,
        key_weight: TensorOrList | None = None,
        query_group: TensorOrList | None = None,
        key_group: TensorOrList | None = None,
        temperature: Tensor | float | None = None,
    ) -> Any:
        """The loss; with ``return_stats`` the pair (loss, statistics). Raises as ``flow_infonce``.

        ``temperature``, where given, stands in for the module's: a tensor of one element that may need a gradient.
        """
        _check_maps("query", query, flow=query_flow, mask=query_mask, weight=query_weight, group=query_group)
        _check_maps("key", key, flow=key_flow, mask=key_mask, weight=key_weight, group=key_group)
        given = dict(query_weight=query_weight, key_weight=key_weight, query_group=query_group, key_group=key_group)
        per_pixel = {name: _pixels(name, value) for name, value in given.items() if value is not None}
        query, key = _tokens("query", query, self.skip_tokens), _tokens("key", key, self.skip_tokens)
        query_flow, key_flow = _tokens("query_flow", query_flow), _tokens("key_flow", key_flow)
        query_mask, key_mask = _pixels("query_mask", query_mask), _pixels("key_mask", key_mask)
        query, key = _normalized_side(query, query_mask), _normalized_side(key, key_mask)
        bandwidth: float | Tensor
        if isinstance(self.bandwidth, str):
            for side, embedding, flow, mask in (
                ("query", query, query_flow, query_mask), ("key", key, key_flow, key_mask),
            ):  # fmt: skip
                check_frames(side, flow, mask, frame_sizes(side, embedding))
            check_alike(query_flow, key_flow)
            spread = _spread(0.0, query_flow, key_flow, query_mask, key_mask)
            bandwidth = (self.auto_scale * spread).clamp(min=self.auto_floor)
        else:
            bandwidth = self.bandwidth
        look = self._look_at(query)
        options = {**self.options, "return_stats": look or self.options["return_stats"]}
        function: Any = flow_infonce
        if self.over_processes is not None:
            function = distributed_flow_infonce
            options["method"] = self.over_processes
        result = function(
            query, key, query_flow, key_flow, temperature=self.temperature if temperature is None else temperature,
            bandwidth=bandwidth, query_mask=query_mask, key_mask=key_mask, normalized=True, **per_pixel, **options,
        )  # fmt: skip
        if not look:
            return result
        loss, stats = result
        self._warn_without_positives(stats, query_mask)
        return result if self.options["return_stats"] else loss

    def _look_at(self, query: TensorOrList) -> bool:
        """Whether this call looks for queries without a positive."""
        first = query if isinstance(query, Tensor) else query[0]
        if self._warned or not checks.has_values(first):
            return False
        self._calls += 1
        if first.device.type == "cpu":
            return True
        capturing = first.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        return not capturing and self._calls & (self._calls - 1) == 0

    def _warn_without_positives(self, stats: FlowInfoNCEStats, query_mask: TensorOrList | None) -> None:
        weight_sum = _joined(stats.rows.weight_sum)
        keep = torch.ones_like(weight_sum, dtype=torch.bool) if query_mask is None else _joined(query_mask)
        lonely, kept = torch.stack([(keep & (weight_sum == 0)).sum(), keep.sum()]).tolist()
        if kept and self.warn_share is not None and lonely > self.warn_share * kept:
            self._warned = True
            warnings.warn(
                f"FlowInfoNCELoss: {lonely} of {kept} queries have no positive (all pair weights are 0) and are left out of "
                "the loss; widen the bandwidth, or check the unit of the flow and the key mask (said once)",
                RuntimeWarning,
                stacklevel=5,
            )


def _spread(floor: float, query_flow: Any, key_flow: Any, query_mask: Any = None, key_mask: Any = None) -> Tensor:
    """``robust_flow_spread`` [B] of the flow of both views of each frame; tensors or lists, as in ``forward``."""
    if isinstance(query_flow, Tensor):
        flows, keep = torch.cat([query_flow, key_flow], 1), None
        if query_mask is not None or key_mask is not None:
            keep = torch.cat([_kept(query_mask, query_flow), _kept(key_mask, key_flow)], 1)
        return robust_flow_spread(flows, keep, floor)
    none = [None] * len(query_flow)
    frames = zip(query_flow, key_flow, query_mask or none, key_mask or none, strict=True)
    return torch.cat([_spread(floor, *(None if x is None else x[None] for x in frame)) for frame in frames])


def _kept(mask: TensorOrList | None, flow: Tensor) -> Tensor:
    return mask if isinstance(mask, Tensor) else torch.ones(flow.shape[:2], dtype=torch.bool, device=flow.device)


def _joined(value: TensorOrList) -> Tensor:
    """All entries in one dimension."""
    return value.flatten() if isinstance(value, Tensor) else torch.cat([x.flatten() for x in value])


def _normalized_side(value: TensorOrList, mask: TensorOrList | None) -> TensorOrList:
    if isinstance(value, Tensor):
        return _normalized(value, mask)
    masks = list(mask) if isinstance(mask, Sequence) else []
    return [_normalized(x, masks[b] if b < len(masks) else None) for b, x in enumerate(value)]


def _normalized(x: Tensor, mask: Any) -> Tensor:
    """Rows of length 1, in the dtype of x; a row without a direction, and a masked one, become 0, and so do their gradients.

    Shapes and dtypes that cannot be are refused by name later, where all are. The length is taken in float32, as float16 has
    no room for squares; in wider dtypes rows are first scaled by a power of 2, so that squares keep within their range.
    """
    if not x.is_floating_point() or x.shape[-1] == 0:
        return x
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == x.shape[:-1] and mask.device == x.device:
        x = x.masked_fill(~mask[..., None], 0)  # NaN there would come back through the gradient of the length
    dtype = accumulator_dtype(x.dtype)
    largest = torch.linalg.vector_norm(x.detach(), torch.inf, dim=-1, keepdim=True, dtype=dtype)
    if x.dtype != torch.float16:
        most = -math.log2(torch.finfo(dtype).tiny)
        x = x * largest.log2().floor().neg().clamp(-most, most).exp2().to(x.dtype)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype)
    return (x / length.masked_fill(largest < torch.finfo(dtype).tiny, torch.inf)).to(x.dtype)


def _check_maps(side: str, embedding: Any, **parts: Any) -> None:
    """Maps have the height and width of the embedding map: their product alone would hide a transposed one."""
    for kind, value in parts.items():
        fewer = 0 if kind == "flow" else 1  # dimensions
        if isinstance(embedding, Tensor):
            _check_map(f"{side}_{kind}", embedding, value, 4, 4 - fewer)
        elif isinstance(embedding, Sequence) and isinstance(value, Sequence):
            for b, (x, item) in enumerate(zip(embedding, value, strict=False)):
                _check_map(f"{side}_{kind}[{b}]", x, item, 3, 3 - fewer)


def _check_map(name: str, embedding: Any, value: Any, dimensions: int, form: int) -> None:
    if not all(isinstance(x, Tensor) for x in (embedding, value)) or (embedding.ndim, value.ndim) != (dimensions, form):
        return
    if value.shape[-2:] != embedding.shape[-2:]:
        (h, w), (other_h, other_w) = embedding.shape[-2:], value.shape[-2:]
        raise ValueError(f"{name}: expected H x W = {h} x {w} like its embeddings, got {other_h} x {other_w}")


def _pixels(name: str, mask: TensorOrList | None) -> TensorOrList | None:
    """[B, H, W] or [B, N] -> [B, N]; lists: [H, W] or [N] -> [N]."""
    if mask is None:
        return None
    if isinstance(mask, Tensor):
        checks.check_tensor(name, mask)
        if mask.ndim not in (2, 3):
            raise ValueError(f"{name}: expected [B, H, W] or [B, N], got shape {list(mask.shape)}")
        return mask.flatten(1)
    if not isinstance(mask, Sequence) or isinstance(mask, str):
        raise TypeError(f"{name}: expected a torch.Tensor or a list of them, got {type(mask).__name__}")
    for b, item in enumerate(mask):
        checks.check_tensor(f"{name}[{b}]", item)
        if item.ndim not in (1, 2):
            raise ValueError(f"{name}[{b}]: expected [H, W] or [N], got shape {list(item.shape)}")
    return [item.flatten() for item in mask]


def _tokens(name: str, value: TensorOrList, skip: int = 0) -> TensorOrList:
    """[B, C, H, W] -> [B, H W, C] (a view); [B, N, C] stays, less its first ``skip`` tokens; lists: the same per frame."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            raise ValueError(f"{name}: expected at least one frame, got an empty list")
        for b, item in enumerate(value):
            checks.check_tensor(f"{name}[{b}]", item)
            if item.ndim not in (2, 3):
                raise ValueError(f"{name}[{b}]: expected a map [C, H, W] or tokens [N, C], got shape {list(item.shape)}")
        return [x.flatten(1).transpose(0, 1) if x.ndim == 3 else x[skip:] for x in value]
    checks.check_tensor(name, value)
    if value.ndim == 4:
        return value.flatten(2).transpose(1, 2)
    if value.ndim == 3:
        return value[:, skip:]
    raise ValueError(f"{name}: expected a map [B, C, H, W] or tokens [B, N, C], got shape {list(value.shape)}")
