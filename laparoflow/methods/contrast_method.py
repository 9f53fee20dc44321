"""What the methods that contrast pixels share: two views under a guide, a teacher, and positives in neighbouring frames.

    loss = L(first, second; guide) + neighbour_weight L(first, neighbour; place)

The second loss makes what is learned of one frame hold in others of the clip. Its positives are the pairs that lie within
a cell's diagonal of each other in the neighbour's coordinates.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from laparoflow.methods.base import Method, MethodOutput, NearView, PixelView, mean_output, place_guides
from laparoflow.methods.contrast import PixelContrast
from laparoflow.methods.settings import CoordinateSettings
from laparoflow.models.encoder import PixelEncoder


class ContrastMethod(Method):
    """A method whose loss is :class:`PixelContrast` of two views under some guide; see the module."""

    def __init__(self, encoder: PixelEncoder, settings: CoordinateSettings) -> None:
        super().__init__(encoder, settings.momentum)
        contrast = settings.contrast
        both = contrast.symmetric and self.teacher is None  # with a teacher each view is the query of a call of its own
        self.contrast = PixelContrast(contrast, settings.flow_kernel, settings.bandwidth, both)
        self.neighbours = contrast.neighbour_weight > 0
        within = replace(contrast, positives="inside", negatives="all", scope="frame", learn_temperature=False)
        self.near_contrast = PixelContrast(within, "tophat", 1.0, symmetric=True)

    def contrast_views(
        self, first: PixelView, second: PixelView, guides: list[Tensor], masks: list[Tensor],
        near: NearView | None = None, here: tuple[Tensor, Tensor] | None = None,
    ) -> MethodOutput:  # fmt: skip
        """Loss of two views with a guide [B, F, h, w] and a mask [B, h, w] each, and of ``near``, views of neighbours.

        ``here`` is where the first view's cells lie in the neighbours, [n, h, w, 2], and which of them count, [n, h, w];
        without it they stay where they are. With a teacher it encodes the keys, and each view is the query once.
        """
        queries = [self.encoder(first.image), self.encoder(second.image)]
        if self.teacher is None:
            output = self.contrast(queries[0], queries[1], *guides, *masks)
        else:
            output = self.contrast(queries[0], self.teach(second.image), *guides, *masks)
            if self.contrast.settings.symmetric:
                two = self.contrast(queries[1], self.teach(first.image), *guides[::-1], *masks[::-1])
                output = mean_output(output, two)
        if near is None:
            return output
        place, counted = here or (first.grid[near.row], first.inside[near.row])
        places = place_guides(place, near.grid)
        found = self.near_contrast(queries[0][near.row], self.encoder(near.image), *places, counted, near.inside)
        logs = output.logs | {"neighbour_loss": found.loss.detach(), "neighbour_valid": found.logs["valid"]}
        return MethodOutput(output.loss + self.contrast.settings.neighbour_weight * found.loss, logs)
