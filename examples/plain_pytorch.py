"""A plain PyTorch loop.

Run:    python examples/plain_pytorch.py --steps 200
Needs:  torch
Changed against a loop with a dense pixel loss: the 4 lines marked with "# <--".
"""

import argparse

import torch
from torch.utils.data import DataLoader
from toy_video import MovingDisc, small_network

from laparoflow_kernels import FlowInfoNCELoss  # <--


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()

    torch.manual_seed(0)
    network = small_network()
    criterion = FlowInfoNCELoss(temperature=0.1, bandwidth="auto", symmetric=True, return_stats=True)  # <--
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    loader = DataLoader(MovingDisc(options.steps * options.batch), batch_size=options.batch)

    for step, batch in enumerate(loader):
        query, key = network(batch["image_1"]), network(batch["image_2"])
        loss, stats = criterion(query, key, batch["flow_1"], batch["flow_2"])  # <--
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == options.steps - 1:
            # the loss cannot fall below the entropy of the weights; what lies above it is left to learn
            excess = stats.rows.excess[stats.rows.valid].mean()  # <--
            print(f"step {step:4d}  loss {loss.item():.3f}  above the weights' entropy {excess.item():.3f}")


if __name__ == "__main__":
    main()
