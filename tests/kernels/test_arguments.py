"""The operators' arguments: one list, whose options are names that are known or an error."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from laparoflow_kernels import flow_infonce
from laparoflow_kernels.arguments import OPERATORS, PairArguments, schema, split
from laparoflow_kernels.backends import native, reference
from laparoflow_kernels.loss_forms import direction_loss
from laparoflow_kernels.packing import pack_pairs
from tests.kernels.test_ops import ops, pair_args
from tests.numerics import unit


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


@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("scope", ["frame", "batch"])
@pytest.mark.parametrize(("positives", "negatives"), [("outside", "all"), ("inside", "dissimilar")])
def test_pairs_of_equal_groups_are_neither_positive_nor_negative(
    temperature: float, symmetric: bool, scope: str, positives: str, negatives: str
) -> None:
    """Against the reference, and against leaving the pixels out: with every key of a group masked, no group is needed."""
    q, k = unit(2, 70, 8, seed=1).float(), unit(2, 55, 8, seed=2).float()
    f, g = (torch.randn(2, n, 2, generator=torch.Generator().manual_seed(n)) for n in (70, 55))
    query_mask = torch.arange(140).reshape(2, 70) % 7 > 0
    packed = pack_pairs(
        q, k, f, g, query_mask=query_mask, key_mask=None, temperature=temperature, bandwidth=1.0, flow_kernel="gaussian",
        positives=positives, negatives=negatives, scope=scope, symmetric=symmetric, normalized=False,
    ).problem  # fmt: skip
    groups = torch.arange(140) % 5, torch.arange(110) % 9
    query_frames, key_frames = (
        frames._replace(group=group)
        for frames, group in zip((packed.query_frames, packed.key_frames), groups, strict=True)
    )
    results = []
    for backend, dtype in ((native, torch.float32), (reference, torch.float64)):
        query, key = (x.to(dtype).requires_grad_() for x in (packed.query.detach(), packed.key.detach()))
        sides = [x._replace(flow=x.flow.to(dtype)) for x in (query_frames, key_frames)]
        problem = replace(
            packed, query=query, key=key, query_frames=sides[0], key_frames=sides[1],
            temperature=packed.temperature.to(dtype), inv_bandwidth=packed.inv_bandwidth.to(dtype),
        )  # fmt: skip
        stats = backend.statistics(problem)
        loss = sum(direction_loss(x)[0].sum() for x in stats)
        fused = backend.fused_loss(problem, "sum") if backend is native else None
        if fused is not None:
            torch.testing.assert_close(fused[0], loss, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(fused[1], stats[0], rtol=1e-4, atol=1e-4)
        results.append([*stats, *torch.autograd.grad(loss, (query, key))])
    for got, expected in zip(*results, strict=True):
        size = max(1.0, *expected[torch.isfinite(expected)].abs().tolist(), 0.0)
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5 * size)
    plain = native.statistics(packed)[0]
    assert not torch.allclose(plain[0], results[0][0][0]), "the groups changed nothing"


def test_a_group_that_holds_every_key_leaves_a_query_without_partners() -> None:
    q, f = unit(1, 20, 8, seed=1).float(), torch.zeros(1, 20, 2)
    p = pack_pairs(
        q, q, f, f, query_mask=None, key_mask=None, temperature=0.005, bandwidth=1.0, flow_kernel="gaussian",
        positives="outside", negatives="all", scope="frame", symmetric=True, normalized=False,
    ).problem  # fmt: skip
    group = torch.ones(20, dtype=torch.int64)
    sides = [x._replace(group=group) for x in (p.query_frames, p.key_frames)]
    for stats in native.statistics(replace(p, query_frames=sides[0], key_frames=sides[1])):
        assert (stats[0] == -torch.inf).all() and (stats[1] == 0).all()
