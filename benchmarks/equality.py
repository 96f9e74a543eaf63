"""Writes how far network, formula, merge and plain PEFT are apart: family x method x quantization.

    python benchmarks/equality.py

Each family of backbones is a miniature of two blocks in fp32 with noise in every weight. Numbers
are relative differences of logits: ``oracle`` against the papers' formulas in float64, ``merge`` of
the bundle read back and merged into a fresh base, ``peft`` of ``PeftModel.from_pretrained``.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from agreement import ARGUMENTS, METHODS, differences  # pyright: ignore[reportMissingImports]

from vitlora.errors import AdapterError, UsageError
from vitlora.quantization import Storage

KINDS = ("oracle", "merge", "peft")


def main() -> None:
    """Measures everything, writes a JSON line for each, prints the largest of each method."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/equality.jsonl"))
    output: Path = parser.parse_args().output
    rows = [
        _measure(family, method, quantization)
        for family in ARGUMENTS
        for method in METHODS
        for quantization in ("none", "nf4", "fp4")
    ]
    new = output.with_name(f".{output.name}.new")
    new.write_text("".join(json.dumps(row) + "\n" for row in rows))
    new.replace(output)
    print("| method | base | families | refused | oracle | merge | PEFT |")
    print("|---|---|---|---|---|---|---|")
    for method in METHODS:
        for quantization in ("none", "nf4", "fp4"):
            group = [r for r in rows if (r["method"], r["base"]) == (method, quantization)]
            done = [r for r in group if "oracle" in r]
            worst = [f"{max(r[kind] for r in done):.1e}" if done else "-" for kind in KINDS]
            cells = [method, quantization, len(done), len(group) - len(done), *worst]
            print(f"| {' | '.join(map(str, cells))} |")


def _measure(family: str, method: str, quantization: str) -> dict[str, Any]:
    row: dict[str, Any] = {"family": family, "method": method, "base": quantization}
    with tempfile.TemporaryDirectory() as folder:
        try:
            storage = Storage(quantization)  # pyright: ignore[reportArgumentType]
            found = differences(family, method, storage, Path(folder) / "bundle")
        except (AdapterError, UsageError) as error:
            return row | {"refused": str(error)}
    return row | {name: float(f"{value:.3g}") for name, value in found.items()}


if __name__ == "__main__":
    main()
