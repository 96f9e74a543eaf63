"""Computes the frozen blocks once and caches their outputs for all epochs."""

from vitlora.training.cache.prefix_cache import PrefixCache, Where

__all__ = ["PrefixCache", "Where"]
