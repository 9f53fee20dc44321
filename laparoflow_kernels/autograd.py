"""Autograd of an operator by hand: the one file that uses private names of torch.

``torch.library.register_autograd`` does the same by the public interface, but walks the schema at every call, in time
quadratic in the number of arguments: with 22 arguments a call takes 230 to 300 microseconds with it and 50 without (torch
2.14, CPU). What is private here: _AutoDispatchBelowAutograd (to call the kernel below autograd), and the questions, which no
public function answers, by which transforms are found: derivatives that the kernels lack are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, peek_interpreter_stack
from torch.autograd import forward_ad


class _Once(torch.autograd.Function):
    """A gradient whose own gradient nobody has written: asking for it is an error, where a constant would be a silent 0."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, name: str) -> Tensor:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError(f"{ctx.name}: this backend has no second derivatives; backend='reference' has")


def transforms_active() -> bool:
    """Inside torch.func.vmap, grad or another of its transforms: a tensor there may stand for many, and has no values."""
    return torch._C._are_functorch_transforms_active()


def _refuse_transforms(name: str, inputs: tuple[Any, ...]) -> None:
    """Raises NotImplementedError where derivatives are wanted that the kernels do not have: they would be 0, silently."""
    if forward_ad._current_level >= 0 and any(
        isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in inputs
    ):  # fmt: skip
        raise NotImplementedError(f"{name}: this backend has no forward-mode derivatives; backend='reference' has")
    if transforms_active() and peek_interpreter_stack().key() == TransformType.Grad:
        raise NotImplementedError(f"{name}: this backend is not made for torch.func.grad and vjp; backend='reference' is")


def _call(function: Callable[..., Any], *inputs: Any) -> Any:
    """``function(*inputs)``; where a signal stopped an operator, what its handler raises: KeyboardInterrupt for Ctrl-C."""
    try:
        return function(*inputs)
    except RuntimeError:
        _let_python_handle_signals()
        raise


def _let_python_handle_signals() -> None:
    """Nothing: Python runs the handlers of signals at the beginning of a function. An error alone passes them by."""


def register(
    library: torch.library.Library, name: str, op: Any, setup: Callable[..., None], backward: Callable[..., Any],
    twice: bool = False,
) -> None:  # fmt: skip
    """Register autograd for ``op``.

    Args:
        setup: as for torch.library.register_autograd: (ctx, inputs, output).
        backward: (ctx, *gradients of the outputs) -> gradients of the inputs.
        twice: ``backward`` is made of differentiable operators; otherwise its results refuse to be differentiated.
    """

    op, backward = partial(_call, op), partial(_call, backward)

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
