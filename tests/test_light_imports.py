"""Tests of importing timm without torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    """Returns what fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_timm_comes_without_the_compiler_and_the_compiler_comes_when_it_is_asked():
    printed = run(
        "import sys, torch\n"
        "disable = torch.compiler.disable\n"
        "from vitlora.light_imports import without_compiler\n"
        "with without_compiler():\n"
        "    import timm\n"
        "    from torchvision.ops import roi_align\n"
        "loaded = [m for m in sys.modules if m.startswith(('torch._dynamo', 'sympy', 'triton'))]\n"
        "asked = sys.modules['torchvision.ops.roi_align'].is_compile_supported('cpu')\n"
        "from torch._dynamo.utils import is_compile_supported\n"
        "restored = torch.compiler.disable is disable\n"
        "print(loaded, restored, asked == is_compile_supported('cpu'))\n"
    )
    assert printed == "[] True True"


def test_asked_for_more_the_stand_in_makes_way():
    printed = run(
        "import torch\n"
        "from vitlora.light_imports import without_compiler\n"
        "with without_compiler():\n"
        "    from torch._dynamo.utils import is_compile_supported\n"
        "    asked = is_compile_supported('cpu')\n"
        "    from torch._dynamo.utils import counters\n"
        "import torch._dynamo.utils as real\n"
        "print(counters is real.counters, asked == real.is_compile_supported('cpu'))\n"
    )
    assert printed == "True True"


def test_what_is_loaded_already_is_left_alone():
    printed = run(
        "import sys, torch, torch._dynamo.utils as real\n"
        "from vitlora.light_imports import without_compiler\n"
        "disable = torch.compiler.disable\n"
        "with without_compiler():\n"
        "    print(sys.modules['torch._dynamo.utils'] is real, torch.compiler.disable is disable)\n"
    )
    assert printed == "True True"


LIGHTLY = "import sys\nfrom vitlora.light_imports import light_imports\nwith light_imports():\n"


def test_lightning_and_peft_come_without_what_they_do_not_use():
    printed = run(
        f"{LIGHTLY}    import lightning.pytorch, peft, timm\n"
        "heavy = ('torch._dynamo', 'torch._inductor', 'scipy.signal', 'scipy.optimize._optimize',"
        " 'matplotlib', 'torchmetrics.text', 'torchmetrics.functional')\n"
        "print([m for m in heavy if m in sys.modules and 'run' not in dir(sys.modules[m])])\n"
    )
    assert printed == "[]"


def test_everything_of_torchmetrics_is_there_when_asked_for():
    printed = run(
        f"{LIGHTLY}    import lightning.pytorch\n"
        "import torch, torchmetrics\n"
        "from torchmetrics import Accuracy, Metric, MetricCollection\n"
        "from torchmetrics.functional.classification import multiclass_accuracy\n"
        "metric = Accuracy(task='multiclass', num_classes=2)\n"
        "metric.update(torch.tensor([0, 1]), torch.tensor([0, 0]))\n"
        "figure, _ = metric.plot()\n"
        "from lightning.pytorch.core.module import Metric as lightnings\n"
        "print(float(metric.compute()), type(figure).__name__, lightnings is Metric,\n"
        "      isinstance(metric, lightnings), type(torchmetrics).__name__)\n"
    )
    assert printed == "0.5 Figure True True module"


def test_a_torchmetrics_that_imports_in_another_order_is_imported_whole():
    printed = run(
        "import sys, vitlora.light_imports as light\n"
        "del light._DEFERRED['torchmetrics']['_logger']\n"
        "with light.light_imports():\n"
        "    import lightning.pytorch\n"
        "import torchmetrics\n"
        "print(type(torchmetrics).__name__, torchmetrics.Accuracy.__name__)\n"
    )
    assert printed == "module Accuracy"


def test_assignments_of_scipy_are_solved_when_asked_for():
    printed = run(
        f"{LIGHTLY}    from scipy.optimize import linear_sum_assignment\n"
        "print(linear_sum_assignment([[2, 1], [1, 2]])[1].tolist())\n"
    )
    assert printed == "[1, 0]"


def test_a_function_that_is_to_be_compiled_is_compiled_when_it_is_called():
    printed = run(
        "import sys, torch\n"
        "from vitlora.light_imports import without_compiler\n"
        "original, asked = torch.compile, []\n"
        "def compile(model, **options):\n"
        "    asked.append(options)\n"
        "    return lambda x: (model(x), 'compiled')\n"
        "torch.compile = compile\n"
        "with without_compiler():\n"
        "    @torch.compile(dynamic=True)\n"
        "    def double(x):\n"
        "        return 2 * x\n"
        "print(len(asked), double(2), double(3), asked, torch.compile is compile)\n"
    )
    assert printed == "0 (4, 'compiled') (6, 'compiled') [{'dynamic': True}] True"


def test_a_compiled_model_is_recognised():
    printed = run(
        f"{LIGHTLY}    from lightning.fabric.wrappers import OptimizedModule\n"
        "import torch\n"
        "plain = torch.nn.Linear(1, 1)\n"
        "before = isinstance(plain, OptimizedModule)\n"
        "print(before, isinstance(torch.compile(plain), OptimizedModule),\n"
        "      isinstance(plain, OptimizedModule))\n"
    )
    assert printed == "False True False"


def test_a_module_of_the_compiler_that_has_no_stand_in_is_the_real_one():
    printed = run(
        "import sys, torch\n"
        "from vitlora.light_imports import without_compiler\n"
        "with without_compiler():\n"
        "    import torch._dynamo.exc as imported\n"
        "import torch._dynamo.exc as real\n"
        "print(imported is real, real.__spec__.name, torch._dynamo.exc is real)\n"
    )
    assert printed == "True torch._dynamo.exc True"


def test_garbage_is_collected_again_afterwards():
    assert run(f"import gc\n{LIGHTLY}    print(gc.isenabled())\nprint(gc.isenabled())") == (
        "False\nTrue"
    )


@pytest.mark.parametrize(
    "asked",
    [
        "import torchmetrics as t; print(t.__version__[:2], 'Accuracy' in t.__all__)",
        "from torchmetrics import *; print('1.', isinstance(Accuracy, type))",
        "import torchmetrics; print('1.', 'Accuracy' in dir(torchmetrics))",
    ],
)
def test_users_find_all_of_a_module_that_waited(asked: str):
    assert run(f"{LIGHTLY}    import lightning.pytorch\n{asked}") == "1. True"
