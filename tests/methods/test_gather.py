"""Two processes with half of the batch each give the gradients of one process with all of it."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from laparoflow.methods.base import PixelView
from laparoflow.methods.build import build_method
from laparoflow.methods.contrast import ContrastSettings
from laparoflow.methods.settings import MethodSettings
from laparoflow.models import EncoderSettings, build_encoder
from tests.distributed.live_tensors import OperatorCalls

CASES = [
    ("flow", {"scope": "frame", "positives": "inside"}, None),
    ("flow", {"scope": "frame", "positives": "outside", "symmetric": False}, None),
    ("flow", {"scope": "gathered", "positives": "inside"}, None),
    ("flow", {"scope": "gathered", "positives": "outside", "negatives": "dissimilar"}, None),
    ("flow", {"scope": "gathered"}, 0.9),
    ("flow", {"scope": "ring", "positives": "inside", "learn_temperature": True}, None),
    ("flow", {"scope": "ring", "symmetric": False}, 0.9),
    ("coordinates", {"scope": "gathered"}, None),
    ("pixpro", {}, None),
    ("densecl", {}, None),
    ("image", {}, None),
]


def make_method(name, contrast, momentum):
    settings = MethodSettings(name)
    if contrast:
        getattr(settings, name).contrast = ContrastSettings(**contrast)
    if momentum is not None:
        getattr(settings, name).momentum = momentum
    # a plain ViT, in double precision
    options = {"depth": 1, "embed_dim": 16, "num_heads": 2, "patch_size": 4}
    encoder = build_encoder(EncoderSettings("vit_tiny_patch16_224", 16, backbone_options=options, dim=8), seed=0)
    torch.manual_seed(0)
    return build_method(encoder, settings).double()


def make_views(batch):
    views = []
    for seed in range(2):
        g = torch.Generator().manual_seed(seed)
        image = torch.rand(batch, 3, 16, 16, generator=g, dtype=torch.float64)
        grid = torch.rand(batch, 4, 4, 2, generator=g) * 4 + torch.stack(
            torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="xy"), -1
        )
        flow = torch.randn(batch, 2, 4, 4, generator=g)
        valid = torch.rand(batch, 4, 4, generator=g) > 0.2
        valid[0, :3] = False  # processes hold different numbers of valid pixels
        views.append(PixelView(image, grid, flow, valid, valid.clone(), torch.ones(batch, 1), (16, 16)))
    return views


def part(view, rows):
    return PixelView(*(value[rows] if isinstance(value, torch.Tensor) else value for value in view))


def gradients(method):
    return {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}


def worker(rank, file, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    collected = []
    for case in CASES:
        method = make_method(*case)
        wrapped = DistributedDataParallel(method)
        rows = slice(2 * rank, 2 * rank + 2)
        with OperatorCalls() as calls:
            output = wrapped(*(part(view, rows) for view in make_views(4)))
        output.loss.backward()
        collected.append((output.loss.item(), gradients(method), calls.queries))
    if rank == 0:
        torch.save(collected, results)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(worker, (str(folder / "store"), str(folder / "results.pt")), nprocs=2)
    return torch.load(folder / "results.pt", weights_only=True)


NAMES = ["-".join(map(str, (name, *contrast.values(), momentum))) for name, contrast, momentum in CASES]


@pytest.mark.parametrize("number", range(len(CASES)), ids=NAMES)
def test_two_processes_equal_the_joint_batch(distributed, number):
    method = make_method(*CASES[number])
    reference = copy.deepcopy(method)
    output = reference(*make_views(4))
    output.loss.backward()
    expected = gradients(reference)
    loss, found, queries = distributed[number]
    assert loss == pytest.approx(output.loss.item(), rel=1e-5)
    assert all(rows <= 2 * 16 for rows in queries), "a process computes more than the rows of its own two frames"
    assert set(found) == set(expected)
    largest = max(value.abs().max() for value in expected.values())
    assert largest > 1e-4
    for name, value in expected.items():
        assert (found[name] - value).abs().max() < 1e-5 * largest, name
