"""A build of the compiled backend is used only on GPUs that it holds code for; elsewhere it says which it needs."""

from __future__ import annotations

import pytest
import torch

from laparoflow_kernels.backends import BackendUnavailable, choose_backend, native, triton_backend

GPU = torch.device("cuda", 0)


def pretend(monkeypatch: pytest.MonkeyPatch, architectures: str, *capabilities: tuple[int, int]) -> None:
    """A CUDA build for these architectures, on a machine with these GPUs."""
    facts = {"cuda": "13.0", "cuda_architectures": architectures, "no_cuda_reason": None}
    monkeypatch.setattr(native, "build_facts", lambda: facts)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device=None: capabilities[torch.device(device).index or 0]
    )


@pytest.mark.parametrize(
    ("architectures", "capability", "serves"),
    [
        ("8.0", (8, 0), True),
        ("8.0", (8, 9), True),
        ("8.6", (8, 0), False),
        ("8.0", (9, 0), False),
        ("8.0+PTX", (9, 0), True),
        ("8.6+PTX", (8, 0), False),
        ("9.0a", (9, 0), True),
        ("9.0a", (8, 0), False),
        ("9.0a+PTX", (10, 0), False),
        ("9.0", (9, 0), True),
        ("8.0;9.0a", (8, 6), True),
        ("8.0 9.0a", (9, 0), True),
        ("8.0;9.0a", (10, 0), False),
        ("8.0+PTX;9.0a", (12, 0), True),
        ("10.0", (10, 3), True),
        ("10.0", (12, 0), False),
        ("10.0a", (10, 3), False),
        ("10.0f", (10, 3), True),
        ("12.0", (10, 0), False),
    ],
)
def test_a_build_serves_the_gpus_it_has_code_for(
    monkeypatch: pytest.MonkeyPatch, architectures: str, capability: tuple[int, int], serves: bool
) -> None:
    pretend(monkeypatch, architectures, capability)
    assert (native.unavailable(GPU, torch.float32) is None) == serves


@pytest.mark.parametrize(("capability", "wanted"), [((8, 0), "8.0"), ((9, 0), "9.0a"), ((12, 1), "12.1")])
def test_the_reason_says_what_to_build_for(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], wanted: str
) -> None:
    pretend(monkeypatch, "8.6", capability)
    here = "{}.{}".format(*capability)
    said = f"it was built for 8.6 and this GPU is {here}: build again with TORCH_CUDA_ARCH_LIST={wanted}"
    assert native.unavailable(GPU, torch.float32) == said
    with pytest.raises(BackendUnavailable, match=f"built for 8.6 and this GPU is {here}"):
        choose_backend("native", GPU, torch.float32, 64)


def test_each_gpu_of_a_machine_is_judged_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "8.6", (8, 6), (8, 0), (7, 5))
    monkeypatch.setattr(triton_backend, "unavailable", lambda device, dtype: None)
    devices = [torch.device("cuda", index) for index in range(3)]
    chosen = [choose_backend("auto", device, torch.float32, 64) for device in devices]
    assert chosen == [native, triton_backend, triton_backend]
    assert "need compute capability 8.0" in str(native.unavailable(devices[2], torch.float32))
