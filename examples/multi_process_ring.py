"""Several processes under DistributedDataParallel, negatives from the frames of all of them, in a ring.

Run:    torchrun --nproc-per-node 2 examples/multi_process_ring.py --steps 100
Needs:  torch; NCCL on GPUs, gloo on CPUs
Changed against a DDP loop with a dense pixel loss: the 3 lines marked with "# <--". A process never holds more than its own
keys and one other process's; over_processes="gathered" holds all, with less to compute and to send.
"""

import argparse
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from toy_video import MovingDisc, small_network

from laparoflow_kernels import FlowInfoNCELoss  # <--


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8, help="frames per process")
    parser.add_argument("--over-processes", choices=("ring", "gathered"), default="ring")
    options = parser.parse_args()

    on_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)

    torch.manual_seed(0)
    network = DistributedDataParallel(small_network().to(device))
    criterion = FlowInfoNCELoss(bandwidth="auto", scope="batch", over_processes=options.over_processes)  # <--
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    frames = MovingDisc(options.steps * options.batch * dist.get_world_size())
    loader = DataLoader(frames, batch_size=options.batch, sampler=DistributedSampler(frames))

    for step, batch in enumerate(loader):
        batch = {name: value.to(device) for name, value in batch.items()}
        # one forward for both views: DDP expects one forward before each backward
        query, key = network(torch.cat([batch["image_1"], batch["image_2"]])).chunk(2)
        loss = criterion(query, key, batch["flow_1"], batch["flow_2"])  # the joint batch's loss, on every process  # <--
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if dist.get_rank() == 0 and (step % 20 == 0 or step == options.steps - 1):
            print(f"step {step:4d}  loss {loss.item():.3f}  over {dist.get_world_size()} processes", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
