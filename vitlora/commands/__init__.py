"""The commands that stand on their own: each module has a ``main`` that takes the words typed."""
