"""What a peer is."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from benchmarks.case import Case
from benchmarks.inputs import Inputs


@dataclass(frozen=True)
class Peer:
    """One way to do the work.

    Attributes:
        name: as it stands in tables and plots.
        why_not: the reason why it cannot do a case, or None. Must not import what may be missing.
        loss: of a case, a part and the inputs: the mean loss (0-d, differentiable in query and key). The part is told so
            that "backward" can be one of its own where "both" forms gradients in the forward.
        predicted_bytes: extra memory that it is known to need for forward + backward, 0 where it grows with N only.
        gradients_in_forward: it has no backward of its own to time, "both" is where its gradients show.
        generates_code: it compiles for the size at hand on its first call; its memory is then measured on the second.
    """

    name: str
    why_not: Callable[[Case], str | None]
    loss: Callable[[Case, str, Inputs], Tensor]
    predicted_bytes: Callable[[Case], float] = lambda case: 0.0
    gradients_in_forward: bool = False
    generates_code: bool = False


def not_installed(module: str) -> str | None:
    """Why the package of a module cannot be used, or None."""
    return None if importlib.util.find_spec(module) else f"{module.replace('_', '-')} is not installed"


def flow_loss_only(case: Case) -> str | None:
    """The reason of a peer that is written for the plain form of the flow loss."""
    if case.one_hot:
        return "written for flow weights; the one-hot case is measured against the cross entropies"
    return None if case.plain else "written for positives='outside', negatives='all'"
