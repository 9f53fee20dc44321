"""Pretraining: data, LightningModule, trainer. ``from laparoflow.training.run import pretrain``."""
