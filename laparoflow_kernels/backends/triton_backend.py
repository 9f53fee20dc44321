"""The Triton backend as the registry sees it: operators of the namespace ``laparoflow_triton``, kernels imported on use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from laparoflow_kernels import ops
from laparoflow_kernels.arguments import split
from laparoflow_kernels.backends.triton.availability import MAX_DIMENSIONS, unavailable
from laparoflow_kernels.checks import check_loss_options

__all__ = ["MAX_DIM", "statistics", "unavailable", "weighted_sum"]

MAX_DIM = {"cuda": MAX_DIMENSIONS, "cpu": MAX_DIMENSIONS}

_OPTIONS = ("flow_kernel", "positives", "negatives", "scope")


def _checked(name: str) -> Callable[..., Any]:
    """The function of launch.py behind a check of its options: operators can be called without the public function."""

    def kernel(*arguments: Any) -> Any:
        from laparoflow_kernels.backends.triton import launch

        groups = split(name, arguments)
        check_loss_options(**{option: getattr(groups[0], option) for option in _OPTIONS if option in groups[0]._fields})
        return getattr(launch, name)(*groups)

    return kernel


_library = ops.define_ops("laparoflow_triton")
for _name in ("flow_infonce_forward", "flow_infonce_backward", "flow_weighted_sum"):
    for _key in ("CUDA", "CPU"):  # CPU: Triton's interpreter
        _library.impl(_name, _checked(_name), _key)
statistics, weighted_sum = partial(ops.statistics, "laparoflow_triton"), partial(ops.weighted_sum, "laparoflow_triton")
