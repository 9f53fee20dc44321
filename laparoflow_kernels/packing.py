"""From a caller's arguments to packed tensors and back: what ``flow_infonce`` and its form over processes share.

    [B, N, X], or a list of [N_b, X]   <->   [T, X] with the sizes of the frames; T = sum of N_b
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from laparoflow_kernels import checks
from laparoflow_kernels.guides import robust_flow_spread
from laparoflow_kernels.problem import (
    FrameSizes,
    PackedFrames,
    PairProblem,
    accumulator_dtype,
    autocast_exists,
    equal_frames,
)

TensorOrList: TypeAlias = Tensor | Sequence[Tensor]

# |s| up to here lets exp(s) and its sums live in float32 without a running maximum
FIXED_MAXIMUM_LIMIT = 40.0


def pack_pairs(
    query: TensorOrList, key: TensorOrList, query_flow: TensorOrList, key_flow: TensorOrList, *,
    query_mask: TensorOrList | None = None, key_mask: TensorOrList | None = None, temperature: float | Tensor = 0.1,
    bandwidth: float | Tensor | AutoBandwidth = 1.0, flow_kernel: str = "gaussian", positives: str = "outside",
    negatives: str = "all", scope: str = "frame", symmetric: bool = False, normalized: bool = False,
    query_group: TensorOrList | None = None, key_group: TensorOrList | None = None, exclude_self: bool = False,
    weight_stats: bool = True,
) -> PairProblem:  # fmt: skip
    """Everything checked; arguments and errors as in ``flow_infonce``."""
    checks.check_loss_options(flow_kernel=flow_kernel, positives=positives, negatives=negatives, scope=scope)
    packed_query, query_sizes = pack("query", query)
    packed_key, key_sizes = pack("key", key)
    _check_embeddings(packed_query, packed_key, query_sizes, key_sizes)
    sides = pack_sides(query_flow, key_flow, query_mask, key_mask, query_sizes, key_sizes, packed_query)
    inv_bandwidth = inverse_bandwidth(bandwidth, *sides)
    return PairProblem(
        *_autocast(packed_query, packed_key), *_with_groups(*sides, query_group, key_group, exclude_self),
        _temperature(temperature, inv_bandwidth), inv_bandwidth, flow_kernel, positives, negatives, scope, symmetric,
        # the promise bounds every |s|, as far as can be told without a synchronisation
        normalized and not isinstance(temperature, Tensor) and 1 / temperature <= FIXED_MAXIMUM_LIMIT, weight_stats,
    )  # fmt: skip


def pack(name: str, value: TensorOrList) -> tuple[Tensor, FrameSizes]:
    """[B, N, X] or a list of [N_b, X], whose form is checked -> ([T, X], sizes)."""
    if isinstance(value, Tensor):
        checks.check_tensor(name, value)
        if value.ndim != 3:
            raise ValueError(f"{name}: expected 3 dimensions [B, N, channels], got shape {list(value.shape)}")
        return joined(value), FrameSizes(value.shape[0], value.shape[1])
    checks.check_list(name, value)
    if not value:
        raise ValueError(f"{name}: expected at least one frame, got an empty list")
    for b, item in enumerate(value):
        checks.check_tensor(f"{name}[{b}]", item)
        checks.check_shape(f"{name}[{b}]", item, ("N", "channels"), {"channels": value[0].shape[-1]})
        if item.dtype != value[0].dtype:
            raise TypeError(f"{name}[{b}]: expected dtype {value[0].dtype} like {name}[0], got {item.dtype}")
        checks.check_on(value[0].device, f"{name}[0]", **{f"{name}[{b}]": item})
    return joined(value), FrameSizes.of([item.shape[0] for item in value])


def joined(value: TensorOrList) -> Tensor:
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


def _check_embeddings(query: Tensor, key: Tensor, query_sizes: FrameSizes, key_sizes: FrameSizes) -> None:
    checks.check_dtype("query", query)
    checks.check_dtype("key", key)
    checks.check_on(query.device, "query", key=key)
    double = torch.float64 in (query.dtype, key.dtype)
    if query.dtype != key.dtype and (double or not autocasts(query.device)):
        raise TypeError(f"key: expected dtype {query.dtype} like query, got {key.dtype}")
    if query.shape[1] != key.shape[1]:
        raise ValueError(f"key: expected D={query.shape[1]} channels like query, got {key.shape[1]}")
    if query.shape[1] == 0:
        raise ValueError("query: expected at least one channel, got D=0")
    if query_sizes.frames != key_sizes.frames:
        raise ValueError(f"key: expected B={query_sizes.frames} frames like query, got {key_sizes.frames}")


def _pack_pixels(side: str, kind: str, value: TensorOrList, sizes: FrameSizes, device: torch.device) -> Tensor:
    """Masks, groups or weights of one side, [B, N] or a list of [N_b], checked -> [T]."""
    name = f"{side}_{kind}"
    if isinstance(value, Tensor):
        if sizes.each is not None:
            raise TypeError(f"{name}: expected a list of {kind}s, one for each of its {sizes}, got a tensor")
        checks.check_dtype(name, value, kind)
        checks.check_shape(name, value, ("B", "N"), {"B": sizes.frames, "N": sizes.largest})
    else:
        checks.check_list(name, value)
        if len(value) != sizes.frames:
            raise ValueError(f"{name}: expected {sizes.frames} {kind}s, got {len(value)}")
        for b, item in enumerate(value):
            checks.check_dtype(f"{name}[{b}]", item, kind)
            checks.check_shape(f"{name}[{b}]", item, ("N",), {"N": sizes.each[b] if sizes.each else sizes.largest})
    packed = joined(value)
    checks.check_on(device, "embeddings", **{name: packed})
    return packed


def pack_weight(side: str, weight: TensorOrList | None, frames: PackedFrames) -> Tensor | None:
    """Weights of the losses of one side's pixels, [T], checked, in the accumulator dtype."""
    if weight is None:
        return None
    packed = _pack_pixels(side, "weight", weight, frames.sizes, frames.flow.device)
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
        packed_group = _pack_pixels(side, "group", group, frames.sizes, frames.flow.device)
        packed.append(frames._replace(group=packed_group.to(torch.int64).contiguous()))
    return packed[0], packed[1]


def pack_sides(
    query_flow: TensorOrList, key_flow: TensorOrList, query_mask: TensorOrList | None, key_mask: TensorOrList | None,
    query_sizes: FrameSizes | None, key_sizes: FrameSizes | None, like: Tensor,
) -> tuple[PackedFrames, PackedFrames]:  # fmt: skip
    """Flows and masks of both sides, checked against the sizes of their embeddings and packed; ``like`` is one of these."""
    query = _pack_frames("query", query_flow, query_mask, query_sizes, like)
    key = _pack_frames("key", key_flow, key_mask, key_sizes, like)
    channels, frames = query.flow.shape[1], query.sizes.frames
    if key.flow.shape[1] != channels:
        raise ValueError(f"key_flow: expected F={channels} channels like query_flow, got {key.flow.shape[1]}")
    if key.sizes.frames != frames:
        raise ValueError(f"key_flow: expected B={frames} frames like query_flow, got {key.sizes.frames}")
    return query, key


def _pack_frames(
    side: str, flow: TensorOrList, mask: TensorOrList | None, expected: FrameSizes | None, like: Tensor
) -> PackedFrames:
    """Flow and mask of one side, checked, packed, on the device and in the accumulator dtype of ``like``."""
    name, device = f"{side}_flow", like.device
    packed, sizes = pack(name, flow)
    checks.check_dtype(name, packed)
    checks.check_flow_channels(name, packed.shape[1])
    if expected is not None and not sizes.same(expected):
        raise ValueError(f"{name}: expected {expected} like its embeddings, got {sizes}")
    packed_mask = None if mask is None else _pack_pixels(side, "mask", mask, sizes, device).contiguous()
    checks.check_no_gradient(name, packed)
    checks.check_on(device, "embeddings", **{name: packed})
    packed = packed.detach().to(accumulator_dtype(like.dtype)).contiguous()
    if sizes.each is None:
        offsets = torch.arange(sizes.frames + 1, device=device, dtype=torch.int64) * sizes.largest
    else:
        offsets = torch.tensor([0, *sizes.each], device=device, dtype=torch.int64).cumsum(0)
    checks.check_flow_values(name, packed, packed_mask, offsets)
    return PackedFrames(packed, packed_mask, offsets, sizes)


def autocasts(device: torch.device) -> bool:
    return autocast_exists(device.type) and torch.is_autocast_enabled(device.type)


def _autocast(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Under autocast the products run in the autocast dtype, as matmul's would; float64 is left alone."""
    if autocasts(query.device) and query.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(query.device.type)
        return query.to(dtype), key.to(dtype)
    return query, key


def _temperature(temperature: float | Tensor, like: Tensor) -> Tensor:
    """[], on the device and in the dtype of ``like``."""
    # below it float32 knows a logit of unit vectors to a whole number only, and exp of it to no digit
    checks.check_temperature(temperature, torch.finfo(like.dtype).eps)
    if isinstance(temperature, Tensor):
        checks.check_on(like.device, "query", temperature=temperature)
        return _recordable(temperature).reshape(()).to(like.dtype)
    return torch.full((), min(temperature, torch.finfo(like.dtype).max), dtype=like.dtype, device=like.device)


class AutoBandwidth(NamedTuple):
    """``scale`` times the robust spread of the flow of both sides, frame by frame, and at least ``floor``."""

    scale: float
    floor: float

    def of(self, query: PackedFrames, key: PackedFrames) -> Tensor:
        """[B], in the unit of the flow."""
        spreads = []
        for _, of_query, of_key in equal_frames(query.sizes, key.sizes):
            keep = None
            if query.mask is not None or key.mask is not None:
                keep = torch.cat([of_query(query.keep()), of_key(key.keep())], 1)
            spreads.append(robust_flow_spread(torch.cat([of_query(query.flow), of_key(key.flow)], 1), keep, floor=0.0))
        return (self.scale * torch.cat(spreads)).clamp(min=self.floor)


def inverse_bandwidth(bandwidth: float | Tensor | AutoBandwidth, query: PackedFrames, key: PackedFrames) -> Tensor:
    """[B], in the dtype of the packed flow."""
    flow, frames = query.flow, query.sizes.frames
    if isinstance(bandwidth, AutoBandwidth):
        bandwidth = bandwidth.of(query, key)
    least = 2.0 * torch.finfo(flow.dtype).tiny ** 0.5  # the square of its inverse must be a number
    checks.check_positive("bandwidth", bandwidth, least)
    checks.check_no_gradient("bandwidth", bandwidth)
    if isinstance(bandwidth, Tensor):
        if bandwidth.ndim > 1 or (bandwidth.ndim == 1 and bandwidth.shape[0] != frames):
            raise ValueError(
                f"bandwidth: expected a float or a tensor of shape [B={frames}], got shape {list(bandwidth.shape)}"
            )
        checks.check_on(flow.device, "query", bandwidth=bandwidth)
        return bandwidth.detach().to(flow.dtype).reciprocal().expand(frames).contiguous()
    return torch.full((frames,), 1.0 / bandwidth, dtype=flow.dtype, device=flow.device)
