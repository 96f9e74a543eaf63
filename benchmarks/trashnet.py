"""Trains and tests methods on a folder with train/, val/ and test/ through vitlora's own commands.

    python benchmarks/trashnet.py --data TRASHNET --weights VIT_TINY.safetensors \
        --methods lora qlora --seeds 0 1 2

Each run appends one JSON line to ``--output``; a run that is there already is not repeated. The
table at the end is made from that file alone.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VIT_TINY = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
MICRO = "vitlora/vit_micro_patch8_96"

METHODS: dict[str, list[str]] = {
    "lora": [],
    "qlora": ["--model.quantization", "nf4"],
    # the cache off: each epoch its own views, as the other methods have them
    "linear": ["--model.adapter", "LinearProbe", "--model.lr", "5e-3", "--trainer.cache", "off"],
    "full": ["--model.adapter", "FullFineTuning", "--model.lr", "2e-4"],
    "rslora": ["--model.adapter.variant", "rslora"],
    "dora": ["--model.adapter.variant", "dora"],
    "pissa": ["--model.adapter.variant", "pissa"],
    "olora": ["--model.adapter.variant", "olora"],
    "eva": ["--model.adapter.variant", "eva"],
    "attention": ["--model.adapter.targets", "[attention.qkv,attention.proj]"],
    "qv": ["--model.adapter.targets", "[attention.q,attention.v]"],
    "lora+": ["--model.adapter.lr_ratio", "4", "--model.lr", "1e-3"],
    "norms": ["--model.adapter.norms", "true"],
    "loftq": ["--model.adapter.variant", "loftq", "--model.quantization", "nf4"],
}


def main() -> None:
    """Runs what is missing and prints the table."""
    options = _parser().parse_args()
    output: Path = options.output
    for seed in options.seeds:
        for method in options.methods:
            key = {
                "method": method,
                "backbone": options.backbone,
                "weights": options.weights.name,
                "extra": options.extra,
                "seed": seed,
                "epochs": options.epochs,
            }
            if not any(key.items() <= row.items() for row in _rows(output)):
                row = key | _run(options, METHODS[method], seed)
                with output.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    print(_table(_rows(output)))


def _run(options: argparse.Namespace, words: list[str], seed: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        bundle = str(Path(folder) / "bundle")
        fit = [
            "fit",
            "--data.root",
            str(options.data),
            "--output",
            bundle,
            "--model.backbone",
            options.backbone,
            "--seed_everything",
            str(seed),
        ]
        if str(options.weights) != "shipped":
            fit += ["--model.weights", str(options.weights)]
        fit += ["--trainer.max_epochs", str(options.epochs), *words, *options.extra.split()]
        start = time.monotonic()
        log = _vitlora(fit)
        seconds = time.monotonic() - start
        numbers = json.loads(_vitlora(["test", "--checkpoint", bundle, "--json", "-"]))
        lines = [line for line in log.splitlines() if line.startswith(("epoch", "parameters"))]
        return {
            "epochs": options.epochs,
            "test_accuracy": numbers["accuracy"],
            "test_macro_f1": numbers["macro_f1"],
            "fit_seconds": round(seconds, 1),
            "bundle_bytes": sum(f.stat().st_size for f in Path(bundle).iterdir() if f.is_file()),
            "log": lines,
        }


def _vitlora(words: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "vitlora", *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def _rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| backbone, weights | method | seeds | accuracy | macro-F1 | fit, s | bundle, bytes |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for row in rows:
        key = (row["backbone"], row["weights"], row["method"], row["extra"], row["epochs"])
        groups.setdefault(key, []).append(row)
    for (backbone, weights, method, extra, epochs), runs in groups.items():
        cells = [_mean(runs, "test_accuracy"), _mean(runs, "test_macro_f1")]
        seconds = statistics.median(float(str(run["fit_seconds"])) for run in runs)
        name = f"{method}, {epochs} epochs {extra}".strip()
        lines.append(
            f"| {backbone}, {weights} | {name} | {len(runs)} | {' | '.join(cells)} | "
            f"{seconds:.0f} | {runs[0]['bundle_bytes']} |"
        )
    return "\n".join(lines)


def _mean(runs: list[dict[str, object]], key: str) -> str:
    values = [float(str(run[key])) for run in runs]
    spread = f" ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, val/, test/")
    parser.add_argument("--backbone", default=VIT_TINY)
    parser.add_argument("--weights", type=Path, required=True, help="a file, none, or shipped")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["lora"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--extra", default="", help="more options for fit, in one string")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/trashnet.jsonl"))
    return parser


if __name__ == "__main__":
    main()
