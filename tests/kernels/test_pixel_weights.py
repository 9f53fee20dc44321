"""Weights of the per-pixel losses: the definition by a dense formula in float64, gradients, masks, lists, the module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from laparoflow_kernels import FlowInfoNCELoss, flow_infonce
from tests.numerics import unit

OPTIONS: list[dict] = [
    dict(),
    dict(positives="inside", negatives="dissimilar"),
    dict(symmetric=True),
    dict(symmetric=True, scope="batch"),
]


def problem(dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], dict[str, Tensor], list[Tensor]]:
    """(query, key, query_flow, key_flow), masks that drop pixels which hold NaN, weights that are NaN there too."""
    generator = torch.Generator().manual_seed(3)
    tensors = [unit(2, n, 6, seed=n) for n in (9, 12)]
    tensors += [torch.randn(2, n, 2, generator=generator, dtype=torch.float64) for n in (9, 12)]
    weights = [torch.rand(2, n, generator=generator, dtype=torch.float64) for n in (9, 12)]
    weights[0][1, 3] = 0
    masks = {f"{side}_mask": torch.rand(2, n, generator=generator) > 0.2 for side, n in (("query", 9), ("key", 12))}
    for x, mask in zip([*tensors, *weights], list(masks.values()) * 3, strict=True):
        x[~mask] = torch.nan
    return [x.to(dtype) for x in tensors], masks, [w.to(dtype).requires_grad_() for w in weights]


def by_definition(weights: list[Tensor], losses: list[Tensor], masks: dict[str, Tensor], reduction: str) -> Tensor:
    """sum(w l) / sum(w), or sum(w l), over valid pixels, of each direction; the mean of the directions."""
    total = []
    for weight, loss, mask in zip(weights, losses, masks.values(), strict=False):
        w = weight.masked_fill(~(mask & (loss != 0)), 0)
        total.append((w * loss).sum() / (w.sum() if reduction == "mean" else 1))
    return sum(total[1:], total[0]) / len(total)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_weights_by_their_definition_with_gradients(backend: str, device: str, options: dict, reduction: str) -> None:
    tensors, masks, weights = problem()
    for x in tensors[:2]:
        x.requires_grad_()
    plain = flow_infonce(*tensors, **masks, **options, reduction="none", backend="reference")
    losses = list(plain) if options.get("symmetric") else [plain]
    used = weights[: len(losses)]
    right = by_definition(used, losses, masks, reduction)
    wanted = torch.autograd.grad(right, [*tensors[:2], *used])

    dtype = torch.float64 if (backend, device) == ("native", "cpu") else torch.float32
    leaves = [x.detach().to(device, dtype).requires_grad_() for x in (*tensors[:2], *used)]
    flows = [x.to(device, dtype) for x in tensors[2:]]
    named = dict(zip(("query_weight", "key_weight"), leaves[2:], strict=False))
    loss = flow_infonce(*leaves[:2], *flows, **{k: m.to(device) for k, m in masks.items()}, **named, **options,
                        reduction=reduction, backend=backend)  # fmt: skip
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    got = [loss, *torch.autograd.grad(loss, leaves)]
    for value, expected in zip(got, [right, *wanted], strict=True):
        expected = torch.nan_to_num(expected)
        size = expected.abs().max().item()
        torch.testing.assert_close(value.double().cpu(), expected, rtol=tolerance, atol=tolerance * size)


def test_none_gives_the_weighted_losses_and_equal_weights_change_nothing(backend: str, device: str) -> None:
    tensors, masks, weights = problem(torch.float32)
    tensors, masks = [x.to(device) for x in tensors], {k: m.to(device) for k, m in masks.items()}
    weight = weights[0].detach().to(device)
    plain, weighted = (
        flow_infonce(*tensors, **masks, query_weight=w, reduction="none", backend=backend) for w in (None, weight)
    )  # fmt: skip
    torch.testing.assert_close(weighted, torch.where(masks["query_mask"], weight, 0) * plain)
    equal = flow_infonce(*tensors, **masks, query_weight=torch.full_like(weight, 0.3), backend=backend)
    torch.testing.assert_close(equal, flow_infonce(*tensors, **masks, backend=backend))


def test_the_module_takes_weight_maps_and_lists(backend: str, device: str) -> None:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.rand(2, *shape, generator=generator).to(device)
    maps, flows, weight = [draw(8, 4, 5) - 0.5 for _ in range(2)], [draw(2, 4, 5) for _ in range(2)], draw(4, 5)
    criterion = FlowInfoNCELoss(backend=backend)
    loss = criterion(*maps, *flows, query_weight=weight)
    assert not torch.isclose(loss, criterion(*maps, *flows))
    in_lists = criterion(*(list(x) for x in (*maps, *flows)), query_weight=list(weight))
    torch.testing.assert_close(loss, in_lists)


def test_weights_that_sum_to_nothing_give_zero_and_a_warning() -> None:
    tensors, masks, _ = problem()
    query = tensors[0].requires_grad_()
    with pytest.warns(RuntimeWarning, match="of weight 0"):
        loss = flow_infonce(*tensors, **masks, query_weight=torch.zeros(2, 9))
    loss.backward()
    assert loss == 0 and not query.grad.any()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (dict(query_weight=torch.ones(2, 8)), ValueError, "query_weight: expected shape"),
        (dict(query_weight=torch.ones(2, 9, dtype=torch.int64)), TypeError, "query_weight: expected dtype float32"),
        (dict(query_weight=-torch.ones(2, 9)), ValueError, "query_weight: expected finite numbers of at least 0"),
        (dict(query_weight=[torch.ones(9)]), ValueError, "query_weight: expected 2 weights, got 1"),
        (dict(key_weight=torch.ones(2, 12)), ValueError, "key_weight: expected None without symmetric=True"),
    ],
)
def test_weights_that_cannot_be(given: dict, error: type[Exception], message: str) -> None:
    tensors, masks, _ = problem()
    with pytest.raises(error, match=message):
        flow_infonce(*tensors, **masks, **given)
