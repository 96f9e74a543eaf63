"""Writes a trained network for other runtimes, and proves that it answers the same."""
