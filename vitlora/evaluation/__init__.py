"""Scores, confidence and reports of a trained network."""
