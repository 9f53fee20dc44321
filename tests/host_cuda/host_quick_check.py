"""A short numerics check of one built library, for planted mistakes: ``python host_quick_check.py LIBRARY``.

Exits 0 when every case is right and 1, with the reason, at the first that is not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host_reference as reference
from host_calls import WARPGROUP, Host
from host_cases import assert_right, check, far_case, grouped, make_case


def main(library: str) -> int:
    host = Host(Path(library), multiprocessors=1)
    try:
        for order in (0, 1):
            host.library.laparoflow_host_set_order(order)
            check(host, make_case([70, 33], [130, 65], 24, masked=0.2, symmetric=True, bounded=True))
            check(host, make_case([70, 33], [40, 65], 31, 3, masked=0.2, symmetric=True, scope="batch",
                                  positives="inside"))  # fmt: skip
            check(host, make_case([33], [70], 40, element="float32", negatives="dissimilar", masked=0.2))
        # few pairs to a sum and small logits: the error of a single exponential shows
        check(host, make_case([70], [2], 16, temperature=1.0, bounded=True))
        warpgroup = Host(Path(library), multiprocessors=1, shared_memory=227 * 1024, path=1)
        for order in (0, 1):
            host.library.laparoflow_host_set_order(order)
            check(warpgroup, make_case([70, 33], [130, 65], 72, masked=0.2, symmetric=True, bounded=True))
        check(warpgroup, make_case([390, 70], [300, 70], 40, masked=0.2, bounded=True))
        # of some tiles the flows lie beyond their factors' reach
        far = make_case([200], [130], 8, bounded=True, temperature=1.0)
        for flow in (far.query_flow[64:128], far.key_flow[64:]):
            flow += np.float32(3e3)
        check(warpgroup, far)
        check(warpgroup, make_case([70], [130], 40, masked=0.2, symmetric=True, positives="inside", bounded=True))
        # equal flows at |u|^2 = 233: all that keeps w from 1 is its rounding to float32, twice on either side, which is
        # 2 (2^-18 + 2^-17) ln 2 = 1.6e-5 at most, where its first two halves alone leave 3e-5
        level = make_case([200], [130], 8, bounded=True, flow_scale=0.0)
        for flow in (level.query_flow[110:], level.key_flow[70:]):
            flow += np.float32([13.1, 12.3])
        truth, same = (reference.forward(level, t)[0][1] for t in (np.float64, np.float32))
        assert_right("weight sum of equal flows", warpgroup.forward(level)[0][1], truth, same, slack=1.6e-5)
        # logits of -57 in base 2, all, and weights near 2^-118
        tiny = make_case([70], [130], 16, positives="inside", bounded=True, flow_scale=0.01, temperature=0.025)
        tiny.query[:], tiny.key[:] = np.eye(16)[0], -np.eye(16)[0]
        tiny.key_flow[:, 0] += np.float32(12.8)
        assert np.allclose(warpgroup.forward(tiny)[0][2], reference.forward(tiny)[0][2], atol=2e-4), "inside, far"
        # columns cut into chunks
        many = [Host(Path(library), multiprocessors=40), Host(Path(library), multiprocessors=40, **WARPGROUP)]
        for each in many:
            check(each, make_case([130], [330], 16, masked=0.2, bounded=True))
        # W down to 2^-126: of rows, and of columns
        check(host, far_case("query", "float16", bounded=True))
        check(warpgroup, far_case("key", "bfloat16", bounded=True), grad_scale=65536.0)
        # pairs that count nowhere
        check(host, grouped(make_case([70, 33], [130, 65], 24, masked=0.2, symmetric=True, scope="batch")))
        check(host, grouped(far_case("query", "bfloat16", bounded=True), groups=3))
        # a single weight to a row, in an odd column
        lone = make_case([70], [130], 16, positives="inside", bounded=True, flow_scale=0.0, weight_stats=False)
        lone.key_flow[1:] += np.float32(1e4)
        lone.key_flow[[0, 1]] = lone.key_flow[[1, 0]]
        assert (warpgroup.forward(lone)[0][1] == 1).all(), "whether a row has a weight"
        # frames that end where a tile does leave gaps between their records
        check(warpgroup, make_case([20, 1, 0, 65], [64, 0, 64, 10], 16, scope="batch", symmetric=True, positives="inside"))
        check(warpgroup, make_case([20, 65], [64, 10], 16, scope="batch", bounded=True))
        # one warpgroup, two stages
        small = Host(Path(library), multiprocessors=1, shared_memory=48 * 1024, path=1, deterministic=True)
        check(small, make_case([130], [70], 16, symmetric=True, bounded=True))
        case = make_case([70], [65], 8, masked=0.2)
        values = np.ones((65, 3), np.float32)
        truth, same = (reference.weighted_sum(case, values, t)[0] for t in (np.float64, np.float32))
        assert_right("weighted sum", host.weighted_sum(case, values)[0], truth, same)
    except (AssertionError, RuntimeError) as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
