"""The features of a frozen DINO-style vision transformer, fine-tuned: its last block and a head learn.

Run:    python examples/finetune_vit.py --steps 100 [--model vit_small_patch14_reg4_dinov2 --weights FILE.safetensors]
Needs:  torch, timm; without --weights the transformer starts at random (nothing is downloaded)
Changed against a loop over patch tokens with a dense loss: the 3 lines marked with "# <--". Class and register tokens may
stay in the sequence: skip_tokens leaves them out.
"""

import argparse

import timm
import torch
from torch import nn
from torch.utils.data import DataLoader
from toy_video import MovingDisc

from laparoflow_kernels import FlowInfoNCELoss  # <--


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--model", default="vit_dwee_patch16_reg1_gap_256")
    parser.add_argument("--weights", default=None, help="a local file for timm's checkpoint_path")
    parser.add_argument("--cells", type=int, default=8, help="patches along a view's side")
    parser.add_argument("--blocks", type=int, default=1, help="how many of the last blocks learn")
    options = parser.parse_args()

    torch.manual_seed(0)
    patch = timm.create_model(options.model, pretrained=False).patch_embed.patch_size[0]
    view = patch * options.cells
    vit = timm.create_model(
        options.model, pretrained=False, num_classes=0, img_size=view, checkpoint_path=options.weights or ""
    ).eval()
    vit.requires_grad_(False)
    learning = [*vit.blocks[-options.blocks :], vit.norm]
    for block in learning:
        block.requires_grad_(True)
    head = nn.Sequential(nn.Linear(vit.num_features, 128), nn.GELU(), nn.Linear(128, 64))

    criterion = FlowInfoNCELoss(bandwidth="auto", positives="inside", skip_tokens=vit.num_prefix_tokens)  # <--
    parameters = [p for module in (*learning, head) for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-4)
    frames = MovingDisc(options.steps * options.batch, view, options.cells)

    for step, batch in enumerate(DataLoader(frames, batch_size=options.batch)):
        query, key = (head(vit.forward_features(batch[name])) for name in ("image_1", "image_2"))  # [B, prefix + N, 64]
        loss = criterion(query, key, batch["flow_1"], batch["flow_2"])  # flows stay maps [B, 2, cells, cells]  # <--
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == options.steps - 1:
            print(f"step {step:4d}  loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
