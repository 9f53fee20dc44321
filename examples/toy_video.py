"""Toy data of the examples: frames of textured tissue in which one disc moves, seen twice by random crops.

Put your own data set in its place. What the loss needs of one: two views of a frame, and for every cell of the embedding map
the optical flow of the source frame at that cell's source coordinates, in source-frame axes and pixels (a mirrored or zoomed
view does not change the flow's sign or length).
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from laparoflow_kernels.guides import crop_coordinates


def sample_at(source: Tensor, places: Tensor) -> Tensor:
    """Values of a map [C, H, W] at source coordinates [2, h, w] (x, y), pixel centres at integers -> [C, h, w]."""
    size = torch.tensor([source.shape[2], source.shape[1]]).view(2, 1, 1)
    grid = ((places + 0.5) * 2 / size - 1).movedim(0, -1)
    return F.grid_sample(source[None], grid[None], padding_mode="border", align_corners=False)[0]


class MovingDisc(Dataset):
    """Items: image_1, image_2 [3, view, view]; flow_1, flow_2 and place_1, place_2 [2, cells, cells] in source pixels."""

    def __init__(self, length: int = 256, view: int = 48, cells: int = 12, side: int = 64) -> None:
        self.length, self.view, self.cells, self.side = length, view, cells, side

    def __len__(self) -> int:
        return self.length

    def frame(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A frame [3, side, side] and its flow [2, side, side]: the tissue drifts, the disc moves otherwise."""
        noise = [torch.rand(1, 3, n, n, generator=generator) for n in (8, 32)]
        coarse, fine = (F.interpolate(x, (self.side, self.side), mode="bilinear")[0] for x in noise)
        y, x = torch.meshgrid(*[torch.arange(self.side)] * 2, indexing="ij")
        centre = torch.rand(2, generator=generator) * self.side
        disc = (x - centre[0]).square() + (y - centre[1]).square() < (self.side / 4) ** 2
        motions = torch.randn(2, 2, generator=generator) * 2
        flow = torch.where(disc, motions[0].view(2, 1, 1), motions[1].view(2, 1, 1))
        return torch.where(disc, 0.3 * coarse + 0.7 * fine, coarse), flow

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        image, flow = self.frame(generator)
        item = {}
        for name in ("1", "2"):
            size = self.side * (0.5 + 0.5 * torch.rand(1, generator=generator))
            corner = torch.rand(2, generator=generator) * (self.side - size)
            box = torch.cat([corner, corner + size])[None]
            mirrored = torch.rand(1, generator=generator) < 0.5
            pixels, cells = (crop_coordinates(box, (n, n), mirrored)[0] for n in (self.view, self.cells))
            gain = 0.7 + 0.6 * torch.rand(3, 1, 1, generator=generator)
            item |= {f"image_{name}": sample_at(image, pixels) * gain, f"flow_{name}": sample_at(flow, cells)}
            item[f"place_{name}"] = cells
        return item


def small_network(dim: int = 32) -> torch.nn.Module:
    """A convolutional network of stride 4: images [B, 3, H, W] -> embeddings [B, dim, H / 4, W / 4]."""
    layers: list[torch.nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 2), (16, 32, 2), (32, 32, 1)):
        layers += [torch.nn.Conv2d(inputs, outputs, 3, stride, 1), torch.nn.GroupNorm(4, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Conv2d(32, dim, 1))
