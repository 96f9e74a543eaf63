#!/usr/bin/env bash
# jsonargparse: a parser made of a function runs the imports that stand under "if TYPE_CHECKING".
#
# What the user does: keeps a slow or optional package out of the start of a command line, as Python's
#   documentation shows it: "from __future__ import annotations", and the import under
#   "if TYPE_CHECKING". A parser is made of one of the module's functions by add_function_arguments.
# Expected: nothing is imported: the annotations of the function are plain types, str and int.
# What happens: as soon as annotations are text, jsonargparse runs all imports of those blocks of the
#   module, whether the function needs them or not. One that fails is passed over in silence.
# Why it hurts: "--help" takes seconds where the package is torch; side effects of a package that
#   nobody asked for.
# How to avoid it: leave "from __future__ import annotations" out of modules with such functions
#   (Python 3.14 needs it no longer), or add the arguments one by one by their types.
# Upstream: none known.
# Seen: 2026-11-28, Python 3.11.
# Printed:
#   jsonargparse 4.53.0
#   annotations as they are: the heavy module is not imported
#   annotations as text: the heavy module is imported
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
python3 -m pip install --quiet 'jsonargparse[signatures]==4.53.0'
cd "$folder"
echo 'class Result: pass' > heavy.py
cat > plain.py <<'PYTHON'
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import heavy


def command(name: str, count: int = 3) -> None:
    """Does something."""
PYTHON
{ echo 'from __future__ import annotations'; cat plain.py; } > as_text.py
python3 - <<'PYTHON'
import subprocess
import sys

import jsonargparse

print("jsonargparse", jsonargparse.__version__)
CODE = """
import sys, jsonargparse, {module}
assert "heavy" not in sys.modules
parser = jsonargparse.ArgumentParser()
parser.add_function_arguments({module}.command)
assert parser.parse_args(["--name", "a"]).count == 3
print("heavy" in sys.modules)
"""
got = {}
for module in ("plain", "as_text"):
    code = CODE.format(module=module)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    got[module] = said.stdout.strip() == "True"
words = {False: "is not imported", True: "is imported"}
print("annotations as they are: the heavy module", words[got["plain"]])
print("annotations as text: the heavy module", words[got["as_text"]])
expected = {"plain": False, "as_text": True}
if got != expected:
    sys.exit(f"changed: expected {expected}, got {got}")
PYTHON
