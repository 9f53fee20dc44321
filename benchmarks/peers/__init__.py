"""The peers. A peer does the work of a case by its own means and says where it cannot."""

from __future__ import annotations

from benchmarks.peers import chunked, cross_entropies, dense, flex_attention, keops, ours
from benchmarks.peers.peer import Peer

ALL: tuple[Peer, ...] = (
    *ours.PEERS, *dense.PEERS, chunked.PEER, keops.PEER, flex_attention.PEER, *cross_entropies.PEERS,
)  # fmt: skip
BY_NAME = {peer.name: peer for peer in ALL}

__all__ = ["ALL", "BY_NAME", "Peer"]
