"""Pretraining methods, one file each; :func:`laparoflow.methods.build.build_method` chooses by name."""
