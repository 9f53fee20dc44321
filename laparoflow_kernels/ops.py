"""The operators of every fused backend: schema, fake (meta) implementation and autograd, written once.

``define_ops(namespace)`` creates them in torch's dispatcher; a backend then only adds kernels for its devices. The native
backend (namespace ``laparoflow``) does so from C++, the triton backend (``laparoflow_triton``) from Python.

    flow_infonce_forward   pairs -> statistics of rows and, when symmetric, of columns
    flow_infonce_backward  gradients of the statistics -> dquery, dkey, dtemperature
    flow_infonce_fused     the reduced one-direction loss with its gradients, in one sweep over the pairs
    flow_weighted_sum      sum_j w_ij v_j and sum_j w_ij; its own backward with the roles exchanged
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, peek_interpreter_stack
from torch.autograd import forward_ad

from laparoflow_kernels.loss_forms import STAT_LSE, STAT_POSITIVE
from laparoflow_kernels.problem import accumulator_dtype

_PAIRS = (
    "Tensor query, Tensor key, Tensor query_flow, Tensor key_flow, Tensor temperature, Tensor inv_bandwidth, "
    "Tensor query_offsets, Tensor key_offsets, Tensor? query_mask, Tensor? key_mask, SymInt max_query, SymInt max_key, "
    "str flow_kernel, str positives, str negatives, str scope, bool symmetric, bool bounded"
)
_NEED = "bool need_query, bool need_key, bool need_temperature"

SCHEMAS = {
    "flow_infonce_forward": f"({_PAIRS}) -> (Tensor row_stats, Tensor column_stats)",
    "flow_infonce_backward": (
        f"({_PAIRS}, Tensor row_stats, Tensor column_stats, Tensor row_grad, Tensor column_grad, {_NEED})"
        " -> (Tensor dquery, Tensor dkey, Tensor dtemperature)"
    ),
    "flow_infonce_fused": (
        f"({_PAIRS}, str reduction, {_NEED})"
        " -> (Tensor loss, Tensor row_stats, Tensor dquery, Tensor dkey, Tensor dtemperature)"
    ),
    "flow_weighted_sum": (
        "(Tensor query_flow, Tensor key_flow, Tensor values, Tensor inv_bandwidth, "
        "Tensor query_offsets, Tensor key_offsets, "
        "Tensor? query_mask, Tensor? key_mask, SymInt max_query, SymInt max_key, str flow_kernel)"
        " -> (Tensor sums, Tensor weight_sum)"
    ),
}
N_PAIR_ARGS = 18
N_PAIR_TENSORS = 10  # the leading tensors of the pair arguments, masks included

_libraries: dict[str, torch.library.Library] = {}


def define_ops(namespace: str) -> torch.library.Library:
    """Define the operators of ``namespace`` with fake and autograd (once); returns the library to add kernels to."""
    if namespace not in _libraries:
        library = torch.library.Library(namespace, "DEF")
        for name, schema in SCHEMAS.items():
            library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        _libraries[namespace] = library
        fakes = {
            "flow_infonce_forward": _forward_fake,
            "flow_infonce_backward": _backward_fake,
            "flow_infonce_fused": _fused_fake,
            "flow_weighted_sum": _weighted_sum_fake,
        }
        for name, fake in fakes.items():
            torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)
        _register_autograd(namespace, library)
    return _libraries[namespace]


def _stats_like(query: Tensor, key: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    dtype = accumulator_dtype(query.dtype)
    columns = key.shape[0] if symmetric else 0
    return query.new_empty((4, query.shape[0]), dtype=dtype), query.new_empty((4, columns), dtype=dtype)


def _needed_like(tensor: Tensor, needed: bool, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(tensor, dtype=dtype) if needed else tensor.new_empty((0,), dtype=dtype)


def _forward_fake(*pairs: Any) -> tuple[Tensor, Tensor]:
    return _stats_like(pairs[0], pairs[1], symmetric=pairs[16])


def _backward_fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    query, key = args[0], args[1]
    need_query, need_key, need_temperature = args[-3:]
    temperature = query.new_empty(() if need_temperature else (0,), dtype=accumulator_dtype(query.dtype))
    return _needed_like(query, need_query, query.dtype), _needed_like(key, need_key, key.dtype), temperature


def _fused_fake(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    query, key = args[0], args[1]
    need_query, need_key, need_temperature = args[-3:]
    dtype = accumulator_dtype(query.dtype)
    row_stats, _ = _stats_like(query, key, symmetric=False)
    temperature = query.new_empty(() if need_temperature else (0,), dtype=dtype)
    return (
        query.new_empty((), dtype=dtype),
        row_stats,
        _needed_like(query, need_query, dtype),
        _needed_like(key, need_key, dtype),
        temperature,
    )


def _weighted_sum_fake(query_flow: Tensor, key_flow: Tensor, values: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    rows, dtype = query_flow.shape[0], accumulator_dtype(values.dtype)
    return values.new_empty((rows, values.shape[1]), dtype=dtype), values.new_empty((rows,), dtype=dtype)


def _register_autograd(namespace: str, library: torch.library.Library) -> None:
    ops = getattr(torch.ops, namespace)

    def save_pairs(ctx: Any, pairs: tuple[Any, ...], *more: Tensor) -> None:
        ctx.save_for_backward(*pairs[:N_PAIR_TENSORS], *more)
        ctx.options = pairs[N_PAIR_TENSORS:N_PAIR_ARGS]

    def forward_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        save_pairs(ctx, inputs, *output)

    def forward_backward(ctx: Any, row_grad: Tensor, column_grad: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, row_stats, column_stats = ctx.saved_tensors
        need_query, need_key, need_temperature = (ctx.needs_input_grad[i] for i in (0, 1, 4))
        # Weight sums depend on the flow alone. No index by a list: that copies indices to the GPU, and no graph captures it.
        grads = (torch.stack((grad[STAT_LSE], grad[STAT_POSITIVE])) for grad in (row_grad, column_grad))
        dquery, dkey, dtemperature = ops.flow_infonce_backward(
            *tensors, *ctx.options, row_stats, column_stats, *grads, need_query, need_key, need_temperature,
        )  # fmt: skip
        return _pair_gradients(
            dquery if need_query else None,
            dkey if need_key else None,
            dtemperature if need_temperature else None,
            N_PAIR_ARGS,
        )

    _differentiable(library, "flow_infonce_forward", ops.flow_infonce_forward, forward_setup, forward_backward)

    def fused_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, _, dquery, dkey, dtemperature = output
        ctx.save_for_backward(dquery, dkey, dtemperature)
        ctx.dtypes = inputs[0].dtype, inputs[1].dtype

    def fused_backward(ctx: Any, grad_loss: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        dquery, dkey, dtemperature = ctx.saved_tensors
        needs = [ctx.needs_input_grad[i] for i in (0, 1, 4)]
        return _pair_gradients(
            (dquery * grad_loss).to(ctx.dtypes[0]) if needs[0] else None,
            (dkey * grad_loss).to(ctx.dtypes[1]) if needs[1] else None,
            dtemperature * grad_loss if needs[2] else None,
            N_PAIR_ARGS + 4,
        )

    _differentiable(library, "flow_infonce_fused", ops.flow_infonce_fused, fused_setup, fused_backward)

    def sum_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        query_flow, key_flow, values, inv_bandwidth, q_offsets, k_offsets, q_mask, k_mask, max_q, max_k, flow_kernel = inputs
        ctx.save_for_backward(key_flow, query_flow, inv_bandwidth, k_offsets, q_offsets, k_mask, q_mask)
        ctx.options = (max_k, max_q, flow_kernel)
        ctx.dtype = values.dtype

    def sum_backward(ctx: Any, grad_sums: Tensor, grad_weight_sum: Tensor) -> tuple[Tensor | None, ...]:
        key_flow, query_flow, *rest = ctx.saved_tensors
        dvalues, _ = ops.flow_weighted_sum(key_flow, query_flow, grad_sums.contiguous(), *rest, *ctx.options)
        return (None, None, dvalues.to(ctx.dtype), *(None,) * 8)

    _differentiable(library, "flow_weighted_sum", ops.flow_weighted_sum, sum_setup, sum_backward, twice=True)


class _Once(torch.autograd.Function):
    """A gradient whose own gradient nobody has written: asking for it is an error, where a constant would be a silent 0."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, name: str) -> Tensor:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError(f"{ctx.name}: this backend has no second derivatives; backend='reference' has")


def _refuse_transforms(name: str, inputs: tuple[Any, ...]) -> None:
    """Raises NotImplementedError where derivatives are wanted that the kernels do not have: they would be 0, silently."""
    if forward_ad._current_level >= 0 and any(
        isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in inputs
    ):  # fmt: skip
        raise NotImplementedError(f"{name}: this backend has no forward-mode derivatives; backend='reference' has")
    if torch._C._are_functorch_transforms_active() and peek_interpreter_stack().key() == TransformType.Grad:
        raise NotImplementedError(f"{name}: this backend is not made for torch.func.grad and vjp; backend='reference' is")


def _differentiable(
    library: torch.library.Library, name: str, op: Any, setup: Callable[..., None], backward: Callable[..., Any],
    twice: bool = False,
) -> None:  # fmt: skip
    """Register autograd for ``op``: what torch.library.register_autograd does, without its per-call cost.

    That one walks the schema at every call, in time quadratic in the number of arguments, of which there are 22 here.
    ``twice``: ``backward`` is made of differentiable operators; otherwise its results refuse to be differentiated.
    """

    def forward(ctx: Any, *inputs: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = op(*inputs)
        setup(ctx, inputs, output)
        return output

    def backward_once(ctx: Any, *grads: Any) -> Any:
        gradients = backward(ctx, *grads)
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return gradients
        return tuple(None if x is None else _Once.apply(x.detach().requires_grad_(), name) for x in gradients)

    function = type(f"{name}_autograd", (torch.autograd.Function,), {
        "forward": staticmethod(forward), "backward": staticmethod(backward if twice else backward_once),
    })  # fmt: skip

    def kernel(*inputs: Any) -> Any:
        _refuse_transforms(name, inputs)
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
            return function.apply(*inputs)  # type: ignore[attr-defined]
        with torch._C._AutoDispatchBelowAutograd():
            return op(*inputs)

    library.impl(name, kernel, "Autograd")


def _pair_gradients(
    dquery: Tensor | None, dkey: Tensor | None, dtemperature: Tensor | None, count: int
) -> tuple[Tensor | None, ...]:
    gradients: list[Tensor | None] = [None] * count
    gradients[0], gradients[1], gradients[4] = dquery, dkey, dtemperature
    return tuple(gradients)
