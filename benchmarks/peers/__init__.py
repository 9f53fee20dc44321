"""The peers, one file each. A peer does the work of a case by its own means and says where it cannot."""

from __future__ import annotations

from benchmarks.peers import (
    chunked,
    compiled,
    cut_cross_entropy,
    dense,
    flex_attention,
    keops,
    liger,
    linear_cross_entropy,
    ours,
)
from benchmarks.peers.peer import Peer

ALL: tuple[Peer, ...] = (
    *ours.PEERS,
    dense.PEER,
    compiled.PEER,
    chunked.PEER,
    keops.PEER,
    linear_cross_entropy.PEER,
    flex_attention.PEER,
    cut_cross_entropy.PEER,
    liger.PEER,
)
BY_NAME = {peer.name: peer for peer in ALL}

__all__ = ["ALL", "BY_NAME", "Peer"]
