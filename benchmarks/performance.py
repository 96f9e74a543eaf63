"""Writes the table of docs/performance.md from the raw output in benchmarks/results/.

    python benchmarks/performance.py

Of runs that were repeated the newest counts: the last line of its kind in the file.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- written by benchmarks/performance.py -->\n", "<!-- end -->"
NAMES = {"vit_tiny_patch16_224": "ViT-Tiny", "vit_base_patch16_224": "ViT-B/16"}

GOOD = 0.916  # the macro-F1 to reach
OURS, PEER = "vitlora", "transformers.Trainer + PEFT"

Row = tuple[str, str, str, str]  # what, measured, aim, file


def main() -> None:
    """Replaces what stands between the marks."""
    head, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    lines = ["| what | measured | aim | raw |", "|---|---|---|---|"]
    for make in (_step, _chips, _methods, _cache, _plan, _giant, _start, _predict, _load, _good):
        lines += [f"| {what} | {is_} | {aim} | `{raw}` |" for what, is_, aim, raw in make()]
    PAGE.write_text(head + BEGIN + "\n".join(lines) + "\n" + END + tail, "utf-8")
    print(f"written: {PAGE.relative_to(HERE.parent)}, {len(lines) - 2} rows")


def _rows(name: str) -> list[dict[str, Any]]:
    file = HERE / "results" / f"{name}.jsonl"
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def _newest(name: str, *keys: str) -> Iterator[dict[str, Any]]:
    """Yields the last row for each combination of the keys' values, in the order of the file."""
    kept: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in _rows(name):
        if all(key in row for key in keys):
            kept[tuple(str(row[key]) for key in keys)] = row
    yield from kept.values()


def _times(row: dict[str, Any], key: str = "ratio") -> str:
    return f"{row[key]:.2f} x ({row['min']:.2f} to {row['max']:.2f})"


def _step() -> Iterator[Row]:
    for row in _newest("step_peer", "model", "precision", "device"):
        what = (
            f"training step against `transformers.Trainer` + PEFT: {NAMES[row['model']]}, batch "
            f"{row['batch']}, {row['precision']}, {row['device']}"
        )
        yield what, _times(row), "1.15 x", "step_peer"


def _chips() -> Iterator[Row]:
    for row in _newest("step_chips", "model", "targets", "patch_drop", "chip"):
        chip = "AVX2 alone" if row["chip"] == "plain" else "the chip as it is"
        drop = f", patch_drop {row['patch_drop']}" if row["patch_drop"] else ""
        aim = "2.5 x" if row["patch_drop"] else "1.3 x"
        what = (
            f"the same, CPU time, {chip}, {row['precision']}: {NAMES[row['model']]}, batch "
            f"{row['batch']}, LoRA in {', '.join(row['targets'])}{drop}"
        )
        yield what, _times(row), aim, "step_chips"


def _methods() -> Iterator[Row]:
    for row in _newest("method_step", "method"):
        if row["method"] == "qlora":
            lora = {"ratio": 1 / row["times_lora"], "min": 1 / row["max"], "max": 1 / row["min"]}
            yield (
                "NF4 step's speed over bf16 LoRA's, ViT-Tiny",
                _times(lora),
                "0.8 x",
                "method_step",
            )


def _cache() -> Iterator[Row]:
    aims = {("epochs", "head"): "20 x", ("steps", "last 4 of 12"): "1.7 x"}
    for row in _newest("prefix_cache", "what", "case", "precision"):
        aim = aims.get((row["what"], row["case"]))
        if aim and row["precision"] == "bf16-mixed":
            what = "an epoch from the second on" if row["what"] == "epochs" else "a step"
            bound = f"; the FLOPs allow {row['bound']:.2f} x" if "bound" in row else ""
            trained = f"{what} behind the prefix cache, trained: {row['case']}"
            yield trained, _times(row, "times_faster") + bound, aim, "prefix_cache"


def _plan() -> Iterator[Row]:
    ratios = [
        row["ratio"]
        for row in _newest(
            "plan", "backbone", "method", "checkpointing", "batch", "precision", "device"
        )
    ]
    what = f"memory that `vitlora plan` predicts over the measured peak, {len(ratios)} runs"
    yield what, f"{min(ratios):.3f} to {max(ratios):.3f}", "0.9 to 1.1", "plan"


def _giant() -> Iterator[Row]:
    for row in _newest("giant", "backbone"):
        name = row["backbone"].removeprefix("timm/")
        fit, predict = (row[part]["peak_mib"] / 1024 for part in ("fit", "predict"))
        measured = f"{fit:.2f} GiB in training, {predict:.2f} GiB predicting"
        aim = {"vit_large": "1 GB", "vit_giant": "2 GB", "vit_7b": "6 GB"}
        goal = next((value for key, value in aim.items() if name.startswith(key)), "")
        yield f"peak RSS of QLoRA on the CPU, libraries included: `{name}`", measured, goal, "giant"


def _start() -> Iterator[Row]:
    for row in _newest("predicting", "part", "backbone", "seconds"):
        if row["part"] == "start":
            what = f"`predict.py` in a fresh process, {NAMES[row['backbone']]}, {row['seconds']}"
            plain, peft = row["ours_over_plain"][0], row["peft_over_ours"][0]
            measured = f"{plain:.2f} x the plain way's time; PEFT's way {peft:.2f} x ours"
            yield what, measured, "1.3 x; 2 x", "predicting"


def _predict() -> Iterator[Row]:
    for row in _newest("predicting", "part", "backbone", "batch"):
        if row["part"] == "precision":
            name, count = NAMES[row["backbone"]], row["batch"]
            what = f"predicting in bf16 over fp32, {name}, {count} picture{'s' * (count > 1)}"
            middle, least, most = row["speed-up of bf16"]
            yield what, f"{middle:.2f} x ({least:.2f} to {most:.2f})", "3 x", "predicting"
    for row in _newest("predicting", "part", "precision"):
        if row["part"] == "agreement":
            share = row["same_class"] / row["pictures"]
            what = f"same class as fp32, {row['precision']}, {row['pictures']:,} photos, ViT-Tiny"
            yield what, f"{share:.2%}", "99.5%", "predicting"
    for row in _newest("predicting", "part", "backbone", "precision"):
        if row["part"] == "folder":
            share = row["share_of_the_network"][0]
            name = NAMES[row["backbone"]]
            what = f"a folder of files over the bare network, {row['precision']}, {name}"
            yield what, f"{share:.2f} x", "0.9 x", "predicting"


def _load() -> Iterator[Row]:
    for row in _newest("loading", "photos"):
        what = f"training batches, photos {row['photos']} ({row['size'][0]} px on the short side)"
        v1, decode = row["over_torchvision"][0], row["share_of_decoding"][0]
        measured = f"{v1:.2f} x torchvision's v1 transforms, {decode:.2f} x decoding alone"
        yield what, measured, "1.5 x; 0.8 x", "loading"


def _good() -> Iterator[Row]:
    ways: dict[str, dict[tuple[Any, ...], dict[int, Any]]] = {OURS: {}, PEER: {}}
    for row in _newest("trainer_peer", "who", "epochs", "options", "seed"):
        runs = ways[row["who"]].setdefault((row["epochs"], row["options"]), {})
        runs[row["seed"]] = row
    seeds = {seed for runs in ways[PEER].values() for seed in runs}
    best: dict[str, list[Any]] = {}
    for who, each in ways.items():
        good = [
            [runs[seed] for seed in sorted(seeds)] for runs in each.values() if seeds <= {*runs}
        ]
        good = [runs for runs in good if runs and _mean(runs, "macro_f1") >= GOOD]
        if not good:
            return
        best[who] = min(good, key=lambda runs: _mean(runs, "seconds"))
    ours, theirs = best[OURS], best[PEER]
    ratios = sorted(a["seconds"] / b["seconds"] for a, b in zip(ours, theirs, strict=True))
    way = f"{ours[0]['epochs']} epochs {ours[0]['options']}".replace("--model.", "").strip()
    yield (
        f"time until the mean test macro-F1 of {len(ours)} seeds on TrashNet is {GOOD}, ViT-Tiny: "
        f"{way}, against {theirs[0]['epochs']} of `{PEER}`",
        f"{ratios[len(ratios) // 2]:.2f} x its time ({ratios[0]:.2f} to {ratios[-1]:.2f}); "
        f"macro-F1 {_mean(ours, 'macro_f1'):.3f}, {_mean(theirs, 'macro_f1'):.3f}",
        "0.5 x",
        "trainer_peer",
    )


def _mean(runs: list[Any], key: str) -> float:
    return sum(run[key] for run in runs) / len(runs)


if __name__ == "__main__":
    main()
