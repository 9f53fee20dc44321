"""A student and its moving average, as in PixPro, with pairs by flow and place.

Run:    python examples/student_teacher.py --steps 200
Needs:  torch
Changed against PixPro's loop: the 5 lines marked with "# <--". Its rule for positives (cells closer than 0.7 diagonals) is
the guide [(place, 0.7 * diagonal)] with flow_kernel="tophat"; its propagation module stays as it is.
"""

import argparse
import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from toy_video import MovingDisc, small_network

from laparoflow_kernels import FlowInfoNCELoss  # <--
from laparoflow_kernels.guides import join_guides  # <--


class Propagation(nn.Module):
    """Each embedding becomes the sum of all, weighted by their similarity to it: [B, D, h, w] -> [B, D, h, w]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.transform = nn.Conv2d(dim, dim, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        unit = F.normalize(embeddings, dim=1).flatten(2)
        similarity = (unit.transpose(1, 2) @ unit).clamp(min=0).square()
        return (self.transform(embeddings).flatten(2) @ similarity.transpose(1, 2)).view_as(embeddings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--momentum", type=float, default=0.99)
    options = parser.parse_args()

    torch.manual_seed(0)
    student, propagation = small_network(), Propagation(32)
    teacher = copy.deepcopy(student).requires_grad_(False)
    criterion = FlowInfoNCELoss(temperature=0.2, bandwidth=1.0, positives="inside")  # <--
    optimizer = torch.optim.AdamW([*student.parameters(), *propagation.parameters()], lr=2e-3)
    loader = DataLoader(MovingDisc(options.steps * options.batch), batch_size=options.batch)

    for step, batch in enumerate(loader):
        guides = [join_guides((batch[f"flow_{v}"], 1.0), (batch[f"place_{v}"], 20.0)) for v in "12"]  # <--
        loss = torch.zeros(())
        for query_view, key_view in ((0, 1), (1, 0)):
            query = propagation(student(batch[f"image_{query_view + 1}"]))
            with torch.no_grad():  # keys of the teacher need no gradient, and none is computed
                key = teacher(batch[f"image_{key_view + 1}"])
            loss = loss + criterion(query, key, guides[query_view], guides[key_view]) / 2  # <--
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 1 - options.momentum)
        if step % 20 == 0 or step == options.steps - 1:
            print(f"step {step:4d}  loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
