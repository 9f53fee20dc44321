"""Random streams of the tests."""

import hashlib

import torch


def step_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """A CPU generator whose stream depends on nothing but (seed, epoch, index)."""
    digest = hashlib.sha256(f"{int(seed)},{int(epoch)},{int(index)}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
