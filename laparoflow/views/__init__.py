"""Two differently transformed views of a frame, with the exact source coordinates of every view pixel."""

from laparoflow.views.geometry import GeometrySettings, ViewTransform, draw_transform
from laparoflow.views.photometric import PhotometricSettings, photometric
from laparoflow.views.sampling import cell_grid, sample_flow, sample_image, sample_mask
from laparoflow.views.two_views import TwoViews, View, ViewSettings, step_generator

__all__ = [
    "GeometrySettings",
    "PhotometricSettings",
    "TwoViews",
    "View",
    "ViewSettings",
    "ViewTransform",
    "cell_grid",
    "draw_transform",
    "photometric",
    "sample_flow",
    "sample_image",
    "sample_mask",
    "step_generator",
]
