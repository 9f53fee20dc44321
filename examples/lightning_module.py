"""A LightningModule.

Run:    python examples/lightning_module.py --steps 200
Needs:  torch, lightning
Changed against a module with a dense pixel loss: the 3 lines marked with "# <--".
"""

import argparse

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from toy_video import MovingDisc, small_network

from laparoflow_kernels import FlowInfoNCELoss  # <--


class PixelContrast(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = small_network()
        self.criterion = FlowInfoNCELoss(temperature=0.1, bandwidth="auto", positives="inside")  # <--

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        query, key = self.network(batch["image_1"]), self.network(batch["image_2"])
        loss = self.criterion(query, key, batch["flow_1"], batch["flow_2"])  # <--
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()

    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        max_steps=options.steps, logger=False, enable_checkpointing=False, enable_model_summary=False, num_sanity_val_steps=0
    )
    trainer.fit(PixelContrast(), DataLoader(MovingDisc(options.steps * options.batch), batch_size=options.batch))
    print(f"step {trainer.global_step:4d}  loss {trainer.callback_metrics['loss'].item():.3f}")


if __name__ == "__main__":
    main()
