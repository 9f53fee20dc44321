"""Which peers run which cases. Cases of one size stand together, so that what is compared was measured close in time."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from benchmarks.case import NEEDS, Case
from benchmarks.peers import ALL, BY_NAME, Peer

OURS = "ours: native"
CORE = (OURS, "dense PyTorch", "torch.compile of dense", "chunked PyTorch")
LOOP = f"{OURS}, loop over frames"
FORMS = ({"symmetric": True}, {"positives": "inside"}, {"negatives": "dissimilar"})
FRAME_PIXELS = 56 * 56

Entry: TypeAlias = tuple[Case, tuple[Peer, ...]]


def entries(quick: bool, device: str, largest: int | None = None, named: list[str] | None = None) -> list[Entry]:
    """Cases and the peers that run each.

    Args:
        quick: under 2 minutes on 2 cores; otherwise under 20.
        device: "cpu" or "cuda" (embeddings in bf16 there, and larger sizes).
        largest: leave out cases of more pixels per frame.
        named: only peers whose name contains one of these, case ignored.
    """
    found = []
    for case, peers in _quick(device) if quick else _cpu() if device == "cpu" else _gpu():
        chosen = tuple(p for p in peers if named is None or any(text.lower() in p.name.lower() for text in named))
        if chosen and (largest is None or case.pixels <= largest):
            found.append((case, chosen))
    return found


def _named(*names: str) -> tuple[Peer, ...]:
    return tuple(BY_NAME[name] for name in names)


def _one_frame() -> tuple[Peer, ...]:
    return tuple(peer for peer in ALL if peer.name != LOOP and peer.name not in _CROSS_ENTROPIES)


def _plain() -> tuple[Peer, ...]:
    return tuple(peer for peer in _one_frame() if peer.name != "ours: reference")


_CROSS_ENTROPIES = ("torch linear_cross_entropy", "cut-cross-entropy", "liger-kernel")
_ONE_HOT = (OURS, "ours: triton", "dense PyTorch", *_CROSS_ENTROPIES)


def _quick(device: str) -> list[Entry]:
    base = Case(1024, device=device, dtype="float32" if device == "cpu" else "bfloat16")
    return [
        # KeOps compiles for minutes before its first result
        (base, tuple(peer for peer in _one_frame() if peer.name != "KeOps")),
        (replace(base, pixels=2048), _named(OURS, "dense PyTorch", "chunked PyTorch")),
        (replace(base, symmetric=True), _named(OURS, "dense PyTorch", "chunked PyTorch")),
        (replace(base, one_hot=True), _named(*_ONE_HOT)),
        (replace(base, pixels=784, frames=2), _named(OURS, LOOP, "chunked PyTorch")),
    ]


def _cpu() -> list[Entry]:
    base = Case(8192)
    core = _named(*CORE)
    lean = _named(*(name for name in CORE if name != "dense PyTorch"))
    plan = [(replace(base, pixels=n), _one_frame() if n == 1024 else _plain()) for n in (1024, 2048, 4096, 8192)]
    plan += [(case, _named(OURS)) for case in (replace(base, threads=1), *(replace(base, needs=n) for n in NEEDS[1:]))]
    plan += [(replace(base, **option), lean) for option in FORMS]  # type: ignore[arg-type]
    plan += [(replace(base, dim=dim, pixels=n), lean) for dim in (128, 256) for n in (8192, 1024)]
    plan.append((replace(base, frames=8, pixels=FRAME_PIXELS), (*lean, *_named(LOOP))))
    plan.append((replace(base, pixels=65536), tuple(peer for peer in _one_frame() if peer not in core[3:])))
    plan += [(replace(base, dtype=dtype), _named(OURS, CORE[3])) for dtype in ("bfloat16", "float16")]
    plan += [(replace(base, one_hot=True, pixels=n), _named(*_ONE_HOT)) for n in (8192, 1024)]
    return plan + [(replace(base, pixels=n), _plain()) for n in (16384, 32768)]


def _gpu() -> list[Entry]:
    base = Case(100_000, device="cuda", dtype="bfloat16")
    ours = _named(OURS, "ours: triton")
    peers = (*ours, *_named(*CORE[1:], "FlexAttention"))
    plan = [(replace(base, dim=dim), _one_frame() if dim == 64 else peers) for dim in (64, 128, 256)]
    plan += [(replace(base, positives="inside", dim=dim), peers if dim == 64 else ours) for dim in (64, 128, 256)]
    plan += [(replace(base, **option), ours) for option in (*FORMS[::2], {"needs": "query"}, {"deterministic": True})]  # type: ignore[arg-type]
    frames = ((35_000, 1), (FRAME_PIXELS, 64), (12_544, 8), (FRAME_PIXELS, 8), (784, 8))
    plan += [(replace(base, pixels=n, frames=b), (*ours, *_named(LOOP))) for n, b in frames]
    plan += [(replace(base, pixels=n), peers) for n in (1024, 4096, 16384, 65536, 1_000_000)]
    plan += [(replace(base, dim=dim, pixels=8192), _named("ours: triton", *CORE[1:])) for dim in (384, 768)]
    plan += [(replace(base, dtype=dtype, pixels=16384), (*ours, *_named("KeOps"))) for dtype in ("float32", "float16")]
    return plan + [(replace(base, one_hot=True, pixels=n), _named(*_ONE_HOT)) for n in (8192, 65536)]
