"""torchvision and timm without torch's compiler, whose import costs about as much as both."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

_UTILS = "torch._dynamo.utils"


@contextmanager
def without_compiler() -> Iterator[None]:
    """Lets torchvision and timm be imported without ``torch._dynamo``, sympy and triton.

    Both import the compiler for next to nothing: torchvision 0.30 for one function that RoI pooling
    asks, timm 1.0.31 to keep NaFlexViT's position embeddings out of compiled graphs. For a process
    that answers a question and ends it was 1.0 of the 2.9 seconds of ``import torch, timm``
    (benchmarks/imports.py). It can go when they no longer do. Whatever else is asked of the
    compiler imports it, as ever.
    """
    import torch

    if "torch._dynamo" in sys.modules:
        yield
        return
    disable = torch.compiler.disable
    sys.modules[_UTILS] = _Later(_UTILS)
    torch.compiler.disable = _unchanged
    try:
        yield
    finally:
        torch.compiler.disable = disable
        if isinstance(sys.modules.get(_UTILS), _Later):
            del sys.modules[_UTILS]


class _Later(ModuleType):
    """Stands in for the module of one function; asked for more, it makes way for the real one."""

    is_compile_supported: Callable[[str], bool] = staticmethod(
        lambda device: _real().is_compile_supported(device)
    )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(), name)


def _real() -> Any:
    if isinstance(sys.modules.get(_UTILS), _Later):
        del sys.modules[_UTILS]
    return import_module(_UTILS)


def _unchanged(fn: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """Returns the function it decorates; NaFlexViT's would be compiled, were that ever asked."""
    return _unchanged if fn is None else fn
