"""Scores for segmentation and key points."""
