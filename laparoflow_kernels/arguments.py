"""The arguments of the operators, named once: schemas, fakes, autograd and backends all take them from these lists.

``csrc/arguments.h`` reads the same lists in the same order. An operator takes its groups one after the other; ``split`` is
the way back from an operator's flat arguments to the groups.
"""

from __future__ import annotations

from typing import Any, NamedTuple, get_type_hints

from torch import Tensor


class PairArguments(NamedTuple):
    """A packed problem as the pair operators receive it. T: pixels of all frames of a side, B: frames."""

    query: Tensor  # [Tq, D]
    key: Tensor  # [Tk, D]
    query_flow: Tensor  # [Tq, F]
    key_flow: Tensor  # [Tk, F]
    temperature: Tensor  # []
    inv_bandwidth: Tensor  # [B]
    query_offsets: Tensor  # [B + 1] int64
    key_offsets: Tensor  # [B + 1] int64
    query_mask: Tensor | None  # [Tq] bool, True = keep
    key_mask: Tensor | None  # [Tk]
    query_group: Tensor | None  # [Tq] int64: a pair of equal groups is neither positive nor negative
    key_group: Tensor | None  # [Tk], where query_group is
    max_query: int  # pixels of the largest frame
    max_key: int
    flow_kernel: str
    positives: str
    negatives: str
    scope: str
    symmetric: bool
    bounded: bool  # no |s| is above packing.FIXED_MAXIMUM_LIMIT
    full_float: bool  # float32 products on a GPU keep the accuracy of float32
    deterministic: bool  # the same bits in every run, on the CPU with any number of threads
    weight_stats: bool  # else weight_log_sum means nothing, and with positives inside weight_sum only tells 0 from more


class StatsArguments(NamedTuple):
    """What the backward takes besides the problem: statistics and the gradients of lse and positive."""

    row_stats: Tensor  # [4, Tq]
    column_stats: Tensor  # [4, Tk] or [4, 0]
    row_grad: Tensor  # [2, Tq]
    column_grad: Tensor  # [2, Tk] or [2, 0]


class ReductionArguments(NamedTuple):
    """What the one-sweep form takes besides the problem."""

    reduction: str


class Needs(NamedTuple):
    """Which gradients are asked for."""

    need_query: bool
    need_key: bool
    need_temperature: bool


class SumArguments(NamedTuple):
    """The arguments of flow_weighted_sum."""

    query_flow: Tensor
    key_flow: Tensor
    values: Tensor  # [Tk, C]
    inv_bandwidth: Tensor
    query_offsets: Tensor
    key_offsets: Tensor
    query_mask: Tensor | None
    key_mask: Tensor | None
    max_query: int
    max_key: int
    flow_kernel: str


# operator -> (groups of its arguments, its results)
OPERATORS: dict[str, tuple[tuple[Any, ...], str]] = {
    "flow_infonce_forward": ((PairArguments,), "Tensor row_stats, Tensor column_stats"),
    "flow_infonce_backward": (
        (PairArguments, StatsArguments, Needs),
        "Tensor dquery, Tensor dkey, Tensor dtemperature",
    ),
    "flow_infonce_fused": (
        (PairArguments, ReductionArguments, Needs),
        "Tensor loss, Tensor row_stats, Tensor dquery, Tensor dkey, Tensor dtemperature",
    ),
    "flow_weighted_sum": ((SumArguments,), "Tensor sums, Tensor weight_sum"),
}
_SCHEMA_TYPES = {Tensor: "Tensor", Tensor | None: "Tensor?", int: "SymInt", str: "str", bool: "bool"}


def schema(name: str) -> str:
    """The torch schema of an operator, from the groups of its arguments."""
    groups, results = OPERATORS[name]
    fields = [(hint, field) for group in groups for field, hint in get_type_hints(group).items()]
    return f"{name}({', '.join(f'{_SCHEMA_TYPES[hint]} {field}' for hint, field in fields)}) -> ({results})"


def split(name: str, arguments: tuple[Any, ...]) -> list[Any]:
    """The flat arguments of an operator as its groups; also for what runs parallel to them (needs_input_grad)."""
    groups, start = [], 0
    for group in OPERATORS[name][0]:
        groups.append(group._make(arguments[start : start + len(group._fields)]))
        start += len(group._fields)
    return groups


def tensor_fields(group: Any) -> tuple[str, ...]:
    """Names of the fields that hold tensors or None."""
    return tuple(field for field, hint in get_type_hints(group).items() if hint in (Tensor, Tensor | None))
