"""Labelled data sets for probes: readers, splits and label budgets."""

from laparoflow.lazy import lazily

__getattr__ = lazily(__name__, registry="build_dataset")
