"""Calls the host-executed kernels on NumPy arrays. Outputs start as NaN, so an unwritten one shows."""

from __future__ import annotations

import ctypes
import itertools
import re
from pathlib import Path

import numpy as np
from host_reference import Case

ELEMENTS = {"bfloat16": 0, "float16": 1, "float32": 2}
FLOW_KERNELS = ("gaussian", "laplace", "cauchy", "tophat")
WARPGROUP = {"shared_memory": 227 * 1024, "path": 1}  # options of Host: the sm_90a path
_POINTERS = [
    "query",
    "key",
    "query_flow",
    "key_flow",
    "query_mask",
    "key_mask",
    "query_offsets",
    "key_offsets",
    "inv_bandwidth",
    "query_group",
    "key_group",
]
_INTS = [
    "frames",
    "depth",
    "flow_width",
    "element",
    "full_float",
    "aligned",
    "flow_kernel",
    "positives",
    "negatives",
    "scope",
    "symmetric",
    "bounded",
    "multiprocessors",
    "shared_memory",
    "path",
    "deterministic",
    "weight_stats",
]


class HostProblem(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_void_p) for name in _POINTERS]
        + [(name, ctypes.c_int64) for name in ("query_total", "key_total", "query_longest", "key_longest")]
        + [("temperature", ctypes.c_float)]
        + [(name, ctypes.c_int32) for name in _INTS]
    )


def round_to(x: np.ndarray, element: str) -> np.ndarray:
    """Rounds to the nearest value of the element type, as float64."""
    x = np.asarray(x, np.float32)
    if element == "float16":
        return x.astype(np.float16).astype(np.float64)
    if element == "bfloat16":
        return from_bits(to_bits(x, element), element)
    return x.astype(np.float64)


def to_bits(x: np.ndarray, element: str) -> np.ndarray:
    x = np.asarray(x, np.float32)
    if element == "float16":
        return x.astype(np.float16)
    if element == "float32":
        return x.copy()
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)


def from_bits(x: np.ndarray, element: str) -> np.ndarray:
    if element == "bfloat16":
        return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return x.astype(np.float64)


def aligned_copy(x: np.ndarray, shift: int = 0) -> np.ndarray:
    """A copy whose first byte is ``shift`` behind a multiple of 64, with nothing after its last."""
    raw = np.empty(x.nbytes + 64 + shift, np.uint8)
    start = -raw.ctypes.data % 64 + shift
    view = raw[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


class Host:
    """The kernels of one built library."""

    def __init__(
        self,
        library: Path,
        multiprocessors: int = 2,
        shared_memory: int = 163 * 1024,
        path: int = 0,
        deterministic: bool = False,
    ) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.laparoflow_host_message.restype = ctypes.c_char_p
        self.library.laparoflow_host_launch.restype = ctypes.c_char_p
        self.library.laparoflow_host_launch(-1)  # all hosts of a library share its memory of launches
        self.multiprocessors = multiprocessors
        self.shared_memory = shared_memory
        self.path = path
        self.deterministic = deterministic

    def _problem(self, case: Case) -> HostProblem:
        offsets = lambda sizes: np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        arrays = {
            "query": aligned_copy(to_bits(case.query, case.element)),
            "key": aligned_copy(to_bits(case.key, case.element)),
            "query_flow": np.ascontiguousarray(case.query_flow, np.float32),
            "key_flow": np.ascontiguousarray(case.key_flow, np.float32),
            "query_mask": None if case.query_mask is None else case.query_mask.astype(np.uint8),
            "key_mask": None if case.key_mask is None else case.key_mask.astype(np.uint8),
            "query_offsets": offsets(case.query_sizes),
            "key_offsets": offsets(case.key_sizes),
            "inv_bandwidth": case.inv_bandwidth,
            "query_group": case.query_group,
            "key_group": case.key_group,
        }
        problem = HostProblem()
        for name, array in arrays.items():
            setattr(problem, name, None if array is None else array.ctypes.data)
        problem.arrays = arrays  # keeps them alive
        problem.query_total, problem.key_total = len(case.query), len(case.key)
        problem.query_longest, problem.key_longest = max(case.query_sizes, default=0), max(case.key_sizes, default=0)
        problem.temperature = case.temperature
        problem.frames = len(case.query_sizes)
        problem.depth, problem.flow_width = case.query.shape[1], case.query_flow.shape[1]
        problem.element, problem.full_float = ELEMENTS[case.element], case.full_float
        problem.aligned = case.query.shape[1] % (4 if case.element == "float32" else 8) == 0
        problem.flow_kernel = FLOW_KERNELS.index(case.flow_kernel)
        problem.positives = ("outside", "inside").index(case.positives)
        problem.negatives = ("all", "dissimilar").index(case.negatives)
        problem.scope = ("frame", "batch").index(case.scope)
        problem.symmetric, problem.bounded = case.symmetric, case.bounded
        problem.multiprocessors, problem.shared_memory = self.multiprocessors, self.shared_memory
        problem.path = self.path
        problem.deterministic = self.deterministic
        problem.weight_stats = case.weight_stats
        return problem

    def filled(self, case: Case, backward: int = 0) -> float:
        """Of the pairs that the blocks have room for until the last is done, those that are there to be computed.

        ``backward``: 0 for the forward, 1 for a backward in one pass, 2 for one of two passes.
        """
        self.library.laparoflow_host_capacity.restype = ctypes.c_int64
        problem = self._problem(case)
        columns = case.key_sizes if case.scope == "frame" else [sum(case.key_sizes)] * len(case.query_sizes)
        pairs = sum(q * k for q, k in zip(case.query_sizes, columns, strict=True))
        return pairs / self.library.laparoflow_host_capacity(ctypes.byref(problem), backward)

    def launches(self) -> list[str]:
        """What was launched since this object was made or the last call of this: the kernels' names, in order."""
        launch = self.library.laparoflow_host_launch
        names = [name.decode() for name in itertools.takewhile(bool, map(launch, itertools.count()))]
        launch(-1)
        return [re.sub(r".*\d(\w+)ArgumentsE$", r"\1", name).lower() for name in names]

    def _check(self, status: int) -> None:
        if status != 0:
            raise RuntimeError(f"status {status}: {self.library.laparoflow_host_message().decode()}")

    def forward(self, case: Case) -> tuple[np.ndarray, np.ndarray | None]:
        """Row statistics [4, Tq] and, when symmetric, column statistics [4, Tk]."""
        rows = np.full((4, len(case.query)), np.nan, np.float32)
        columns = np.full((4, len(case.key)), np.nan, np.float32) if case.symmetric else None
        problem = self._problem(case)
        self._check(self.library.laparoflow_host_forward(ctypes.byref(problem), _at(rows), _at(columns)))
        return rows, columns

    def backward(self, case, row_stats, column_stats, row_grad, column_grad, need=(True, True, True)):
        """(dq, dk, dtemperature); None for those not needed."""
        inputs = [
            None if x is None else np.ascontiguousarray(x, np.float32)
            for x in (row_stats, column_stats, row_grad, column_grad)
        ]
        nan = to_bits(np.float32(np.nan), case.element)
        dq = np.full(case.query.shape, nan) if need[0] else None
        dk = np.full(case.key.shape, nan) if need[1] else None
        dt = np.full(1, np.nan, np.float32) if need[2] else None
        problem = self._problem(case)
        self._check(
            self.library.laparoflow_host_backward(ctypes.byref(problem), *map(_at, inputs), _at(dq), _at(dk), _at(dt))
        )
        return (
            None if dq is None else from_bits(dq, case.element),
            None if dk is None else from_bits(dk, case.element),
            None if dt is None else float(dt[0]),
        )

    def weighted_sum(self, case: Case, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = np.ascontiguousarray(values, np.float32)
        sums = np.full((len(case.query), values.shape[1]), np.nan, np.float32)
        weight_sum = np.full(len(case.query), np.nan, np.float32)
        problem = self._problem(case)
        self._check(
            self.library.laparoflow_host_weighted_sum(
                ctypes.byref(problem), _at(values), ctypes.c_int64(values.shape[1]), _at(sums), _at(weight_sum)
            )
        )
        return sums, weight_sum


def _at(array: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)
