"""torchvision and timm without torch's compiler, whose import costs about as much as both."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

_UTILS = "torch._dynamo.utils"


@contextmanager
def without_compiler() -> Iterator[None]:
    """Lets torchvision and timm be imported without ``torch._dynamo``, sympy and triton.

    Both import the compiler but hardly use it: torchvision 0.30 for one function of RoI pooling,
    timm 1.0.31 to keep NaFlexViT's position embeddings out of compiled graphs. It took 1.0 of the
    2.9 seconds of ``import torch, timm`` (benchmarks/imports.py). Remove this once they no longer
    import it. Any other use of the compiler still imports it.
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
    """Stands in for the module, and loads the real one when it is used."""

    is_compile_supported: Callable[[str], bool] = staticmethod(
        lambda device: _real().is_compile_supported(device)
    )

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(), name)


def _real() -> ModuleType:
    if isinstance(sys.modules.get(_UTILS), _Later):
        del sys.modules[_UTILS]
    return import_module(_UTILS)


def _unchanged(fn: Callable[..., object] | None = None, *_: object, **__: object) -> object:
    """Takes the place of ``torch.compiler.disable``; returns the function as it is."""
    return _unchanged if fn is None else fn
