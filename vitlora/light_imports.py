"""Imports of other libraries without what they import and vitlora does not use."""

import functools
import gc
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_UTILS = "torch._dynamo.utils"
_TRACING = "torch._dynamo._trace_wrapped_higher_order_op"
_RUNNING = RLock()


@contextmanager
def light_imports() -> Iterator[None]:
    """Lets Lightning, PEFT, torchvision and timm be imported without what takes most of the time.

    That is torch's compiler, and the parts of torchmetrics for text, sound and plots, which import
    scipy, transformers and matplotlib (benchmarks/fixed_costs.py). All of it is imported when it is
    used, and nothing is changed that is imported already. Python's garbage collection, which finds
    next to nothing in what was just imported, waits until the end.
    """
    finder, collects = _DeferringFinder(), gc.isenabled()
    sys.meta_path.insert(0, finder)
    gc.disable()
    try:
        with without_compiler():
            yield
    finally:
        sys.meta_path.remove(finder)
        finder.inside = False
        if collects:
            gc.enable()


@contextmanager
def without_compiler() -> Iterator[None]:
    """Lets libraries be imported without ``torch._dynamo``, sympy and triton.

    They import the compiler but hardly use it: torchvision 0.30 for one function of RoI pooling,
    timm 1.0.31 to keep NaFlexViT's position embeddings out of compiled graphs, Lightning 2.6.6 to
    recognise a compiled model, bitsandbytes 0.50.2 to compile functions that may never run,
    transformers 5.24 (by way of PEFT) to trace attention masks of language models. It took
    1.0 of the 2.9 seconds of ``import torch, timm`` (benchmarks/imports.py). Remove this once they
    no longer import it. Any other use of the compiler still imports it.
    """
    import torch

    compile, later = torch.compile, _CompiledLater(torch.compile)
    torch.compile = later
    try:
        if _COMPILER in sys.modules:
            yield
        else:
            with _compiler_stood_in_for():
                yield
    finally:
        later.inside = False
        if torch.compile is later:  # Lightning wraps it
            torch.compile = compile


@contextmanager
def _compiler_stood_in_for() -> Iterator[None]:
    import torch

    disable, finder = torch.compiler.disable, _CompilerFinder()
    sys.modules.update({_COMPILER: _Compiler(_COMPILER), _UTILS: _Utils(_UTILS)})
    sys.modules[_TRACING] = _Tracing(_TRACING)
    sys.meta_path.insert(0, finder)
    torch.compiler.disable = _unchanged
    try:
        yield
    finally:
        torch.compiler.disable = disable
        sys.meta_path.remove(finder)
        _make_way()


def _unchanged(fn: Callable[..., object] | None = None, *_: object, **__: object) -> object:
    """Takes the place of ``torch.compiler.disable``; returns the function as it is."""
    return _unchanged if fn is None else fn


class _Later(ModuleType):
    """Stands in for a module of the compiler, and loads the real one when it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


class _Utils(_Later):
    is_compile_supported: Callable[[str], bool] = staticmethod(
        lambda device: _real(_UTILS).is_compile_supported(device)
    )


class _Tracing(_Later):
    TransformGetItemToIndex: Callable[..., Any] = staticmethod(
        lambda *args: _real(_TRACING).TransformGetItemToIndex(*args)
    )


class _IsCompiled(type):
    def __instancecheck__(cls, instance: object) -> bool:
        real = sys.modules.get(_COMPILER)  # without it nothing is compiled
        return isinstance(real, ModuleType) and (
            not isinstance(real, _Later) and isinstance(instance, real.OptimizedModule)
        )


class _OptimizedModule(metaclass=_IsCompiled):
    """Stands in for the class of compiled modules in ``isinstance``."""


class _Compiler(_Later):
    __path__: MutableSequence[str] = []  # noqa: RUF012 - a package: see _CompilerFinder
    OptimizedModule = _OptimizedModule
    assume_constant_result = allow_in_graph = staticmethod(_unchanged)


def _real(name: str) -> ModuleType:
    _make_way()
    return import_module(name)


def _make_way() -> None:
    for name in (_COMPILER, _UTILS, _TRACING):
        if isinstance(sys.modules.get(name), _Later):
            del sys.modules[name]


class _CompilerFinder(MetaPathFinder, Loader):
    """Loads the real compiler when another module of it is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns how to find a module of the compiler that is loaded by now."""
        if not fullname.startswith(f"{_COMPILER}.") or not isinstance(
            sys.modules.get(_COMPILER), _Later
        ):
            return None
        self.found = _real(fullname)
        self.spec = self.found.__spec__
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Returns the module."""
        return self.found

    def exec_module(self, module: ModuleType) -> None:
        """Undoes the import system's changes to the module."""
        module.__spec__ = self.spec


class _CompiledLater:
    """``torch.compile``; while ``inside``, a function is compiled when it is first called."""

    def __init__(self, compile: Callable[..., Any]) -> None:
        functools.update_wrapper(self, compile)
        self._compile = compile
        self.inside = True

    def __call__(self, model: Callable[..., Any] | None = None, **options: Any) -> Any:
        if model is None:
            return functools.partial(self, **options)
        if not self.inside or not hasattr(model, "__code__"):
            return self._compile(model, **options)
        compiled: list[Callable[..., Any]] = []

        @functools.wraps(model)
        def first(*args: Any, **named: Any) -> Any:
            if not compiled:
                compiled.append(self._compile(model, **options))
            return compiled[0](*args, **named)

        return first


def _called_later(module: str, name: str) -> Callable[..., Any]:
    """Returns a function that calls a function of a deferred module."""

    def call(*args: Any, **named: Any) -> Any:
        home = sys.modules[module]
        if isinstance(home, _Deferred):
            home.run()
        return getattr(home, name)(*args, **named)

    return call


# Module -> name -> what other modules may take of it without running it. Their own files give the
# same; the types of plots are only annotations.
_DEFERRED: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "torchmetrics": {
        "_logger": lambda: logging.getLogger("torchmetrics"),
        # the utilities first, as torchmetrics does: they and the metric import each other
        "Metric": lambda: import_module("torchmetrics.utilities.checks").Metric,
        "MetricCollection": lambda: import_module("torchmetrics.collections").MetricCollection,
    },
    "torchmetrics.utilities.plot": {
        **dict.fromkeys(("_AX_TYPE", "_CMAP_TYPE", "_PLOT_OUT_TYPE"), lambda: object),
        **{
            name: functools.partial(_called_later, "torchmetrics.utilities.plot", name)
            for name in ("plot_confusion_matrix", "plot_curve", "plot_single_or_multi_val")
        },
    },
    "scipy.optimize": {  # for the losses of detectors in transformers, which PEFT imports
        "linear_sum_assignment": functools.partial(
            _called_later, "scipy.optimize", "linear_sum_assignment"
        )
    },
}


_ASKED = ("__all__", "__version__")  # by users; by libraries, too, while they are imported


class _DeferringFinder(MetaPathFinder, Loader):
    """Finds modules whose code is to run when it is needed."""

    inside = True

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns how to find the module, as Python does, but with another loader."""
        spec = PathFinder.find_spec(fullname, path) if fullname in _DEFERRED else None
        if spec is not None and spec.loader is not None:
            spec.loader_state, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Returns a module that runs later."""
        return _Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leaves the module as it is."""


class _Deferred(ModuleType):
    """A module whose code runs when something is asked of it that ``_DEFERRED`` does not have."""

    def __dir__(self) -> Sequence[str]:
        self.run()
        return dir(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and not (name in _ASKED and self._afterwards()):
            raise AttributeError(name)  # the import system and inspect ask for many
        known = _DEFERRED[self.__name__].get(name)
        if known is not None:
            with suppress(ImportError):  # another version may import in another order
                return known()
        self.run()
        return getattr(self, name)

    def _afterwards(self) -> bool:
        spec = self.__spec__
        return spec is not None and not getattr(spec.loader, "inside", True)

    def run(self) -> None:
        """Runs the module's code, once."""
        with _RUNNING:
            if type(self) is not _Deferred or self.__spec__ is None:
                return
            self.__class__ = ModuleType  # pyright: ignore[reportAttributeAccessIssue]
            try:
                self.__spec__.loader_state.exec_module(self)
            except BaseException:
                self.__class__ = _Deferred
                raise
            self.__loader__ = self.__spec__.loader = self.__spec__.loader_state
