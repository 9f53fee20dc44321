"""The rule of tests/numerics.py lets no rounded logit pass."""

from __future__ import annotations

import pytest
import torch

from tests.numerics import HALF, assert_within_rule, make_case, violations


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("positives", ["outside", "inside"])
def test_logits_rounded_to_sixteen_bits_are_wrong(dtype: torch.dtype, positives: str) -> None:
    """The reference backend in a 16-bit dtype rounds them; the CPU kernels do not."""
    case = make_case(65, 130, 32, bandwidth=0.7, positives=positives)
    with pytest.raises(AssertionError, match=r"loss rms.*dtemperature rms"):
        assert_within_rule(case, dtype, "reference")
    assert_within_rule(case, dtype, "native")


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_gradient_may_be_two_roundings_off_and_not_four(dtype: torch.dtype) -> None:
    truth = [torch.linspace(0.5, 1.0, 100, dtype=torch.float64)]
    exact = [truth[0].to(dtype).double()]
    off = [[truth[0] * (1 + eps * torch.finfo(dtype).eps)] for eps in (0.9, 2.5)]
    assert not violations("dquery", truth, exact, off[0], dtype)
    assert violations("dquery", truth, exact, off[1], dtype)
