"""Shapes that training code has: guides, class tokens, lists of maps, memory banks, momentum keys; the warning."""

from __future__ import annotations

import warnings

import pytest
import torch

from laparoflow_kernels import FlowInfoNCELoss, pairwise_flow_weights
from laparoflow_kernels.guides import crop_coordinates, join_guides, stacked_flows
from tests.distributed.live_tensors import OperatorCalls


def maps(*sizes: tuple[int, int], channels: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(channels, *size, generator=generator) for size in sizes]


def tokens(value: torch.Tensor) -> torch.Tensor:
    return value.flatten(2).transpose(1, 2)


def test_joined_gaussian_guides_multiply_their_weights() -> None:
    flow, place = torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4) * 10
    joined = tokens(join_guides((flow, 1.5), (place, 8.0)))
    expected = 1.0
    for guide, bandwidth in ((flow, 1.5), (place, 8.0)):
        expected = expected * pairwise_flow_weights(tokens(guide), tokens(guide), bandwidth=bandwidth)
    torch.testing.assert_close(pairwise_flow_weights(joined, joined), expected)


def test_stacked_flows_keep_the_bandwidth_in_pixels() -> None:
    flow = torch.randn(1, 2, 3, 4)
    repeated = stacked_flows(flow[:, None].expand(1, 4, 2, 3, 4))
    once, four = (pairwise_flow_weights(tokens(x), tokens(x), bandwidth=0.7) for x in (flow, repeated))
    torch.testing.assert_close(four, once)


def test_coordinates_of_crops_follow_box_size_and_mirror() -> None:
    whole = crop_coordinates(torch.tensor([[0.0, 0.0, 6.0, 4.0]]), (4, 6))
    assert whole[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert whole[0, 1, :, 0].tolist() == [0, 1, 2, 3]
    box = torch.tensor([[10.0, 20.0, 18.0, 24.0]]).expand(2, 4)
    plain, mirrored = crop_coordinates(box, (2, 2), torch.tensor([False, True]))
    assert plain.tolist() == [[[11.5, 15.5], [11.5, 15.5]], [[20.5, 20.5], [22.5, 22.5]]]
    assert mirrored.tolist() == [[[15.5, 11.5], [15.5, 11.5]], [[20.5, 20.5], [22.5, 22.5]]]


def test_top_hat_on_coordinates_is_the_rule_of_pixcontrast() -> None:
    boxes = torch.tensor([[0.0, 0, 32, 32]]), torch.tensor([[6.0, 6, 38, 38]])
    guides = [tokens(crop_coordinates(box, (4, 4))) for box in boxes]
    cell = 32 / 4 * 2**0.5
    weights = pairwise_flow_weights(*guides, bandwidth=0.7 * cell, flow_kernel="tophat")
    expected = (torch.cdist(*guides) / cell <= 0.7).float()
    assert expected.sum() > 9  # the crops overlap
    torch.testing.assert_close(weights, expected)


ONE = torch.zeros(1, 2, 3, 3)
LINE = [torch.zeros(3)]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: join_guides(), "parts: expected at least one"),
        (lambda: join_guides((ONE, 0.0)), r"bandwidth of parts\[0\]: expected a finite number > 0"),
        (lambda: join_guides((ONE, 1), (torch.zeros(1, 2, 3, 4), 1)), r"parts\[1\]: expected shape \[B, C, H, W\]"),
        (lambda: join_guides((torch.zeros(1, 9, 3, 3), 1)), "guide: expected 1 to 8 channels together, got 9"),
        (lambda: stacked_flows(torch.zeros(1, 5, 2, 3, 3)), "guide: expected 1 to 8 channels together, got 10"),
        (lambda: stacked_flows(torch.zeros(1, 2, 3, 3)), "flows: expected shape"),
        (lambda: crop_coordinates(torch.zeros(1, 3), (2, 2)), r"boxes: expected shape \[B, 4\]"),
        (lambda: FlowInfoNCELoss(skip_tokens=-1), "skip_tokens: expected a whole number"),
        (lambda: FlowInfoNCELoss(warn_share=2), "warn_share: expected a share"),
        (lambda: FlowInfoNCELoss()(LINE, LINE, LINE, LINE), r"query\[0\]: expected a map"),
    ],
)
def test_bad_arguments_are_named(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_class_and_register_tokens_are_left_out() -> None:
    q, k = (torch.randn(2, 5 + 12, 8, requires_grad=True) for _ in range(2))
    f, g = (torch.randn(2, 2, 3, 4) for _ in range(2))
    loss = FlowInfoNCELoss(skip_tokens=5)(q, k, f, g)
    torch.testing.assert_close(loss, FlowInfoNCELoss()(q[:, 5:], k[:, 5:], f, g))
    loss.backward()
    assert (q.grad[:, :5] == 0).all()
    assert (q.grad[:, 5:] != 0).any()


SIZES = (5, 6), (3, 9), (1, 1), (7, 2)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bandwidth", [1.0, "auto"])
def test_a_list_of_maps_equals_the_loop_over_them(symmetric: bool, bandwidth: float | str) -> None:
    q, k = ([x.requires_grad_() for x in maps(*SIZES, channels=8, seed=s)] for s in (0, 1))
    f, g = (maps(*SIZES, channels=2, seed=s) for s in (2, 3))
    masks = [torch.rand(size, generator=torch.Generator().manual_seed(4)) > 0.2 for size in SIZES]
    module = FlowInfoNCELoss(bandwidth=bandwidth, symmetric=symmetric, reduction="none", flow_kernel="cauchy")
    per_pixel = module(q, k, f, g, masks, masks)
    for b in range(len(SIZES)):
        alone = module(*(x[b][None] for x in (q, k, f, g, masks, masks)))
        for side, expected in zip(*((x if symmetric else (x,)) for x in (per_pixel, alone)), strict=True):
            torch.testing.assert_close(side[b], expected[0], rtol=1e-6, atol=1e-6)
    mean = FlowInfoNCELoss(bandwidth=bandwidth, flow_kernel="cauchy")
    total = mean(q, k, f, g, masks, masks)
    counts = [int(m.sum()) for m in masks]
    looped = sum(c * mean(*(x[b][None] for x in (q, k, f, g, masks, masks))) for b, c in enumerate(counts)) / sum(counts)
    torch.testing.assert_close(total, looped, rtol=1e-6, atol=1e-6)
    for a, b in zip(torch.autograd.grad(total, q + k), torch.autograd.grad(looped, q + k), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_list_of_maps_is_one_call_without_padding(reduction: str) -> None:
    """How fast it is beside the loop is the benchmark's to tell: "loop over frames"."""
    q, k = ([x.requires_grad_() for x in maps(*SIZES, channels=8, seed=s)] for s in (0, 1))
    f, g = (maps(*SIZES, channels=2, seed=s) for s in (2, 3))
    with OperatorCalls() as calls:
        FlowInfoNCELoss(backend="native", reduction=reduction)(q, k, f, g)
    assert calls.queries == [sum(height * width for height, width in SIZES)]


def test_memory_bank_keys_differ_in_number_and_get_no_gradient() -> None:
    q, bank = torch.randn(2, 12, 8, requires_grad=True), torch.randn(50, 8)
    f, bank_flow = torch.randn(2, 12, 2), torch.randn(50, 2)
    module = FlowInfoNCELoss()
    shared = module(q, bank.expand(2, 50, 8), f, bank_flow.expand(2, 50, 2))
    s = torch.nn.functional.normalize(q, dim=-1) @ torch.nn.functional.normalize(bank, dim=-1).T / 0.1
    w = pairwise_flow_weights(f, bank_flow.expand(2, 50, 2))
    dense = (s.logsumexp(-1) - (w * s).sum(-1) / w.sum(-1)).mean()
    torch.testing.assert_close(shared, dense)
    shared.backward()
    assert q.grad.abs().sum() > 0
    assert bank.grad is None


def test_momentum_keys_add_no_key_gradient_to_the_graph() -> None:
    q, k = torch.randn(1, 8, 4, 4, requires_grad=True), torch.randn(1, 8, 4, 4)
    flow = torch.randn(1, 2, 4, 4)
    loss = FlowInfoNCELoss()(q, k, flow, flow)
    reached, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in reached:
            reached.add(node)
            todo += [parent for parent, _ in node.next_functions]
    leaves = [node.variable for node in reached if hasattr(node, "variable")]
    assert len(leaves) == 1
    assert leaves[0] is q


def test_depth_and_four_flows_serve_as_guides() -> None:
    q = torch.randn(2, 8, 3, 4, requires_grad=True)
    for guide in (torch.rand(2, 1, 3, 4), stacked_flows(torch.randn(2, 4, 2, 3, 4))):
        loss = FlowInfoNCELoss(positives="inside")(q, q.detach(), guide, guide)
        assert torch.isfinite(torch.autograd.grad(loss, q)[0]).all()


def test_warns_once_when_too_many_queries_have_no_positive() -> None:
    q = torch.randn(2, 8, 3, 4)
    f = torch.randn(2, 2, 3, 4)
    far = f.clone()
    far[0] += 1000
    module = FlowInfoNCELoss(warn_share=0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(q, q, f, f)
        FlowInfoNCELoss()(q, q, f, far)  # exactly half: not more than the share
        FlowInfoNCELoss(warn_share=None)(q, q, f, far)
    with pytest.warns(RuntimeWarning, match=r"12 of 24 queries have no positive .*widen the bandwidth") as record:
        first = module(q, q, f, far)
    assert record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(module(q, q, f, far), first)
