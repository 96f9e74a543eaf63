"""Fine-tune Vision Transformers on a folder of images with LoRA or NF4 QLoRA.

Every command is a function of the same name: ``vitlora fit --config demo.yaml`` is
``vitlora.fit("demo.yaml")``. Names are imported when they are used, so ``import vitlora`` does not
import torch. Messages besides a function's result go to the logger ``vitlora``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vitlora.bundle.checkpoint import Bundle, load_bundle
    from vitlora.cli.plan import plan
    from vitlora.cli.training import fit, test, validate
    from vitlora.commands.adopt import adopt
    from vitlora.commands.calibrate import calibrate
    from vitlora.commands.compare import compare
    from vitlora.commands.configs import configs
    from vitlora.commands.demo import demo
    from vitlora.commands.doctor import doctor
    from vitlora.commands.drift import drift
    from vitlora.commands.export import export
    from vitlora.commands.fetch import fetch
    from vitlora.commands.merge import merge
    from vitlora.commands.page import page
    from vitlora.commands.predict import predict
    from vitlora.commands.push import push
    from vitlora.commands.report import report
    from vitlora.commands.serve import serve
    from vitlora.commands.sort import sort
    from vitlora.commands.sweep import sweep
    from vitlora.errors import VitloraError
    from vitlora.metrics.prediction import Prediction
    from vitlora.prediction.pool import AdapterPool
    from vitlora.prediction.predictor import Predictor

_HOMES = {
    "AdapterPool": "prediction.pool",
    "Bundle": "bundle.checkpoint",
    "Prediction": "metrics.prediction",
    "Predictor": "prediction.predictor",
    "VitloraError": "errors",
    "adopt": "commands.adopt",
    "calibrate": "commands.calibrate",
    "compare": "commands.compare",
    "configs": "commands.configs",
    "demo": "commands.demo",
    "doctor": "commands.doctor",
    "drift": "commands.drift",
    "export": "commands.export",
    "fetch": "commands.fetch",
    "fit": "cli.training",
    "load_bundle": "bundle.checkpoint",
    "merge": "commands.merge",
    "page": "commands.page",
    "plan": "cli.plan",
    "predict": "commands.predict",
    "push": "commands.push",
    "report": "commands.report",
    "serve": "commands.serve",
    "sort": "commands.sort",
    "sweep": "commands.sweep",
    "test": "cli.training",
    "validate": "cli.training",
}

__all__ = [
    "AdapterPool",
    "Bundle",
    "Prediction",
    "Predictor",
    "VitloraError",
    "adopt",
    "calibrate",
    "compare",
    "configs",
    "demo",
    "doctor",
    "drift",
    "export",
    "fetch",
    "fit",
    "load_bundle",
    "merge",
    "page",
    "plan",
    "predict",
    "push",
    "report",
    "serve",
    "sort",
    "sweep",
    "test",
    "validate",
]


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vitlora' has no attribute '{name}'")
    value = getattr(import_module(f"vitlora.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
