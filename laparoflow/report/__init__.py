"""Pictures and the HTML page."""

from laparoflow.lazy import lazily

__getattr__ = lazily(__name__, html="write_report", view="view_video", predict="predict")
