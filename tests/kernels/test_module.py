"""``FlowInfoNCELoss`` as a module: what it makes of maps, and what it says of inputs that cannot be meant."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from laparoflow_kernels import FlowInfoNCELoss, flow_infonce, robust_flow_spread


def maps(half: bool = False) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    embeddings = [torch.randn(2, 8, 4, 6, generator=generator) for _ in range(2)]
    flows = [torch.randn(2, 2, 4, 6, generator=generator) for _ in range(2)]
    return [x.half() if half else x for x in embeddings], flows


@pytest.mark.parametrize("scale", [0.0, 3e4])
def test_float16_vectors_beyond_its_range_of_squares(scale: float) -> None:
    """A zero vector stays zero and a long one gets length 1, as in float32."""
    (q, k), flows = maps(half=True)
    q[0, :, 0, 0] = (q[0, :, 0, 0].float().sign() * scale).half()
    q.requires_grad_()
    loss = FlowInfoNCELoss()
    value = loss(q, k, *flows)
    torch.testing.assert_close(value, loss(q.detach().float(), k.float(), *flows), rtol=2e-3, atol=0)
    value.backward()
    assert torch.isfinite(q.grad).all()
    assert scale or (q.grad[0, :, 0, 0] == 0).all()


@pytest.mark.parametrize("side", ["query", "key"])
def test_maps_of_another_shape_with_as_many_pixels_are_refused(side: str) -> None:
    (q, k), (f, g) = maps()
    loss, keep = FlowInfoNCELoss(), torch.ones(2, 4, 6, dtype=torch.bool)
    given: dict[str, Any] = dict(query=q, key=k, query_flow=f, key_flow=g, query_mask=keep, key_mask=keep)
    loss(**given)
    for name, wrong in ((f"{side}_flow", f.transpose(2, 3)), (f"{side}_mask", keep.transpose(1, 2))):
        with pytest.raises(ValueError, match=rf"{name}: expected H x W = 4 x 6 like its embeddings, got 6 x 4"):
            loss(**(given | {name: wrong}))
        lists = {key: list(value) for key, value in given.items()}
        with pytest.raises(ValueError, match=rf"{name}\[0\]: expected H x W = 4 x 6"):
            loss(**(lists | {name: list(wrong)}))
    tokens = f.flatten(2).transpose(1, 2)  # of a flow without a height there is nothing to say
    torch.testing.assert_close(loss(q, k, tokens, g), loss(q, k, f, g))


WRONG: list[tuple[str, Any, str]] = [
    ("query_mask", torch.ones(2, 4, 6), "query_mask: expected dtype torch.bool"),
    ("query_mask", torch.ones(2, 4, 6, dtype=torch.uint8), "query_mask: expected dtype torch.bool"),
    ("key_mask", torch.ones(2, 25, dtype=torch.bool), "key_mask: expected shape"),
    ("key_mask", torch.ones(24, dtype=torch.bool), "key_mask: expected"),
    ("key_flow", torch.zeros(2, 3, 4, 6), "key_flow: expected F=2 channels like query_flow, got 3"),
    ("key_flow", torch.zeros(1, 2, 4, 6), "key_flow: expected B=2 frames of 24 pixels like its embeddings"),
    ("query_flow", torch.zeros(2, 23, 2), "query_flow: expected B=2 frames of 24 pixels like its embeddings"),
    ("query_flow", torch.zeros(2, 2, 4, 6, dtype=torch.int64), "query_flow: expected dtype float32"),
    ("query", torch.zeros(2, 8, 4, 6, dtype=torch.int64), "query: expected dtype float32"),
    ("query", [], "query: expected at least one frame, got an empty list"),
]


@pytest.mark.parametrize("bandwidth", [1.0, "auto"])
@pytest.mark.parametrize(("name", "value", "message"), WRONG, ids=[message[:40] for _, _, message in WRONG])
def test_errors_name_the_argument_whatever_the_bandwidth(bandwidth: Any, name: str, value: Any, message: str) -> None:
    (q, k), (f, g) = maps()
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        FlowInfoNCELoss(bandwidth=bandwidth)(**{**dict(query=q, key=k, query_flow=f, key_flow=g), name: value})


@pytest.mark.parametrize("options", [
    dict(flow_kernel="gauss"), dict(positives="in"), dict(negatives="none"), dict(scope="all"), dict(reduction="avg"),
    dict(backend="cuda"), dict(warn_share="x"), dict(temperature=torch.nn.Parameter(torch.ones(2))),
], ids=lambda options: next(iter(options)))  # fmt: skip
def test_wrong_options_fail_where_they_are_given(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{next(iter(options))}: expected"):
        FlowInfoNCELoss(**options)


def test_the_floor_of_the_bandwidth_is_one_whatever_its_scale() -> None:
    (q, k), _ = maps()
    still, shaken = torch.zeros(2, 2, 4, 6), torch.full((2, 2, 4, 6), 0.1)
    loss = FlowInfoNCELoss(bandwidth="auto", auto_scale=0.1, auto_floor=0.25, return_stats=True)
    floor = FlowInfoNCELoss(bandwidth=0.25, return_stats=True)
    weights = [module(q, k, still, shaken)[1].rows.weight_sum for module in (loss, floor)]
    torch.testing.assert_close(*weights)
    moving = [10 * x for x in maps()[1]]
    spread = robust_flow_spread(torch.cat([x.flatten(2).transpose(1, 2) for x in moving], 1))
    scaled = FlowInfoNCELoss(bandwidth="auto", auto_scale=0.5)(q, k, *moving)
    q, k = (torch.nn.functional.normalize(x.flatten(2).transpose(1, 2), dim=-1) for x in (q, k))
    flows = [x.flatten(2).transpose(1, 2) for x in moving]
    torch.testing.assert_close(scaled, flow_infonce(q, k, *flows, bandwidth=0.5 * spread, normalized=True))
