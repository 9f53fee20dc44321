import pytest
import torch

from laparoflow.methods.base import PixelView
from laparoflow.models import EncoderSettings, build_encoder


@pytest.fixture
def encoder():
    return build_encoder(EncoderSettings("laparoflow_convvit_mini", 16, dim=8, hidden=16), seed=0)


@pytest.fixture
def make_view():
    """A view of 16 x 16 pixels, 4 x 4 cells, whose left half moves by +2 and right half by -2 pixels."""

    def build(seed, batch=2):
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand(batch, 3, 16, 16, generator=generator)
        y, x = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
        grid = (torch.stack([x, y], -1) * 4 + 1.5 + seed).expand(batch, 4, 4, 2).clone()
        flow = torch.zeros(batch, 2, 4, 4)
        flow[:, 0, :, :2], flow[:, 0, :, 2:] = 2.0, -2.0
        mask = torch.ones(batch, 4, 4, dtype=torch.bool)
        return PixelView(image, grid, flow, mask, mask.clone(), torch.full((batch, 1), 2.0), (16, 16))

    return build
