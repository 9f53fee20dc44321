"""Which peers run which cases. Cases of one size stand together, so that what is compared was measured close in time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.case import Case
from benchmarks.peers import ALL, BY_NAME, Peer

CORE = ("ours: native", "dense PyTorch", "torch.compile of dense", "chunked PyTorch")
LOOP = "ours: native, loop over frames"
FRAME_PIXELS = 56 * 56


@dataclass(frozen=True)
class Entry:
    """A case and the peers that run it."""

    case: Case
    peers: tuple[Peer, ...]


def entries(plan: str, device: str, largest: int | None = None, named: list[str] | None = None) -> list[Entry]:
    """The entries of a plan.

    Args:
        plan: "quick" (under 2 minutes on 2 cores), "default" (under 20), "full" (every peer on every case: hours).
        device: "cpu" or "cuda" (embeddings in bf16 there, and larger sizes).
        largest: leave out cases of more pixels per frame.
        named: only peers whose name contains one of these, case ignored.
    """
    found = []
    for entry in {"quick": _quick, "default": _default, "full": _full}[plan](device):
        peers = [peer for peer in entry.peers if named is None or any(text.lower() in peer.name.lower() for text in named)]
        if peers and (largest is None or entry.case.pixels <= largest):
            found.append(Entry(entry.case, tuple(peers)))
    return found


def _named(*names: str) -> tuple[Peer, ...]:
    return tuple(BY_NAME[name] for name in names)


def _one_frame() -> tuple[Peer, ...]:
    return tuple(peer for peer in ALL if peer.name != LOOP and peer.name not in _CROSS_ENTROPIES)


def _without(name: str) -> tuple[Peer, ...]:
    return tuple(peer for peer in _one_frame() if peer.name != name)


_CROSS_ENTROPIES = ("torch linear_cross_entropy", "cut-cross-entropy", "liger-kernel")
_ONE_HOT = ("ours: native", "ours: triton", "dense PyTorch", *_CROSS_ENTROPIES)


def _quick(device: str) -> list[Entry]:
    base = Case(1024, device=device, dtype=_dtype(device))
    return [
        # KeOps compiles for minutes before its first result
        Entry(base, tuple(peer for peer in _one_frame() if peer.name != "KeOps")),
        Entry(replace(base, pixels=2048), _named("ours: native", "dense PyTorch", "chunked PyTorch")),
        Entry(replace(base, symmetric=True), _named("ours: native", "dense PyTorch", "chunked PyTorch")),
        Entry(replace(base, one_hot=True), _named(*_ONE_HOT)),
        Entry(replace(base, pixels=784, frames=2), _named("ours: native", LOOP, "chunked PyTorch")),
    ]


def _default(device: str) -> list[Entry]:
    base = Case(8192, device=device, dtype=_dtype(device))
    on_cpu = device == "cpu"
    core = _named(*CORE) if on_cpu else _named("ours: native", "ours: triton", *CORE[1:], "FlexAttention")
    lean = tuple(peer for peer in core if peer.name != "dense PyTorch")
    sizes = (1024, 2048, 4096, 8192) if on_cpu else (1024, 4096, 16384)
    large_sizes = (16384, 32768) if on_cpu else (65536,)
    largest = 65536 if on_cpu else 100_000
    other_sizes = (1024, 8192) if on_cpu else (16384, 100_000)
    dtypes = ("bfloat16", "float16") if on_cpu else ("float32", "float16")
    plan = [Entry(replace(base, pixels=n), _one_frame() if n == sizes[0] else _without("ours: reference")) for n in sizes]
    plan += [Entry(replace(base, threads=1), _named("ours: native"))] if on_cpu else []
    plan += [Entry(replace(base, needs=needs), _named("ours: native")) for needs in ("query", "key")]
    for options in ({"symmetric": True}, {"positives": "inside"}, {"negatives": "dissimilar"}):
        plan.append(Entry(replace(base, **options), lean))  # type: ignore[arg-type]
    plan += [Entry(replace(base, dim=dim, pixels=n), lean) for dim in (128, 256) for n in reversed(other_sizes)]
    plan.append(Entry(replace(base, frames=8, pixels=FRAME_PIXELS), (*lean, *_named(LOOP))))
    plan.append(Entry(replace(base, pixels=largest), _without("chunked PyTorch") if on_cpu else _one_frame()))
    plan += [Entry(replace(base, dtype=dtype), _named(CORE[0], CORE[3])) for dtype in dtypes]
    plan += [Entry(replace(base, one_hot=True, pixels=n), _named(*_ONE_HOT)) for n in (8192, 1024)]
    return plan + [Entry(replace(base, pixels=n), _without("ours: reference")) for n in large_sizes]


def _full(device: str) -> list[Entry]:
    base = Case(8192, device=device, dtype=_dtype(device))
    plan = [Entry(replace(base, pixels=2**k, dim=dim), ALL) for dim in (64, 128, 256) for k in range(10, 18)]
    plan += [Entry(entry.case, ALL) for entry in _default(device) if entry.case not in [known.case for known in plan]]
    return plan


def _dtype(device: str) -> str:
    return "float32" if device == "cpu" else "bfloat16"
