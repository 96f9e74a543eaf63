"""The ``compare`` command: methods on the same folder and seeds -> one table, one sentence.

Each run is ``vitlora fit`` and ``vitlora test`` as a user would type them, each in a process of its
own. This one stays light: it imports no torch, whose memory Linux would count as theirs, too.
"""

import hashlib
import json
import textwrap
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from vitlora import __version__
from vitlora.command_line import CommandParser
from vitlora.data.folder import Folder, read_folder
from vitlora.data.groups import groups_of
from vitlora.errors import DataError, UsageError, nearest
from vitlora.files import write_json, write_whole
from vitlora.studies.comparison import (
    Failure,
    Row,
    Run,
    advise,
    compare,
    needed,
    points,
    tells_apart,
)
from vitlora.studies.methods import METHODS, SET_BY_METHOD
from vitlora.studies.study import SETUP, Study, last_words, run_vitlora
from vitlora.studies.table import clock, to_markdown

_TAIL = 8  # lines of a failed run's log to show

_EPILOG = """examples:
  vitlora compare --config demo.yaml --methods linear,lora,qlora
  vitlora compare --config waste5.yaml --data.root photos --seeds 0,1,2
  vitlora compare --config waste5.yaml --methods lora,dora --trainer.max_epochs 3

Learning rates: the configuration's is for the adapter it names; linear gets
2.5 times that of LoRA, lora+ half, full a tenth. --model.lr gives all the same.

Interrupted with Ctrl-C, the same command goes on where it stopped."""


def main(args: Sequence[str] | None = None) -> int:
    """Compares methods; returns 1 if any run failed, 130 if it was stopped.

    Raises:
        UsageError: An option is wrong, or the output folder holds something else.
        DataError: The pictures' folder cannot be used.
    """
    options, overrides = _parser().parse_known_args(args)
    methods, seeds = _methods(options.methods), _seeds(options.seeds)
    if not 0 <= options.margin < 1:
        raise UsageError(f"--margin is {options.margin}; expected 0 <= margin < 1, 0.02 say")
    _check_overrides(options.config, overrides)
    name = Path(options.config[-1]).stem if options.config else "run"
    folder = Path(options.output or Path("comparisons") / name)
    _check_ours(folder)
    base = _resolved(options.config, overrides)
    split, pictures, digest = _pictures(base["data"])
    same_rate = any(word.partition("=")[0] == "--model.lr" for word in overrides)
    study = Study(folder, base, split, same_rate)
    study.take({"vitlora": __version__, "pictures": digest, "same_lr": same_rate, "config": base})
    print(
        f"comparing {', '.join(methods)} on {base['data']['root']}: {pictures} {split} pictures; "
        f"bundles and logs go to {folder}",
        flush=True,
    )
    if len(methods) > 1:
        print(_can_tell(pictures, split, len(methods), len(seeds), options.margin), flush=True)
    todo = [(method, seed) for seed, method in product(seeds, methods)]
    done: list[Run | Failure] = []
    try:
        for number, (method, seed) in enumerate(todo, 1):
            done.append(_run(study, method, seed, f"{number}/{len(todo)}"))
    except KeyboardInterrupt:
        print(f"\nstopped: {len(done)} of {len(todo)} runs are kept; the same command goes on")
        return 130
    runs = sorted((r for r in done if isinstance(r, Run)), key=lambda r: methods.index(r.method))
    failures = [r for r in done if isinstance(r, Failure)]
    _finish(study, compare(runs), failures, options.margin)
    return 1 if failures else 0


def _parser() -> CommandParser:
    known = "\n".join(f"  {name:<8}{method.says}" for name, method in METHODS.items())
    text = (
        "Trains each method on the same pictures and seeds with the same configuration, scores it "
        "on the test pictures (on the validation pictures where there are none), and writes one "
        "table: accuracy, macro-F1, time, memory, size. Each run has a process of its own."
    )
    parser = CommandParser(
        prog="vitlora compare",
        usage="vitlora compare --config FILE [--methods A,B,...] [--seeds 0,1,...] [--output DIR]\n"
        f"{'':23}[any --data., --model. or --trainer. option of fit]",
        description=f"{textwrap.fill(text, 79)}\n\nmethods:\n{known}",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--config", "-c", action="append", default=[], metavar="FILE", help="as for fit")
    add(
        "--methods",
        default="linear,lora,qlora,full",
        metavar="A,B,...",
        help="methods to compare (default: %(default)s)",
    )
    add(
        "--seeds",
        default="0",
        metavar="0,1,...",
        help="train each method once with each of these seeds (default: 0)",
    )
    add(
        "--margin",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="accuracy a cheaper method may cost and still be advised (default: 0.02)",
    )
    add(
        "--output",
        metavar="DIR",
        help="folder for table, chart, bundles and logs (default: comparisons/<config name>)",
    )
    return parser


def _listed(option: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{option} is '{text}'; expected names with commas between, as in a,b")
    for word in words:
        if words.count(word) > 1:
            raise UsageError(f"{option} has '{word}' twice; name it once")
    return words


def _methods(text: str) -> list[str]:
    methods = _listed("--methods", text)
    for name in methods:
        if name not in METHODS:
            raise UsageError(
                f"--methods has '{name}'; expected some of {', '.join(METHODS)}"
                f"{nearest(name, METHODS)}"
            )
    return methods


def _seeds(text: str) -> list[int]:
    words = _listed("--seeds", text)
    for word in words:
        if not (word.isascii() and word.isdigit() and int(word) < 2**32):
            raise UsageError(f"--seeds has '{word}'; expected whole numbers from 0 to 4294967295")
    return [int(word) for word in dict.fromkeys(words)]


def _check_overrides(configs: Sequence[str], overrides: Sequence[str]) -> None:
    names = [word.partition("=")[0] for word in overrides]
    if overrides and not overrides[0].startswith("-"):
        raise UsageError(f"'{overrides[0]}' stands alone; a configuration is --config FILE")
    if not configs and "--data.root" not in names:
        raise UsageError(
            "compare needs --config FILE or --data.root FOLDER; 'vitlora configs' lists configs"
        )
    for name in names:
        if name in SET_BY_METHOD:
            raise UsageError(f"{name} is what the methods differ in; leave it out: see --methods")
        if name == "--seed_everything":
            raise UsageError("--seed_everything is set for each run; pass --seeds 0,1,...")
        if name.startswith("--print_config") or name in ("--checkpoint", "--json"):
            raise UsageError(f"compare does not accept {name}; 'vitlora compare --help' lists all")


def _resolved(configs: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns the whole configuration as ``fit`` reads it, which finds misspelt keys."""
    words = [word for name in configs for word in ("--config", name)]
    done = run_vitlora(["fit", *words, *overrides, "--print_config"], capture_output=True)
    if done.returncode:
        raise UsageError(last_words(done.stderr))
    config = yaml.safe_load(done.stdout)
    for name in ("output", "checkpoint", "json", "seed_everything"):
        config.pop(name, None)
    return config


def _pictures(data: dict[str, Any]) -> tuple[str, int, str]:
    """Returns the split to score, how many pictures it has, and a digest of all the pictures.

    Raises:
        DataError: There is nothing to train on, or nothing to choose the epoch by.
    """
    found = read_folder(data["root"], data["classes"])
    if data.get("resplit") or "all" in found.splits:  # as FolderData does
        pool = found.pooled()
        groups = groups_of(pool, data["groups"]) if data.get("groups") else None
        shares = data["val_fraction"], data["test_fraction"], data["split_seed"]
        found = pool.split(*shares, groups, data.get("folds"), data.get("fold") or 0)
    for split in ("train", "val"):
        if split not in found.splits:
            raise DataError(f"{found.root} has no {split} split; compare trains, so it needs one")
    split = "test" if "test" in found.splits else "val"
    return split, len(found.splits[split]), _digest(found)


def _digest(folder: Folder) -> str:
    """Returns a SHA-256 over the names and sizes of the pictures of each split."""
    known = sorted(
        (part, sample.path.relative_to(folder.root).as_posix(), sample.path.stat().st_size)
        for part, samples in folder.splits.items()
        for sample in samples
    )
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _check_ours(folder: Path) -> None:
    """Refuses a folder that holds anything but a comparison."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output '{folder}' is a file; expected a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SETUP).is_file():
        raise UsageError(
            f"output '{folder}' holds something that is no comparison; choose another --output"
        )


def _run(study: Study, method: str, seed: int, number: str) -> Run | Failure:
    """Runs a method with a seed unless that was done before; a line at its start and its end."""
    label = f"{number}  {method}, seed {seed}:"
    if known := study.finished(method, seed):
        print(f"{label} {_said(known)}, from before", flush=True)
        return known
    print(f"{label} training ...", flush=True)
    result = study.run(method, seed)
    if isinstance(result, Run):
        print(f"{label} {_said(result)}, trained in {clock(result.seconds)}", flush=True)
        return result
    log = study.path(method, seed, ".log")
    tail = log.read_text("utf-8", "replace").strip().splitlines()[-_TAIL:]
    print(f"{label} failed: {result.error}\n{textwrap.indent(chr(10).join(tail), '    ')}")
    print(f"    the whole log: {log}", flush=True)
    return result


def _said(run: Run) -> str:
    right = sum(a == b for a, b in zip(run.labels, run.answers, strict=True))
    return f"accuracy {right / len(run.labels):.4f}"


def _can_tell(pictures: int, split: str, methods: int, seeds: int, margin: float) -> str:
    """Returns what so many pictures can show, whatever the runs will say."""
    apart = 100 * tells_apart(pictures, methods)
    said = (
        f"{pictures:,} {split} pictures: differences below about "
        f"{apart:.{0 if apart >= 1.5 else 1}f} points cannot be told apart"
    )
    if not margin:
        return said
    within = f"that a cheaper method is within {points(margin)} of the best"
    count = needed(margin, methods) or 0
    said += (
        f"; showing {within} takes about {count:,} pictures"
        if count > pictures
        else f"; they usually show {within}, where the two are equally good"
    )
    spread = ", and the spread of the seeds comes on top" if seeds > 1 else ""
    return f"{said} (if two methods disagree on one picture in ten{spread})"


def _finish(study: Study, rows: Sequence[Row], failures: Sequence[Failure], margin: float) -> None:
    """Prints the table, its notes and the advice, and writes them with the chart."""
    table, advice = to_markdown(rows, failures), advise(rows, study.split, margin)
    notes = _notes(study, rows, failures)
    print(f"\n{table}\n\n{notes}\n\n{advice}\n")
    title = f"{Path(study.base['data']['root']).name}, {study.base['model']['backbone']}"
    page = f"# {title}\n\n{table}\n\n{notes}\n\n**{advice}**\n"
    if rows:
        from vitlora.studies.chart import chart

        page += "\n![accuracy against cost](comparison.png)\n"
        write_whole(study.folder / "comparison.png", chart(rows, title))
    fields = {
        "split": study.split,
        "rows": [row.to_json() for row in rows],
        "failures": [vars(failure) for failure in failures],
        "margin": margin,
        "advice": advice,
        "config": study.base,
    }
    write_json(fields, str(study.folder / "comparison.json"))
    write_whole(study.folder / "comparison.md", page)
    print(f"written to {study.folder}: comparison.md, comparison.json, comparison.png")
    if rows:
        print(f"predict  vitlora predict --checkpoint {study.folder / 'METHOD-SEED'} IMAGE.jpg")


def _notes(study: Study, rows: Sequence[Row], failures: Sequence[Failure]) -> str:
    model, trainer = study.base["model"], study.base["trainer"]
    runs = [run for row in rows for run in row.runs]
    where = " / ".join(sorted({f"{run.device}, {run.precision}" for run in runs}))
    lines = [
        f"{model['backbone']}, {trainer['max_epochs']} epochs, batch size "
        f"{study.base['data']['batch_size']}, checkpointing {str(model['checkpointing']).lower()}"
        f"{f', on {where}' if runs else ''}.",
        "p: chance of a difference to the best this large, on the same pictures, if both were "
        "equally good. behind best: on other such pictures.",
    ]
    if all(len(row.runs) == 1 for row in rows):
        lines.append(
            "One seed: the intervals are about these trained networks; another seed can move a "
            "method by a point or two; try --seeds 0,1,2."
        )
    if study.split == "val":
        lines.append(
            "There is no test split: these are the validation pictures, by which each run chose "
            "its epoch, so all numbers flatter."
        )
    if known := max((run.seen_in_training or 0 for run in runs), default=0):
        lines.append(
            f"{known:,} of the {len(runs[0].labels):,} pictures scored are, byte for byte, "
            "training pictures: what is measured on them flatters; 'vitlora doctor' shows them."
        )
    lines += [f"{f.method}, seed {f.seed} failed: {f.error}" for f in failures]
    return "\n".join(f"- {line}" for line in lines)
