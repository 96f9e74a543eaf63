"""Frozen blocks are computed once and kept for all epochs."""

from vitlora.training.cache.prefix_cache import PrefixCache, Where

__all__ = ["PrefixCache", "Where"]
