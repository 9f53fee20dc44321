"""Ctrl-C ends a long call on the CPU."""

import signal
import subprocess
import sys
import time

import pytest

from laparoflow_kernels import backends

LONG_CALL = """
import signal, torch
from laparoflow_kernels import {function}
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
torch.set_num_threads({threads})
n = 1_000_000
vectors, flow = torch.nn.functional.normalize(torch.randn(1, n, 16), dim=-1), torch.randn(1, n, 2)
vectors.requires_grad_({grad})
print("begun", flush=True)
{call}
print("done", flush=True)
"""
LOSS = "flow_infonce(vectors, vectors, flow, flow, backend='native', reduction={reduction!r}).sum()"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("function", "call", "grad"),
    [
        ("flow_infonce", LOSS.format(reduction="mean"), True),
        ("flow_infonce", LOSS.format(reduction="none"), False),
        ("flow_weighted_sum", "flow_weighted_sum(flow, flow, vectors, backend='native')", False),
    ],
)
def test_ctrl_c_ends_a_call_that_would_take_many_minutes(function: str, call: str, grad: bool, threads: int) -> None:
    if "native" not in backends():
        pytest.fail("the native backend was not built")
    code = LONG_CALL.format(function=function, call=call, grad=grad, threads=threads)
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        try:
            out, errors = process.communicate()  # pytest's own limit ends a call that does not listen
        finally:
            process.kill()
    assert out == ""
    assert errors.rstrip().endswith("KeyboardInterrupt")
