"""Flow-weighted pixel InfoNCE without an N x N matrix.

>>> import torch
>>> from laparoflow_kernels import flow_infonce
>>> query, key = (torch.nn.functional.normalize(torch.randn(2, 64, 32), dim=-1) for _ in range(2))
>>> query_flow, key_flow = torch.randn(2, 64, 2), torch.randn(2, 64, 2)
>>> flow_infonce(query, key, query_flow, key_flow, temperature=0.1).ndim
0

Importing this package needs torch alone; Triton is imported when its backend is first asked for.
"""

from importlib.metadata import PackageNotFoundError, version

from laparoflow_kernels.backends import BackendUnavailable, backends
from laparoflow_kernels.functional import flow_infonce, flow_weighted_sum, pairwise_flow_weights
from laparoflow_kernels.guides import robust_flow_spread
from laparoflow_kernels.loss_forms import FlowInfoNCEStats, RowStats
from laparoflow_kernels.modules import FlowInfoNCELoss

try:
    __version__ = version("laparoflow")
except PackageNotFoundError:  # a source tree on sys.path, never installed
    __version__ = "0+unknown"

__all__ = [
    "BackendUnavailable",
    "FlowInfoNCELoss",
    "FlowInfoNCEStats",
    "RowStats",
    "backends",
    "flow_infonce",
    "flow_weighted_sum",
    "pairwise_flow_weights",
    "robust_flow_spread",
]
