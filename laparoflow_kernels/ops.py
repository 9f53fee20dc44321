"""The operators of every fused backend: schema, fake (meta) implementation and autograd, written once.

``define_ops(namespace)`` creates them in torch's dispatcher; a backend then only adds kernels for its devices. The native
backend (namespace ``laparoflow``) does so from C++, the triton backend (``laparoflow_triton``) from Python. Their arguments
are listed in ``arguments.py``.

    flow_infonce_forward   pairs -> statistics of rows and, when symmetric, of columns
    flow_infonce_backward  gradients of the statistics -> dquery, dkey, dtemperature
    flow_infonce_fused     the reduced one-direction loss with its gradients, in one sweep over the pairs
    flow_weighted_sum      sum_j w_ij v_j and sum_j w_ij; its own backward with the roles exchanged
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from laparoflow_kernels import autograd
from laparoflow_kernels.arguments import (
    OPERATORS,
    Needs,
    PairArguments,
    ReductionArguments,
    StatsArguments,
    SumArguments,
    schema,
    split,
    tensor_fields,
)
from laparoflow_kernels.loss_forms import STAT_LSE, STAT_POSITIVE
from laparoflow_kernels.problem import PackedFrames, PairProblem, accumulator_dtype

_libraries: dict[str, torch.library.Library] = {}


def define_ops(namespace: str) -> torch.library.Library:
    """Define the operators of ``namespace`` with fake and autograd (once); returns the library to add kernels to."""
    if namespace not in _libraries:
        library = torch.library.Library(namespace, "DEF")
        fakes = (_forward_fake, _backward_fake, _fused_fake, _weighted_sum_fake)
        for name, fake in zip(OPERATORS, fakes, strict=True):
            library.define(schema(name), tags=(torch.Tag.pt2_compliant_tag,))
            torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)
            torch.library.register_vmap(f"{namespace}::{name}", _each_in_turn(namespace, name), lib=library)
        _libraries[namespace] = library
        _register_autograd(namespace, library)
    return _libraries[namespace]


def statistics(namespace: str, problem: PairProblem) -> tuple[Tensor, Tensor]:
    """Row [4, Tq] and column statistics [4, Tk] ([4, 0] when not symmetric), differentiable."""
    return getattr(torch.ops, namespace).flow_infonce_forward(*problem.op_args())


def weighted_sum(
    namespace: str, query: PackedFrames, key: PackedFrames, values: Tensor, inv_bandwidth: Tensor, flow_kernel: str
) -> tuple[Tensor, Tensor]:
    """sum_j w_ij v_j [Tq, C] and sum_j w_ij [Tq], frame by frame; values [Tk, C]."""
    return getattr(torch.ops, namespace).flow_weighted_sum(
        query.flow, key.flow, values.contiguous(), inv_bandwidth, query.offsets, key.offsets, query.mask, key.mask,
        query.sizes.largest, key.sizes.largest, flow_kernel,
    )  # fmt: skip


def _each_in_turn(namespace: str, name: str) -> Any:
    """The rule of torch.func.vmap: a call for each problem, whatever is mapped over; its frames are one call."""

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        op = getattr(getattr(torch.ops, namespace), name)
        mapped = [x if at is None else x.movedim(at, 0) for x, at in zip(arguments, in_dims, strict=True)]
        calls = [
            op(*(x if at is None else x[i].contiguous() for x, at in zip(mapped, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        results = tuple(torch.stack(result) for result in zip(*calls, strict=True))
        return results, (0,) * len(results)

    return rule


def _stats_like(p: PairArguments, symmetric: bool) -> tuple[Tensor, Tensor]:
    dtype = accumulator_dtype(p.query.dtype)
    columns = p.key.shape[0] if symmetric else 0
    return p.query.new_empty((4, p.query.shape[0]), dtype=dtype), p.query.new_empty((4, columns), dtype=dtype)


def _gradients_like(p: PairArguments, needs: Needs, dtype: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor]:
    """dquery, dkey (in their own dtypes where ``dtype`` is None) and dtemperature; [0] where not needed."""

    def like(tensor: Tensor, needed: bool) -> Tensor:
        kind = dtype or tensor.dtype
        return torch.empty_like(tensor, dtype=kind) if needed else tensor.new_empty((0,), dtype=kind)

    temperature = p.query.new_empty(() if needs.need_temperature else (0,), dtype=accumulator_dtype(p.query.dtype))
    return like(p.query, needs.need_query), like(p.key, needs.need_key), temperature


def _forward_fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    p = PairArguments(*arguments)
    return _stats_like(p, p.symmetric)


def _backward_fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    p, _, needs = split("flow_infonce_backward", arguments)
    return _gradients_like(p, needs, None)


def _fused_fake(*arguments: Any) -> tuple[Tensor, ...]:
    p, _, needs = split("flow_infonce_fused", arguments)
    dtype = accumulator_dtype(p.query.dtype)
    return p.query.new_empty((), dtype=dtype), _stats_like(p, False)[0], *_gradients_like(p, needs, dtype)


def _weighted_sum_fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    p = SumArguments(*arguments)
    rows, dtype = p.query_flow.shape[0], accumulator_dtype(p.values.dtype)
    return p.values.new_empty((rows, p.values.shape[1]), dtype=dtype), p.values.new_empty((rows,), dtype=dtype)


_PAIR_TENSORS = tensor_fields(PairArguments)
_NO_PAIR: Any = PairArguments._make([None] * len(PairArguments._fields))
_NO_SUM: Any = SumArguments._make([None] * len(SumArguments._fields))
_NOTHING = [None] * len(ReductionArguments._fields + Needs._fields)


def _register_autograd(namespace: str, library: torch.library.Library) -> None:
    ops = getattr(torch.ops, namespace)

    def forward_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        p: Any = PairArguments(*inputs)
        ctx.save_for_backward(*(getattr(p, name) for name in _PAIR_TENSORS), *output)
        ctx.options = p._replace(**dict.fromkeys(_PAIR_TENSORS))

    def forward_backward(ctx: Any, row_grad: Tensor, column_grad: Tensor) -> tuple[Any, ...]:
        *tensors, row_stats, column_stats = ctx.saved_tensors
        p = ctx.options._replace(**dict(zip(_PAIR_TENSORS, tensors, strict=True)))
        wanted = PairArguments(*ctx.needs_input_grad)
        needs = Needs(wanted.query, wanted.key, wanted.temperature)  # type: ignore[arg-type]
        # Weight sums depend on the flow alone. No index by a list: that copies indices to the GPU, and no graph captures it.
        grads = (torch.stack((grad[STAT_LSE], grad[STAT_POSITIVE])) for grad in (row_grad, column_grad))
        gradients = ops.flow_infonce_backward(*p, *StatsArguments(row_stats, column_stats, *grads), *needs)
        dquery, dkey, dtemperature = (x if need else None for x, need in zip(gradients, needs, strict=True))
        return _NO_PAIR._replace(query=dquery, key=dkey, temperature=dtemperature)

    autograd.register(library, "flow_infonce_forward", ops.flow_infonce_forward, forward_setup, forward_backward)

    def fused_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, _, *gradients = output
        ctx.save_for_backward(*gradients)
        p, _, _ = split("flow_infonce_fused", inputs)
        ctx.dtypes = p.query.dtype, p.key.dtype, p.temperature.dtype

    def fused_backward(ctx: Any, grad_loss: Tensor, *unused: Tensor) -> tuple[Any, ...]:
        wanted, _, _ = split("flow_infonce_fused", ctx.needs_input_grad)
        dquery, dkey, dtemperature = (
            (x * grad_loss).to(dtype) if need else None
            for x, dtype, need in zip(
                ctx.saved_tensors, ctx.dtypes, (wanted.query, wanted.key, wanted.temperature), strict=True
            )
        )
        return (*_NO_PAIR._replace(query=dquery, key=dkey, temperature=dtemperature), *_NOTHING)

    autograd.register(library, "flow_infonce_fused", ops.flow_infonce_fused, fused_setup, fused_backward)

    def sum_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        p = SumArguments(*inputs)
        ctx.save_for_backward(
            p.query_flow, p.key_flow, p.inv_bandwidth, p.query_offsets, p.key_offsets, p.query_mask, p.key_mask
        )
        ctx.options = (p.max_query, p.max_key, p.flow_kernel, p.values.dtype)

    def sum_backward(ctx: Any, grad_sums: Tensor, grad_weight_sum: Tensor) -> tuple[Any, ...]:
        query_flow, key_flow, inv_bandwidth, query_offsets, key_offsets, query_mask, key_mask = ctx.saved_tensors
        max_query, max_key, flow_kernel, dtype = ctx.options
        exchanged = SumArguments(
            key_flow, query_flow, grad_sums.contiguous(), inv_bandwidth, key_offsets, query_offsets, key_mask, query_mask,
            max_key, max_query, flow_kernel,
        )  # fmt: skip
        dvalues, _ = ops.flow_weighted_sum(*exchanged)
        return _NO_SUM._replace(values=dvalues.to(dtype))

    autograd.register(library, "flow_weighted_sum", ops.flow_weighted_sum, sum_setup, sum_backward, twice=True)
