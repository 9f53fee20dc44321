"""Two differently transformed views of a frame, with the exact source coordinates of every view pixel."""

from laparoflow.lazy import lazily
from laparoflow.views.settings import GeometrySettings as GeometrySettings
from laparoflow.views.settings import PhotometricSettings as PhotometricSettings
from laparoflow.views.settings import ViewSettings as ViewSettings

__getattr__ = lazily(
    __name__,
    geometry="ViewTransform draw_transform",
    sampling="cell_grid sample_flow sample_image sample_mask",
    two_views="TwoViews View",
)
