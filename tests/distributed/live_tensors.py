"""How many bytes of new tensors are alive at once, seen at every operator of PyTorch."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts storages of at least ``at_least`` bytes that operators create in the block; ``peak`` is the most at once."""

    def __init__(self, at_least: int) -> None:
        super().__init__()
        self.at_least, self.now, self.peak = at_least, 0, 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage(), given)
        return outputs

    def _count(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        identity, size = storage._cdata, storage.nbytes()
        if size < self.at_least or identity in given or identity in self.known:
            return
        self.known.add(identity)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, identity, size)

    def _gone(self, identity: int, size: int) -> None:
        self.known.discard(identity)
        self.now -= size


class OperatorCalls(TorchDispatchMode):
    """The queries that each call of a loss operator is given: one entry per call."""

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "laparoflow" and "backward" not in func.__name__:
            self.queries.append(args[0].shape[0])
        return func(*args, **(kwargs or {}))
