"""lightly's DenseCL with its dense loss swapped: pairs by flow, in place of the most similar feature and a memory bank.

Run:    python examples/lightly_densecl.py --steps 200
Needs:  torch, lightly
Changed against lightly_densecl_original.py: the 7 lines marked with "# <--"; one line went.
"""

import argparse
import copy

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import DenseCLProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum  # <--
from torch import Tensor, nn
from torch.utils.data import DataLoader
from toy_video import MovingDisc, small_network

from laparoflow_kernels import FlowInfoNCELoss  # <--

BANK = 1024


class DenseCL(nn.Module):
    """Features, a global and a dense embedding of each image, by the student or by its moving average."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.backbone = small_network(dim)
        self.global_head = DenseCLProjectionHead(dim, dim, dim)
        self.dense_head = DenseCLProjectionHead(dim, dim, dim)
        self.teacher = copy.deepcopy(nn.ModuleList([self.backbone, self.global_head, self.dense_head]))
        deactivate_requires_grad(self.teacher)

    def student(self) -> list[nn.Module]:
        return [self.backbone, self.global_head, self.dense_head]

    def embed(self, images: Tensor, parts: list[nn.Module]) -> tuple[Tensor, Tensor, Tensor]:
        """Images -> features [B, N, C], global embeddings [B, D], dense embeddings [B, N, D]."""
        features = parts[0](images).flatten(2).transpose(1, 2)
        return features, parts[1](features.mean(1)), parts[2](features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()

    torch.manual_seed(0)
    model = DenseCL()
    global_loss = NTXentLoss(temperature=0.2, memory_bank_size=(BANK, 32))
    dense_loss = FlowInfoNCELoss(temperature=0.2, bandwidth="auto", positives="inside")  # <--
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    loader = DataLoader(MovingDisc(options.steps * options.batch), batch_size=options.batch)

    for step, batch in enumerate(loader):
        for student, teacher in zip(model.student(), model.teacher, strict=True):
            update_momentum(student, teacher, m=0.99)
        _, query_global, query_dense = model.embed(batch["image_1"], model.student())  # <--
        with torch.no_grad():
            _, key_global, key_dense = model.embed(batch["image_2"], list(model.teacher))  # <--
        flows = (batch[name].flatten(2).transpose(1, 2) for name in ("flow_1", "flow_2"))  # <--
        dense = dense_loss(query_dense, key_dense, *flows)  # <--
        loss = 0.5 * global_loss(query_global, key_global) + 0.5 * dense
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == options.steps - 1:
            print(f"step {step:4d}  loss {loss.item():.3f}  dense {dense.item():.3f}")


if __name__ == "__main__":
    main()
