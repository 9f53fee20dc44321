"""RAFT flow (Teed and Deng, ECCV 2020) by torchvision, with weights from a local file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from torchvision.models.optical_flow import RAFT, raft_large, raft_small

from laparoflow.video.flow import FlowPair, Image

SMALLEST = 128  # RAFT's correlation pyramid needs frames of at least this many pixels each way


def load_raft(weights: Path) -> RAFT:
    """raft_large or raft_small, whichever the state dict fits; a ValueError where it fits neither or cannot be read."""
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"flow_weights {weights} does not exist") from None
    except Exception as error:  # torch.load raises many kinds for a file that is no checkpoint
        raise ValueError(f"flow_weights {weights} cannot be read as a state dict: {error}") from error
    for build in (raft_large, raft_small):
        model = build(weights=None)
        if isinstance(state, dict) and set(state) == set(model.state_dict()):
            model.load_state_dict(state)
            return model.eval()
    raise ValueError(f"flow_weights {weights} is a state dict of neither torchvision's raft_large nor raft_small")


class RAFTFlow:
    """RAFT both ways in one batch, on a GPU where there is one, with a file of weights and a number of refinements."""

    def __init__(self, weights: Path | str, updates: int = 12) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_raft(Path(weights)).to(self.device)
        self.updates = updates

    @torch.inference_mode()
    def __call__(self, source: Image, target: Image, frame: int = 0) -> FlowPair:
        """Flow both ways between uint8 [H, W, 3] frames."""
        height, width = source.shape[:2]
        pair = torch.from_numpy(np.stack([source, target])).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        more_y = max(-(-height // 8) * 8, SMALLEST) - height
        more_x = max(-(-width // 8) * 8, SMALLEST) - width
        pair = functional.pad(pair, [0, more_x, 0, more_y], mode="replicate")
        flow = self.model(pair, pair.flip(0), num_flow_updates=self.updates)[-1][..., :height, :width]
        forward, backward = flow.float().cpu().numpy()
        return FlowPair(np.ascontiguousarray(forward), np.ascontiguousarray(backward))
