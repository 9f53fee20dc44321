"""Two differently transformed views of a frame, with the exact source coordinates of every view pixel."""

from laparoflow.lazy import lazily
from laparoflow.views.settings import GeometrySettings, PhotometricSettings, ViewSettings

__all__ = [
    "GeometrySettings", "PhotometricSettings", "TwoViews", "View", "ViewSettings", "ViewTransform", "cell_grid",
    "draw_transform", "sample_flow", "sample_image", "sample_mask",
]  # fmt: skip

__getattr__ = lazily(
    __name__,
    geometry="ViewTransform draw_transform",
    sampling="cell_grid sample_flow sample_image sample_mask",
    two_views="TwoViews View",
)
