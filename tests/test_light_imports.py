"""Tests of importing timm without torch's compiler."""

from __future__ import annotations

import subprocess
import sys


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
