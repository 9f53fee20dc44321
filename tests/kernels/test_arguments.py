"""The operators' arguments: one list, whose options are names that are known or an error."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import Tensor

from laparoflow_kernels import flow_infonce
from laparoflow_kernels.arguments import OPERATORS, PairArguments, schema, split
from laparoflow_kernels.backends import native, reference
from laparoflow_kernels.loss_forms import direction_loss
from laparoflow_kernels.packing import pack_pairs
from laparoflow_kernels.problem import PairProblem
from tests.kernels.test_ops import ops, pair_args
from tests.numerics import DRAWS, unit, violations


@pytest.mark.parametrize("name", OPERATORS)
def test_the_operator_in_the_dispatcher_is_the_one_in_the_list(name: str) -> None:
    assert str(ops("native").__getattr__(name).default._schema) == "laparoflow::" + schema(name)


def test_split_returns_the_groups() -> None:
    p = PairArguments(*pair_args("cpu"))
    back, needs = split("flow_infonce_backward", (*p, 1, 2, 3, 4, True, False, True))[::2]
    assert back.query is p.query and back.symmetric is p.symmetric and needs == (True, False, True)


@pytest.mark.parametrize(
    ("option", "value"), [("flow_kernel", "box"), ("positives", "insde"), ("negatives", "none"), ("scope", "world")]
)
def test_an_unknown_option_is_an_error_at_operator_level(backend: str, device: str, option: str, value: str) -> None:
    """positives="insde" ran as "outside"."""
    p = PairArguments(*pair_args(device, requires_grad=False))._replace(**{option: value})
    with pytest.raises(ValueError, match=f"{option}: expected one of .*, got '{value}'"):
        ops(backend).flow_infonce_forward(*p)
    stats = [torch.zeros(4, 10, device=device), torch.zeros(4, 0, device=device)]
    with pytest.raises(ValueError, match=f"{option}: expected one of .*, got '{value}'"):
        ops(backend).flow_infonce_backward(*p, *stats, *(x[:2] for x in stats), True, True, True)
    if (backend, device) == ("native", "cpu"):
        with pytest.raises(ValueError, match=f"{option}: expected one of .*, got '{value}'"):
            ops(backend).flow_infonce_fused(*p, "mean", True, True, True)


def test_an_unknown_reduction_is_an_error_at_operator_level() -> None:
    with pytest.raises(ValueError, match="reduction: expected one of 'mean', 'sum', got 'men'"):
        ops("native").flow_infonce_fused(*pair_args("cpu", requires_grad=False), "men", True, True, True)


def test_compiled_code_follows_precision_and_determinism() -> None:
    """Both are arguments of the operators: a constant of the first compilation would be kept for good."""
    seen = []

    def recorded(module: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        (call,) = (node for node in module.graph.nodes if "flow_infonce_forward" in str(node.target))
        p = PairArguments(*call.args)
        seen.append((p.full_float, p.deterministic))
        return module

    torch._dynamo.reset()
    q, f = torch.nn.functional.normalize(torch.randn(1, 9, 4), dim=-1), torch.zeros(1, 9, 2)
    step = torch.compile(lambda x: flow_infonce(x, x, f, f, backend="native"), fullgraph=True, backend=recorded)
    before = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    wanted = [(True, False), (False, False), (False, True), (True, True)]
    try:
        for full_float, deterministic in wanted:
            torch.set_float32_matmul_precision("highest" if full_float else "high")
            torch.use_deterministic_algorithms(deterministic)
            step(q)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.use_deterministic_algorithms(before[1])
    assert seen == wanted


@pytest.mark.parametrize(
    ("temperature", "dtype"), [(0.1, torch.float32), (0.01, torch.float32), (0.01, torch.float64)]
)  # fmt: skip
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("scope", ["frame", "batch"])
@pytest.mark.parametrize(("positives", "negatives"), [("outside", "all"), ("inside", "dissimilar")])
def test_pairs_of_equal_groups_are_neither_positive_nor_negative(
    temperature: float, dtype: torch.dtype, symmetric: bool, scope: str, positives: str, negatives: str
) -> None:
    """By the rule of tests/numerics.py, and not what comes without groups."""
    draws: list[list[dict[str, Tensor]]] = [[], [], []]
    for draw in range(DRAWS):
        q, k = unit(2, 70, 8, seed=10 * draw + 1), unit(2, 55, 8, seed=10 * draw + 2)
        f, g = (torch.randn(2, n, 2, generator=torch.Generator().manual_seed(n + draw)) for n in (70, 55))
        packed = pack_pairs(
            q.to(dtype), k.to(dtype), f, g, query_mask=torch.arange(140).reshape(2, 70) % 7 > 0, key_mask=None,
            temperature=temperature, bandwidth=1.0, flow_kernel="gaussian", positives=positives, negatives=negatives,
            scope=scope, symmetric=symmetric, normalized=False,
        )  # fmt: skip
        grouped = replace(
            packed,
            query_frames=packed.query_frames._replace(group=torch.arange(140) % 5),
            key_frames=packed.key_frames._replace(group=torch.arange(110) % 9),
        )
        for results, backend, kind in zip(draws, (reference, reference, native), (torch.float64, dtype, dtype), strict=True):
            results.append(outcome(grouped, backend, kind))
        assert not torch.allclose(native.statistics(packed)[0][0].double(), draws[2][-1]["lse"]), "groups changed nothing"
    problems = [
        text for name in draws[0][0] for text in violations(name, *([x[name] for x in part] for part in draws), dtype)
    ]  # fmt: skip
    assert not problems, "; ".join(problems)


def outcome(p: PairProblem, backend: ModuleType, dtype: torch.dtype) -> dict[str, Tensor]:
    """The finite lse, the loss of all directions and its gradients, in float64; native's one sweep too."""
    query, key = (x.to(dtype).requires_grad_() for x in (p.query.detach(), p.key.detach()))
    sides = [x._replace(flow=x.flow.to(dtype)) for x in (p.query_frames, p.key_frames)]
    q = replace(
        p, query=query, key=key, query_frames=sides[0], key_frames=sides[1], temperature=p.temperature.to(dtype),
        inv_bandwidth=p.inv_bandwidth.to(dtype),
    )  # fmt: skip
    stats = backend.statistics(q)
    loss = sum((direction_loss(x)[0].sum() for x in stats), torch.zeros((), dtype=dtype))
    swept = loss if p.symmetric or backend is reference else backend.fused_loss(q, "sum")[0]
    dquery, dkey = torch.autograd.grad(loss, (query, key))
    found = {"lse": stats[0][0], "loss": loss, "swept": swept, "dquery": dquery, "dkey": dkey}
    return {name: torch.where(torch.isfinite(x), x, 0).detach().double() for name, x in found.items()}


def test_a_group_that_holds_every_key_leaves_a_query_without_partners() -> None:
    q, f = unit(1, 20, 8, seed=1).float(), torch.zeros(1, 20, 2)
    p = pack_pairs(
        q, q, f, f, query_mask=None, key_mask=None, temperature=0.005, bandwidth=1.0, flow_kernel="gaussian",
        positives="outside", negatives="all", scope="frame", symmetric=True, normalized=False,
    )  # fmt: skip
    group = torch.ones(20, dtype=torch.int64)
    sides = [x._replace(group=group) for x in (p.query_frames, p.key_frames)]
    for stats in native.statistics(replace(p, query_frames=sides[0], key_frames=sides[1])):
        assert (stats[0] == -torch.inf).all() and (stats[1] == 0).all()
