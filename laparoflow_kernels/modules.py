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
from laparoflow_kernels.loss_forms import FlowInfoNCEStats
from laparoflow_kernels.packing import AutoBandwidth, TensorOrList, joined
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
            checks.check_no_gradient("bandwidth", bandwidth)
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
        inputs: dict[str, Any] = {}
        for side, maps, flow, mask, weight, group in (
            ("query", query, query_flow, query_mask, query_weight, query_group),
            ("key", key, key_flow, key_mask, key_weight, key_group),
        ):
            rows = _rows(side, maps, True, skip=self.skip_tokens)
            inputs[f"{side}_flow"] = _rows(f"{side}_flow", flow, True, maps)
            for kind, value in (("mask", mask), ("weight", weight), ("group", group)):
                inputs[f"{side}_{kind}"] = None if value is None else _rows(f"{side}_{kind}", value, False, maps)
            inputs[side] = _normalized_side(rows, inputs[f"{side}_mask"])
        bandwidth = AutoBandwidth(self.auto_scale, self.auto_floor) if isinstance(self.bandwidth, str) else self.bandwidth
        look = self._look_at(inputs["query"])
        options = {**self.options, "return_stats": look or self.options["return_stats"]}
        function: Any = flow_infonce
        if self.over_processes is not None:
            function = distributed_flow_infonce
            options["method"] = self.over_processes
        if temperature is None:
            temperature = self.temperature
        result = function(**inputs, temperature=temperature, bandwidth=bandwidth, normalized=True, **options)
        if not look:
            return result
        loss, stats = result
        self._warn_without_positives(stats, inputs["query_mask"])
        return result if self.options["return_stats"] else loss

    def _look_at(self, query: TensorOrList) -> bool:
        """Whether this call looks for queries without a positive."""
        first = query if isinstance(query, Tensor) else next(iter(query), None)
        if self._warned or first is None or not checks.has_values(first):
            return False
        self._calls += 1
        if first.device.type == "cpu":
            return True
        capturing = first.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        return not capturing and self._calls & (self._calls - 1) == 0

    def _warn_without_positives(self, stats: FlowInfoNCEStats, query_mask: TensorOrList | None) -> None:
        weight_sum = joined(stats.rows.weight_sum)
        keep = torch.ones_like(weight_sum, dtype=torch.bool) if query_mask is None else joined(query_mask)
        lonely, kept = torch.stack([(keep & (weight_sum == 0)).sum(), keep.sum()]).tolist()
        if kept and self.warn_share is not None and lonely > self.warn_share * kept:
            self._warned = True
            warnings.warn(
                f"FlowInfoNCELoss: {lonely} of {kept} queries have no positive (all pair weights are 0) and are left out of "
                "the loss; widen the bandwidth, or check the unit of the flow and the key mask (said once)",
                RuntimeWarning,
                stacklevel=5,
            )


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


def _rows(name: str, value: TensorOrList, channels: bool, like: Any = None, skip: int = 0) -> TensorOrList:
    """Maps as rows of pixels: [B, C, H, W] -> [B, H W, C] (a view) with ``channels``, [B, H, W] -> [B, H W] without.

    Rows stay, less the first ``skip`` tokens; of lists each frame. A map has height and width of the embedding map ``like``.
    """
    if isinstance(value, Tensor):
        return _rows_of(name, value, "B, ", channels, like, skip)
    checks.check_list(name, value)
    likes = dict(enumerate(like)) if isinstance(like, Sequence) else {}
    return [_rows_of(f"{name}[{b}]", item, "", channels, likes.get(b), skip) for b, item in enumerate(value)]


def _rows_of(name: str, value: Tensor, batch: str, channels: bool, like: Any, skip: int) -> Tensor:
    checks.check_tensor(name, value)
    form = value.ndim - bool(batch) - channels  # 2 of a map, 1 of rows
    if form not in (1, 2):
        forms = f"a map [{batch}C, H, W] or tokens [{batch}N, C]" if channels else f"[{batch}H, W] or [{batch}N]"
        raise ValueError(f"{name}: expected {forms}, got shape {list(value.shape)}")
    if form == 1:
        return value[..., skip:, :] if channels else value
    if isinstance(like, Tensor) and like.ndim == 3 + bool(batch) and value.shape[-2:] != like.shape[-2:]:
        # their product alone would hide a transposed one
        (h, w), (other_h, other_w) = like.shape[-2:], value.shape[-2:]
        raise ValueError(f"{name}: expected H x W = {h} x {w} like its embeddings, got {other_h} x {other_w}")
    flat = value.flatten(-2)
    return flat.transpose(-1, -2) if channels else flat
