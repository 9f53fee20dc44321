"""From a caller's arguments to packed tensors and back: what ``flow_infonce`` and its form over processes share.

    [B, N, X], or a list of [N_b, X]   <->   [T, X] with the sizes of the frames; T = sum of N_b
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from laparoflow_kernels import checks
from laparoflow_kernels.loss_forms import RowStats, detached_row_stats
from laparoflow_kernels.problem import FrameSizes, PackedFrames, PairProblem, accumulator_dtype, autocast_exists

TensorOrList: TypeAlias = Tensor | Sequence[Tensor]

# |s| up to here lets exp(s) and its sums live in float32 without a running maximum
FIXED_MAXIMUM_LIMIT = 40.0


def pack_pairs(
    query: TensorOrList, key: TensorOrList, query_flow: TensorOrList, key_flow: TensorOrList, *,
    query_mask: TensorOrList | None = None, key_mask: TensorOrList | None = None, temperature: float | Tensor = 0.1,
    bandwidth: float | Tensor = 1.0, flow_kernel: str = "gaussian", positives: str = "outside", negatives: str = "all",
    scope: str = "frame", symmetric: bool = False, normalized: bool = False, query_group: TensorOrList | None = None,
    key_group: TensorOrList | None = None, exclude_self: bool = False, weight_stats: bool = True,
) -> PairProblem:  # fmt: skip
    """Everything checked; arguments and errors as in ``flow_infonce``."""
    checks.check_loss_options(flow_kernel=flow_kernel, positives=positives, negatives=negatives, scope=scope)
    packed_query, query_sizes = pack("query", query)
    packed_key, key_sizes = pack("key", key)
    _check_embeddings(packed_query, packed_key, query_sizes, key_sizes)
    dtype, device = accumulator_dtype(packed_query.dtype), packed_query.device
    query_frames = pack_frames("query", query_flow, query_mask, query_sizes, dtype, device)
    key_frames = pack_frames("key", key_flow, key_mask, key_sizes, dtype, device)
    check_alike(query_flow, key_flow)
    query_frames, key_frames = _with_groups(query_frames, key_frames, query_group, key_group, exclude_self)
    return PairProblem(
        *_autocast(packed_query, packed_key), query_frames, key_frames, _temperature(temperature, dtype, device),
        inverse_bandwidth(bandwidth, query_sizes.frames, dtype, device), flow_kernel, positives, negatives, scope, symmetric,
        # the promise bounds every |s|, as far as can be told without a synchronisation
        normalized and not isinstance(temperature, Tensor) and 1 / temperature <= FIXED_MAXIMUM_LIMIT, weight_stats,
    )  # fmt: skip


def frame_sizes(name: str, value: TensorOrList) -> FrameSizes:
    """Pixels of each frame of [B, N, X] or a list of [N_b, X], whose form is checked."""
    if isinstance(value, Tensor):
        checks.check_tensor(name, value)
        if value.ndim != 3:
            raise ValueError(f"{name}: expected 3 dimensions [B, N, channels], got shape {list(value.shape)}")
        return FrameSizes(value.shape[0], value.shape[1])
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{name}: expected a torch.Tensor or a list of them, got {type(value).__name__}")
    if not value:
        raise ValueError(f"{name}: expected at least one frame, got an empty list")
    for b, item in enumerate(value):
        checks.check_tensor(f"{name}[{b}]", item)
        checks.check_shape(f"{name}[{b}]", item, ("N", "channels"), {"channels": value[0].shape[-1]})
        if item.dtype != value[0].dtype:
            raise TypeError(f"{name}[{b}]: expected dtype {value[0].dtype} like {name}[0], got {item.dtype}")
    checks.check_same_device(**{f"{name}[{b}]": item for b, item in enumerate(value)})
    return FrameSizes.of([item.shape[0] for item in value])


def pack(name: str, value: TensorOrList) -> tuple[Tensor, FrameSizes]:
    """[B, N, X] or a list of [N_b, X] -> ([T, X], sizes)."""
    sizes = frame_sizes(name, value)
    return _joined(value), sizes


def _joined(value: TensorOrList) -> Tensor:
    """[B, N, ...] or a list of [N_b, ...] -> [T, ...]."""
    return _recordable(value.flatten(0, 1) if isinstance(value, Tensor) else torch.cat(list(value)))


def _recordable(x: Tensor) -> Tensor:
    """``x``, or a copy of it outside the inference mode that it was made in: autograd saves no inference tensor."""
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or not x.is_inference():
        return x  # torch.compile makes such copies itself
    return x.clone()


def unpack(packed: Tensor, sizes: FrameSizes, like: TensorOrList) -> TensorOrList:
    """[T, ...] -> [B, N, ...], or a list when the input was one."""
    if sizes.each is not None:
        return list(packed.split(list(sizes.each)))
    frames = packed.reshape(sizes.frames, sizes.largest, *packed.shape[1:])
    return frames if isinstance(like, Tensor) else list(frames)


def unpack_stats(stats: Tensor, sizes: FrameSizes, like: TensorOrList) -> RowStats:
    return RowStats(*(unpack(part, sizes, like) for part in detached_row_stats(stats)))  # type: ignore[arg-type]


def _check_embeddings(query: Tensor, key: Tensor, query_sizes: FrameSizes, key_sizes: FrameSizes) -> None:
    checks.check_float("query", query)
    checks.check_float("key", key)
    checks.check_same_device(query=query, key=key)
    double = torch.float64 in (query.dtype, key.dtype)
    if query.dtype != key.dtype and (double or not autocasts(query.device)):
        raise TypeError(f"key: expected dtype {query.dtype} like query, got {key.dtype}")
    if query.shape[1] != key.shape[1]:
        raise ValueError(f"key: expected D={query.shape[1]} channels like query, got {key.shape[1]}")
    if query.shape[1] == 0:
        raise ValueError("query: expected at least one channel, got D=0")
    if query_sizes.frames != key_sizes.frames:
        raise ValueError(f"key: expected B={query_sizes.frames} frames like query, got {key_sizes.frames}")


def check_frames(side: str, flow: TensorOrList, mask: TensorOrList | None, sizes: FrameSizes) -> None:
    """Flow and mask of one side against the frame sizes of its embeddings."""
    flow_sizes = frame_sizes(f"{side}_flow", flow)
    for part in (flow,) if isinstance(flow, Tensor) else flow[:1]:  # of a list all have the same channels and dtype
        checks.check_float(f"{side}_flow", part)
        checks.check_flow_channels(f"{side}_flow", part)
    if not flow_sizes.same(sizes):
        raise ValueError(f"{side}_flow: expected {sizes} like its embeddings, got {flow_sizes}")
    if mask is not None:
        _check_pixels(side, "mask", mask, sizes)


def _check_pixels(side: str, kind: str, value: TensorOrList, sizes: FrameSizes) -> None:
    """Masks, groups or weights of one side: [B, N], or a list of [N_b]."""
    name = f"{side}_{kind}"
    if isinstance(value, Tensor):
        if sizes.each is not None:
            raise TypeError(f"{name}: expected a list of {kind}s, one for each of its {sizes}, got a tensor")
        checks.check_pixels(name, kind, value, ("B", "N"), {"B": sizes.frames, "N": sizes.largest})
        return
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{name}: expected a torch.Tensor or a list of them, got {type(value).__name__}")
    if len(value) != sizes.frames:
        raise ValueError(f"{name}: expected {sizes.frames} {kind}s, got {len(value)}")
    for b, item in enumerate(value):
        checks.check_pixels(f"{name}[{b}]", kind, item, ("N",), {"N": sizes.each[b] if sizes.each else sizes.largest})


def pack_weight(side: str, weight: TensorOrList | None, frames: PackedFrames) -> Tensor | None:
    """Weights of the losses of one side's pixels, [T], checked, in the accumulator dtype."""
    if weight is None:
        return None
    _check_pixels(side, "weight", weight, frames.sizes)
    packed = _joined(weight)
    checks.check_on(frames.flow.device, "embeddings", **{f"{side}_weight": packed})
    kept = packed.detach() if frames.mask is None else packed.detach().masked_fill(~frames.mask, 0)
    if checks.values_readable(kept) and not bool(((kept >= 0) & kept.isfinite()).all()):
        raise ValueError(f"{side}_weight: expected finite numbers of at least 0 wherever the mask is True, got others")
    return packed.to(frames.flow.dtype)


def _with_groups(
    query: PackedFrames, key: PackedFrames, query_group: TensorOrList | None, key_group: TensorOrList | None,
    exclude_self: bool,
) -> tuple[PackedFrames, PackedFrames]:  # fmt: skip
    """Both sides with their groups: the given ones, or of each pixel its own."""
    given = {"query": query_group, "key": key_group}
    if exclude_self:
        for side, group in given.items():
            if group is not None:
                raise ValueError(f"{side}_group: expected None with exclude_self=True, which groups pixels by their places")
        if not query.sizes.same(key.sizes):
            raise ValueError(f"key: expected {query.sizes} like query with exclude_self=True, got {key.sizes}")
        own = torch.arange(query.flow.shape[0], device=query.flow.device)
        return query._replace(group=own), key._replace(group=own)
    if query_group is None and key_group is None:
        return query, key
    packed = []
    for (side, group), frames in zip(given.items(), (query, key), strict=True):
        if group is None:
            raise ValueError(f"{side}_group: expected groups of both sides or of none, got None")
        _check_pixels(side, "group", group, frames.sizes)
        joined = _joined(group)
        checks.check_on(frames.flow.device, "embeddings", **{f"{side}_group": joined})
        packed.append(frames._replace(group=joined.to(torch.int64).contiguous()))
    return packed[0], packed[1]


def pack_frames(
    side: str, flow: TensorOrList, mask: TensorOrList | None, sizes: FrameSizes, dtype: torch.dtype, device: torch.device,
) -> PackedFrames:  # fmt: skip
    """Flow and mask of one side, checked (``check_frames``), packed, in the accumulator dtype."""
    check_frames(side, flow, mask, sizes)
    checks.check_no_gradient(**{f"{side}_flow": flow})
    packed = _joined(flow)
    packed_mask = None if mask is None else _joined(mask).contiguous()
    checks.check_on(device, "embeddings", **{f"{side}_flow": packed, f"{side}_mask": packed_mask})
    packed = packed.detach().to(dtype).contiguous()
    if sizes.each is None:
        offsets = torch.arange(sizes.frames + 1, device=device, dtype=torch.int64) * sizes.largest
    else:
        offsets = torch.tensor([0, *sizes.each], device=device, dtype=torch.int64).cumsum(0)
    checks.check_flow_values(f"{side}_flow", packed, packed_mask, offsets)
    return PackedFrames(packed, packed_mask, offsets, sizes)


def check_alike(query_flow: TensorOrList, key_flow: TensorOrList) -> None:
    """Flows of both sides, whose form is checked, have as many frames and channels."""
    channels = [flow.shape[-1] if isinstance(flow, Tensor) else flow[0].shape[-1] for flow in (query_flow, key_flow)]
    frames = [flow.shape[0] if isinstance(flow, Tensor) else len(flow) for flow in (query_flow, key_flow)]
    if channels[0] != channels[1]:
        raise ValueError(f"key_flow: expected F={channels[0]} channels like query_flow, got {channels[1]}")
    if frames[0] != frames[1]:
        raise ValueError(f"key_flow: expected B={frames[0]} frames like query_flow, got {frames[1]}")


def autocasts(device: torch.device) -> bool:
    return autocast_exists(device.type) and torch.is_autocast_enabled(device.type)


def _autocast(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Under autocast the products run in the autocast dtype, as matmul's would; float64 is left alone."""
    if autocasts(query.device) and query.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(query.device.type)
        return query.to(dtype), key.to(dtype)
    return query, key


def _temperature(temperature: float | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    # below it float32 knows a logit of unit vectors to a whole number only, and exp of it to no digit
    checks.check_temperature(temperature, torch.finfo(dtype).eps)
    if isinstance(temperature, Tensor):
        checks.check_on(device, "query", temperature=temperature)
        return _recordable(temperature).reshape(()).to(dtype)
    return torch.full((), min(temperature, torch.finfo(dtype).max), dtype=dtype, device=device)


def inverse_bandwidth(bandwidth: float | Tensor, frames: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    least = 2.0 * torch.finfo(dtype).tiny ** 0.5  # the square of its inverse must be a number
    checks.check_positive("bandwidth", bandwidth, least)
    checks.check_no_gradient(bandwidth=bandwidth)
    if isinstance(bandwidth, Tensor):
        if bandwidth.ndim > 1 or (bandwidth.ndim == 1 and bandwidth.shape[0] != frames):
            raise ValueError(
                f"bandwidth: expected a float or a tensor of shape [B={frames}], got shape {list(bandwidth.shape)}"
            )
        checks.check_on(device, "query", bandwidth=bandwidth)
        return bandwidth.detach().to(dtype).reciprocal().expand(frames).contiguous()
    return torch.full((frames,), 1.0 / bandwidth, dtype=dtype, device=device)
