"""Four gloo processes, gathered and in a ring, against one process that holds the joint batch."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist

from laparoflow_kernels import FlowInfoNCELoss, flow_infonce
from laparoflow_kernels.distributed import distributed_flow_infonce
from tests.distributed.live_tensors import LiveBytes
from tests.distributed.processes import run_processes

WORLD = 4
D = 5
CASES: dict[str, dict[str, Any]] = {
    "outside": {},
    "inside dissimilar": dict(positives="inside", negatives="dissimilar", flow_kernel="cauchy"),
    "symmetric": dict(symmetric=True, bandwidth=0.7),
    "sum": dict(reduction="sum", flow_kernel="tophat"),
    "none": dict(reduction="none"),
    "reference": dict(backend="reference", symmetric=True),
    "keys without gradient": {},
    "float64": {},
    "masked": {},
    "list": {},
    "list with an empty process": dict(symmetric=True),
    "weighted": {},
    "weighted both ways, masked list": dict(symmetric=True, positives="inside"),
    "weighted sum": dict(reduction="sum"),
    "weighted maps": dict(reduction="none"),
    "weights that need no gradient": dict(symmetric=True),
    "groups": dict(symmetric=True),
    "weighted groups, masked list": dict(negatives="dissimilar"),
    "exclude self": dict(exclude_self=True, symmetric=True),
    "exclude self, masked list": dict(exclude_self=True),
}
MASKED = [case for case in CASES if "list" in case or case == "masked"]
LISTS = [case for case in CASES if "list" in case]
WEIGHTS = ("query_weight", "key_weight")
METHODS = ("gathered", "ring")
SCOPES = {"gathered": "batch", "ring": "batch", "mean": "frame"}


def frames(case: str) -> list[list[torch.Tensor]]:
    """Query, key, their flows and masks of the joint batch: one list of frames each; two frames for every process."""
    generator = torch.Generator().manual_seed(3)
    dtype = torch.float64 if case == "float64" else torch.float32
    sizes = [(9, 7)] * (2 * WORLD) if case not in LISTS else [(3 + b, 1 + (2 * b) % 9) for b in range(2 * WORLD)]
    if "exclude_self" in CASES[case]:
        sizes = [(n, n) for n, _ in sizes]
    if case == "list with an empty process":
        sizes[2:4] = [(0, 0), (0, 0)]
    parts: list[list[torch.Tensor]] = []
    for side, width in ((0, D), (1, D), (0, 2), (1, 2)):
        part = [torch.randn(size[side], width, generator=generator, dtype=dtype) for size in sizes]
        parts.append([torch.nn.functional.normalize(x, dim=1) for x in part] if width == D else part)
    parts += [[torch.rand(size[side], generator=generator) > 0.3 for size in sizes] for side in (0, 1)]
    parts[5][2][:] = False  # a process with a frame without keys, and one without any key
    parts[5][6][:] = False
    parts[5][7][:] = False
    for kind in ("weight", "group"):
        for side in (0, 1):
            part = [torch.rand(size[side], generator=generator, dtype=dtype) for size in sizes]
            parts.append(part if kind == "weight" else [(5 * x).long() - 2 for x in part])
    return parts


def inputs(case: str, rows: slice) -> tuple[list[Any], dict[str, Any]]:
    """Leaves (query, key, temperature) of some frames, and the call's other arguments."""
    q, k, f, g, q_mask, k_mask, *others = ([x.clone() for x in part[rows]] for part in frames(case))
    options = dict(CASES[case])
    if case == "masked":
        for side, mask in ((q, q_mask), (k, k_mask), (f, q_mask), (g, k_mask)):
            for value, keep in zip(side, mask, strict=True):
                value[~keep] = torch.nan
    tensors: list[Any] = [q, k, f, g, q_mask, k_mask, *others]
    if case not in LISTS:
        tensors = [torch.stack(part) for part in tensors]
    if case in MASKED:
        options |= dict(query_mask=tensors[4], key_mask=tensors[5])
    if "weight" in case:
        options |= dict(query_weight=tensors[6], **(dict(key_weight=tensors[7]) if options.get("symmetric") else {}))
    if "groups" in case:
        options |= dict(query_group=tensors[8], key_group=tensors[9])
    temperature = torch.tensor(0.2, dtype=q[0].dtype, requires_grad=True)
    for part, needs in ((tensors[0], True), (tensors[1], case != "keys without gradient")):
        for leaf in part if isinstance(part, list) else [part]:
            leaf.requires_grad_(needs)
    for leaf in flat([options.get(name, []) for name in WEIGHTS]):
        leaf.requires_grad_(case != "weights that need no gradient")
    return [tensors[0], tensors[1], temperature, tensors[2], tensors[3]], options


def flat(values: Any) -> list[torch.Tensor]:
    return [values] if isinstance(values, torch.Tensor) else [y for x in values for y in flat(x)]


def evaluate(function: Any, case: str, rows: slice) -> dict[str, Any]:
    (q, k, t, f, g), options = inputs(case, rows)
    loss, stats = function(q, k, f, g, temperature=t, return_stats=True, **options)
    maps = flat(loss)
    sum(x.sum() for x in maps).backward()
    sides = {"dq": q, "dk": k, **{f"d{name}": options[name] for name in WEIGHTS if name in options}}
    grads = {name: [x.grad for x in flat(side)] for name, side in sides.items()}
    return {"loss": [x.detach() for x in maps], "dt": t.grad, "lse": flat(stats.rows.lse), **grads}


def all_cases(rank: int, world: int) -> dict[str, Any]:
    rows = slice(2 * rank, 2 * rank + 2)
    results = {}
    for case in CASES:
        for method, scope in SCOPES.items():
            results[case, method] = evaluate(
                lambda *a, m=method, s=scope, **o: distributed_flow_infonce(*a, method=m, scope=s, **o), case, rows
            )
    return results


def joined(parts: list[list[Any]]) -> torch.Tensor:
    """All numbers of all processes' frames: tensors [2, N, D] of each, or lists of [N, D]; without D of weights."""
    return torch.cat([x.flatten() for part in parts for x in part])


def check_equal(parts: list[dict[str, Any]], whole: dict[str, Any], scale: float, **tolerance: float) -> None:
    """Statistics and gradients of all processes against those of the joint batch."""
    lse = [torch.cat([x.flatten() for result in results for x in result["lse"]]) for results in (parts, [whole])]
    torch.testing.assert_close(*lse, **tolerance)
    torch.testing.assert_close(sum(part["dt"] for part in parts) * scale, whole["dt"], **tolerance)
    for name in (name for name in whole if name not in ("loss", "lse", "dt")):
        if all(x is None for x in whole[name]):
            assert all(x is None for part in parts for x in part[name])
            continue
        expected = joined([whole[name]])
        assert expected.abs().max().item() > 1e-3
        torch.testing.assert_close(joined([part[name] for part in parts]) * scale, expected, **tolerance)


@pytest.mark.parametrize("method", SCOPES)
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_equal_the_joint_batch(results: list[dict[str, Any]], case: str, method: str) -> None:
    whole = evaluate(lambda *a, **o: flow_infonce(*a, scope=SCOPES[method], **o), case, slice(None))
    parts = [result["cases"][case, method] for result in results]
    tolerance = dict(rtol=1e-5, atol=1e-6) if case != "float64" else dict(rtol=1e-12, atol=1e-13)
    reduced = CASES[case].get("reduction") != "none"
    scale = 1 / WORLD if reduced else 1.0
    if reduced:
        for part in parts:
            torch.testing.assert_close(part["loss"], whole["loss"], **tolerance)
    else:
        torch.testing.assert_close(torch.cat([part["loss"][0] for part in parts]), whole["loss"][0], **tolerance)
    check_equal(parts, whole, scale, **tolerance)


def three_of_four(rank: int, world: int) -> dict[str, Any] | None:
    """The last three processes as a group of their own."""
    group = dist.new_group([1, 2, 3])
    if rank == 0:
        return None
    rows = slice(2 * rank, 2 * rank + 2)
    results = {}
    for method in METHODS:
        options = dict(method=method, group=group)
        results[method] = evaluate(lambda *a, o=options, **k: distributed_flow_infonce(*a, **o, **k), "symmetric", rows)
    return results


def test_a_group_of_three_is_a_batch_of_its_own(results: list[dict[str, Any]]) -> None:
    whole = evaluate(lambda *a, **o: flow_infonce(*a, scope="batch", **o), "symmetric", slice(2, None))
    for method in METHODS:
        parts = [result["three"][method] for result in results[1:]]
        torch.testing.assert_close(parts[0]["loss"], whole["loss"], rtol=1e-5, atol=1e-6)
        check_equal(parts, whole, 1 / 3, rtol=1e-5, atol=1e-6)


def half_precision(rank: int, world: int) -> dict[str, Any]:
    (q, k, _, f, g), _ = inputs("outside", slice(2 * rank, 2 * rank + 2))
    results = {}
    for method in METHODS:
        with torch.autocast("cpu", torch.bfloat16):
            loss = distributed_flow_infonce(q, k, f, g, temperature=0.2, method=method)
        results[method] = [loss.detach(), *torch.autograd.grad(loss, (q, k))]
    return results


def test_autocast_reaches_every_part(results: list[dict[str, Any]]) -> None:
    (q, k, _, f, g), _ = inputs("outside", slice(None))
    exact = torch.autograd.grad(flow_infonce(q, k, f, g, temperature=0.2, scope="batch"), (q, k))
    with torch.autocast("cpu", torch.bfloat16):
        loss = flow_infonce(q, k, f, g, temperature=0.2, scope="batch")
    one = torch.autograd.grad(loss, (q, k))
    for method in METHODS:
        for i in (0, 1):
            grad = torch.cat([result["half"][method][1 + i] for result in results]) / WORLD
            assert (grad - exact[i]).norm() <= 2 * (one[i] - exact[i]).norm()
        assert results[0]["half"][method][0].dtype == torch.float32


def build() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, D, 1))


def pictures() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2 * WORLD, c, 4, 4, generator=generator) for c in (3, 3, 2, 2))


def wrapped_step(rank: int, world: int) -> dict[str, Any]:
    rows = slice(2 * rank, 2 * rank + 2)
    first, second, f, g = (x[rows] for x in pictures())
    results = {}
    for method in METHODS:
        loss_of = FlowInfoNCELoss(scope="batch", over_processes=method, symmetric=True)
        for wrapper in ("none", "ddp", "fsdp2"):
            model: Any = build()
            if wrapper == "ddp":
                model = torch.nn.parallel.DistributedDataParallel(model)
            elif wrapper == "fsdp2":
                from torch.distributed.fsdp import fully_shard

                fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (world,)))
            # both views in one call, as the wrappers expect one forward before a backward
            q, k = model(torch.cat([first, second])).chunk(2)
            loss_of(q, k, f, g).backward()
            grads = [p.grad for p in model.parameters()]
            if wrapper == "fsdp2":
                grads = [grad.full_tensor() for grad in grads]
            if wrapper == "none":
                for grad in grads:
                    dist.all_reduce(grad)
                    grad /= world
            results[wrapper, method] = [grad.clone() for grad in grads]
    return results


def test_ddp_fsdp2_and_no_wrapper_give_the_joint_gradient(results: list[dict[str, Any]]) -> None:
    model = build()
    first, second, f, g = pictures()
    q, k = model(torch.cat([first, second])).chunk(2)
    FlowInfoNCELoss(scope="batch", symmetric=True)(q, k, f, g).backward()
    expected = [p.grad for p in model.parameters()]
    for result in results:
        for name, grads in result["wrapped"].items():
            for a, b in zip(grads, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def held_keys(rank: int, world: int) -> dict[str, int]:
    """Most bytes that are alive at once, beyond what was there before, in blocks of at least half of a process's keys."""
    m = 512
    q = torch.nn.functional.normalize(torch.randn(1, 4, 256), dim=-1).requires_grad_()
    k = torch.nn.functional.normalize(torch.randn(1, m, 256), dim=-1).requires_grad_(False)
    f, g = torch.zeros(1, 4, 2), torch.zeros(1, m, 2)
    peaks = {}
    for method in METHODS:
        with LiveBytes(at_least=m * 256 * 4 // 2) as live:
            distributed_flow_infonce(q, k, f, g, method=method).backward()
        peaks[method] = live.peak
    return peaks


def test_the_ring_holds_one_other_process_s_keys(results: list[dict[str, Any]]) -> None:
    own = 512 * 256 * 4
    for peaks in (result["held"] for result in results):
        assert 0 < peaks["ring"] <= own
        assert peaks["gathered"] >= (WORLD - 1) * own


def everything(rank: int, world: int) -> dict[str, Any]:
    parts = {"cases": all_cases, "wrapped": wrapped_step, "held": held_keys, "three": three_of_four, "half": half_precision}
    return {name: part(rank, world) for name, part in parts.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_processes(everything, WORLD, tmp_path_factory.mktemp("group"))


def test_the_module_hands_weights_groups_and_exclude_self_on() -> None:
    (q, k, *_, f, g), options = inputs("weighted groups, masked list", slice(None))
    joint = FlowInfoNCELoss(scope="batch", over_processes="ring")(q, k, f, g, **pixels(options))
    torch.testing.assert_close(joint, FlowInfoNCELoss(scope="batch")(q, k, f, g, **pixels(options)))
    joint, alone = (
        FlowInfoNCELoss(scope="batch", exclude_self=True, over_processes=method)(q, q, f, f) for method in ("gathered", None)
    )
    torch.testing.assert_close(joint, alone)


def pixels(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name.startswith(("query_", "key_"))}


def test_without_a_process_group_it_is_the_batch_scope_loss() -> None:
    (q, k, t, f, g), _ = inputs("outside", slice(None))
    for method in METHODS:
        torch.testing.assert_close(distributed_flow_infonce(q, k, f, g, temperature=t, method=method),
                                   flow_infonce(q, k, f, g, temperature=t, scope="batch"))  # fmt: skip


def test_bad_options_are_named() -> None:
    (q, k, _, f, g), _ = inputs("outside", slice(None))
    with pytest.raises(ValueError, match="method: expected one of 'gathered', 'ring', 'mean', got 'star'"):
        distributed_flow_infonce(q, k, f, g, method="star")
    with pytest.raises(ValueError, match="over_processes: expected one of"):
        FlowInfoNCELoss(scope="batch", over_processes="star")
    with pytest.raises(ValueError, match="scope: expected 'batch' with over_processes='ring', got 'frame'"):
        FlowInfoNCELoss(over_processes="ring")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_joint_batch_without_a_valid_query_is_told_of(monkeypatch: pytest.MonkeyPatch, reduction: str) -> None:
    for name, value in dict(is_initialized=True, get_world_size=2, all_reduce=None).items():
        monkeypatch.setattr(dist, name, lambda *_, value=value, **__: value)
    (q, k, _, f, g), _ = inputs("outside", slice(None))
    options = dict(method="mean", scope="frame", reduction=reduction)
    with pytest.warns(RuntimeWarning, match="no valid query"):
        assert distributed_flow_infonce(q, k, f, g + 1e6, **options) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distributed_flow_infonce(q, k, f, g, **options)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_process_without_frames_may_have_masks(backend: str) -> None:
    empty = [torch.zeros(0, 9, c) for c in (D, D, 2, 2)]
    mask = torch.zeros(0, 9, dtype=torch.bool)
    with pytest.warns(RuntimeWarning, match="no valid query"):
        assert flow_infonce(*empty, query_mask=mask, key_mask=mask, scope="batch", backend=backend) == 0
