"""Opens damaged bundles, configs, tables and pictures: each is read, or refused in one line.

    python benchmarks/fuzz.py [--cases 20000] [--seed 0] [--kinds bundle,config,table,picture]

A case is a good file in which a value was replaced, a key renamed, an item dropped or doubled, or
bytes cut, flipped or spliced. It passes if it is read or raises a ``VitloraError`` of one line,
takes less than 10 seconds, imports nothing that a stranger named (but in a config, which is the
user's own), and leaves all files around it as they were. A case is known by its kind and its
number: ``--kinds KIND --seed NUMBER --cases 1`` plays it again. Prints how many of each kind were
read and refused, and appends that to benchmarks/results/fuzz.jsonl.
"""

import argparse
import csv
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from hostile import BROKEN, KINDS, encoded

from vitlora.errors import VitloraError

RESULTS = Path(__file__).parent / "results" / "fuzz.jsonl"
SECONDS = 10  # for a case
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        3,
        2**70,
        -1e308,
        float("nan"),
        float("inf"),
        0.5,
        "",
        "a",
        "\0",
        "\x1b[2J",
    ),
    *("../../etc/passwd", "x" * 10_000, "evil.Evil", "1e-3", "é" * 300, [], {}, [[]], ["a", "a"]),
    *({"class_path": "evil.Evil"}, [None] * 1000, {"": ""}),
)


def main() -> None:
    """Plays the cases of all kinds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=20_000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--kinds", default=",".join(MAKERS))
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    for kind in kinds:
        with tempfile.TemporaryDirectory() as home:
            start = time.monotonic()
            numbers = range(options.seed, options.seed + -(-options.cases // len(kinds)))
            row = {"kind": kind, "first": options.seed, "cases": len(numbers)}
            row |= dict(play(kind, numbers, Path(home)))
            row["seconds"] = round(time.monotonic() - start)
        print(json.dumps(row), flush=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def play(kind: str, numbers: range, home: Path) -> Counter[str]:
    """Returns how many cases of a kind were read and refused.

    Args:
        kind: One of ``MAKERS``.
        numbers: Those of the cases.
        home: An empty folder, which is the working folder meanwhile.

    Raises:
        RuntimeError: A case does neither; the message names it.
    """
    before = Path.cwd()
    os.chdir(home)
    sys.path.insert(0, str(home))
    Path("precious.txt").write_text("precious")
    if kind != "config":
        Path("evil.py").write_text("open('ran', 'w').close()\nclass Evil: pass\n")
    try:
        make = MAKERS[kind](home)
        known = _around(home)
        seen = Counter[str]()
        for number in numbers:
            seen[_outcome(make, number, kind)] += 1
            if (home / "ran").exists() or _around(home) != known:
                raise RuntimeError(f"{kind} {number}: files were written, or code was run")
        return seen
    finally:
        sys.path.remove(str(home))
        os.chdir(before)


def _outcome(make: Callable[[random.Random], Callable[[], object]], number: int, kind: str) -> str:
    read = make(random.Random(f"{kind} {number}"))
    said = io.StringIO()
    try:
        with _in_time(), redirect_stdout(said), redirect_stderr(said):
            read()
    except VitloraError as error:
        if "\n" in str(error).strip() and "\n  " not in str(error):
            raise RuntimeError(f"{kind} {number}: more than a line: {error}") from None
        return "refused"
    except OSError as error:
        if error.filename is None or isinstance(error, TimeoutError):
            raise RuntimeError(f"{kind} {number}: {error}") from error
        return "refused"  # as the command line says it: a name too long, no permission
    except BaseException as error:
        raise RuntimeError(f"{kind} {number}: {type(error).__name__}: {error}") from error
    return "read"


@contextmanager
def _in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _around(home: Path) -> dict[str, bytes]:
    """Returns the files around the cases, which are called ``case`` themselves."""
    names = (path for path in home.iterdir() if path.stem not in ("case", "__pycache__"))
    return {path.name: path.read_bytes() if path.is_file() else b"" for path in names}


def _damaged(data: bytes, rng: random.Random) -> bytes:
    return rng.choice(BROKEN[:3])(data, rng) if data else data


def _replaced(tree: Any, rng: random.Random) -> Any:
    """Returns plain values with a change somewhere: another value, key, order or length."""
    if isinstance(tree, dict) and tree and rng.random() < 0.9:
        key = rng.choice(list(tree))
        if rng.random() < 0.15:
            return {k: v for k, v in tree.items() if k != key}
        if rng.random() < 0.1:
            return {(f"{k}s" if k == key else k): v for k, v in tree.items()}
        return {k: (_replaced(v, rng) if k == key else v) for k, v in tree.items()}
    if isinstance(tree, list) and tree and rng.random() < 0.9:
        at = rng.randrange(len(tree))
        if rng.random() < 0.15:
            return tree[:at] + tree[at + 1 :]
        if rng.random() < 0.15:
            return [*tree, tree[at]]
        return [*tree[:at], _replaced(tree[at], rng), *tree[at + 1 :]]
    return rng.choice(VALUES)


def bundles(home: Path) -> Callable[[random.Random], Callable[[], object]]:
    """A bundle with damaged files; in most cases its sums are made right again."""
    from pool import random_bundle

    from vitlora.bundle.checkpoint import load_bundle

    folder = home / "case"
    random_bundle(folder, "vitlora/vit_micro_patch8_96")
    whole = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def make(rng: random.Random) -> Callable[[], object]:
        for name, data in whole.items():
            (folder / name).write_bytes(data)
        name = rng.choice([*sorted(whole), "vitlora.json", "vitlora.json"])
        if name.endswith(".json") and rng.random() < 0.8:
            text = json.dumps(_replaced(json.loads(whole[name]), rng))
            (folder / name).write_text(text)
        else:
            (folder / name).write_bytes(_damaged(whole[name], rng))
        if rng.random() < 0.8:
            _sign(folder)
        return lambda: load_bundle(folder)

    return make


def _sign(folder: Path) -> None:
    """Makes the sums of a bundle right again, where its record can be read."""
    record = folder / "vitlora.json"
    try:
        fields = json.loads(record.read_bytes())
        fields.pop("digest", None)
        there = [name for name in fields["files"] if (folder / name).is_file()]
        fields["files"] = {name: sha256((folder / name).read_bytes()).hexdigest() for name in there}
        text = json.dumps(fields, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        fields["digest"] = sha256(text.encode()).hexdigest()
        record.write_text(json.dumps(fields), "utf-8")
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        pass


def configs(home: Path) -> Callable[[random.Random], Callable[[], object]]:
    """The config of a run, as ``fit`` reads it before anything is trained."""
    from vitlora.cli.resolved import resolve
    from vitlora.cli.run_options import run_options
    from vitlora.config_files import shipped

    texts = [path.read_text("utf-8") for path in shipped().values()]
    trees = [yaml.safe_load(text) for text in texts]
    more = {"data": {"root": "photos", "batch_size": 8}, "model": {"lr": 1e-3, "warmup": 0.1}}
    trees.append({**more, "trainer": {"max_epochs": 2, "gradient_clip_val": 1.0}, "output": "out"})
    case = home / "case.yaml"
    case.touch()

    def make(rng: random.Random) -> Callable[[], object]:
        if rng.random() < 0.7:
            changed = _replaced(rng.choice(trees), rng)
            text = yaml.safe_dump(changed, allow_unicode=True).encode("utf-8", "replace")
        else:
            text = _damaged(rng.choice(texts).encode(), rng)
        case.write_bytes(text)

        def read() -> object:
            words, inherited = run_options("fit", ["--config", str(case)], run=False)
            inherited.pop("json")
            return resolve(words, inherited)

        return read

    return make


def tables(home: Path) -> Callable[[random.Random], Callable[[], object]]:
    """Tables and exports of labelling tools beside their pictures."""
    from vitlora.data.read import read_folder

    folder = home / "case"
    folder.mkdir()
    names = [f"{name}.png" for name in "abcdef"]
    for name in names:
        (folder / name).write_bytes(encoded("PNG", (9, 8)))
    rows = [{"file": n, "label": "xy"[i % 2], "split": "train"} for i, n in enumerate(names)]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["file", "label", "split"])
    writer.writeheader()
    writer.writerows(rows)
    tasks = [
        {
            "id": i,
            "data": {"image": f"/data/upload/1/{row['file']}"},
            "annotations": [
                {"result": [{"type": "choices", "value": {"choices": [row["label"]]}}]}
            ],
        }
        for i, row in enumerate(rows)
    ]
    coco = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "categories": [{"id": 0, "name": "x"}, {"id": 1, "name": "y"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": i % 2, "bbox": [0, 0, 9, 8]} for i in range(6)
        ],
    }
    least = [{"image": f"/data/upload/1/{r['file']}", "choice": r["label"], "id": 1} for r in rows]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    trees = {"tasks.json": tasks, "min.json": least, "labels.json": coco}
    texts = {"labels.csv": text.getvalue(), "labels.jsonl": lines}

    def make(rng: random.Random) -> Callable[[], object]:
        for path in folder.iterdir():
            if path.suffix != ".png":
                path.unlink()
        name = rng.choice([*trees, *texts])
        if name in trees and rng.random() < 0.8:
            data = json.dumps(_replaced(trees[name], rng)).encode()
        elif name.endswith("jsonl") and rng.random() < 0.6:
            changed = _replaced(rows, rng)
            every = changed if isinstance(changed, list) else [changed]
            data = "\n".join(map(json.dumps, every)).encode()
        else:
            text = texts.get(name) or json.dumps(trees[name])
            data = _damaged(text.encode(), rng)
        (folder / name).write_bytes(data)
        place = folder if rng.random() < 0.5 else folder / name
        return lambda: read_folder(place)

    return make


def pictures(home: Path) -> Callable[[random.Random], Callable[[], object]]:
    """Pictures as training and prediction open them."""
    from vitlora.data.images import open_image

    whole = [encoded(kind) for kind in KINDS]
    case = home / "case.png"
    case.touch()

    def make(rng: random.Random) -> Callable[[], object]:
        case.write_bytes(rng.choice(BROKEN)(rng.choice(whole), rng))
        return lambda: open_image(case, rng.choice((None, 32)))

    return make


MAKERS = {"bundle": bundles, "config": configs, "table": tables, "picture": pictures}


if __name__ == "__main__":
    main()
