"""The ``compare`` command: trains several methods on the same pictures and compares them.

Each run is a ``vitlora fit`` and a ``vitlora test``, each in its own process. This process imports
no torch: on Linux, its memory would count towards the peak of its children.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from vitlora import __version__
from vitlora.arguments import checked
from vitlora.errors import UsageError, counted
from vitlora.files import expanded, write_json, write_whole
from vitlora.notes import tell
from vitlora.studies.advice import can_tell
from vitlora.studies.bases import FROZEN, named, ranked, read_bases, weights_digest
from vitlora.studies.comparison import Run
from vitlora.studies.comparison import compare as side_by_side
from vitlora.studies.methods import check_methods, fit_words
from vitlora.studies.pictures import pictures_of
from vitlora.studies.result import Comparison
from vitlora.studies.runs import Runs
from vitlora.studies.study import Study, check_ours, refusals, resolved

_OF_ONE, _OF_BASES = ("linear", "lora", "qlora", "full"), (FROZEN, "lora")  # methods


@checked
def compare(
    config: Sequence[str | Path] | str | Path = (),
    *,
    data: str | Path | None = None,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    backbones: Sequence[str] = (),
    best: int = 2,
    margin: float = 0.02,
    output: str | Path | None = None,
    **options: object,
) -> Comparison:
    r"""Trains several methods on your photos and compares them.

    Each method is trained with the same pictures, seeds and configuration, and scored on the test
    pictures (if there are none, on the validation pictures). A table lists accuracy, macro-F1,
    time, memory and size. After Ctrl-C, the same command continues where it stopped.

    With --backbones, a linear head is trained on the frozen features of each base. The other
    methods are then trained on the best bases, by macro-F1 on the validation pictures.

    Methods: linear (the head alone, on a frozen base); lora (low-rank updates of a frozen base);
    qlora (LoRA on a base kept in 4 bits); full (every weight; the bundle holds the whole network);
    dora (LoRA, direction and length of each row apart); rslora (LoRA scaled by alpha /
    sqrt(rank)); pissa (starts at the largest singular vectors); olora (starts at the QR factors);
    eva (starts at your pictures' activations); loftq (QLoRA that starts by undoing the rounding);
    lora+ (B learns 4 times as fast as A); qv (LoRA on q and v alone).

    Learning rates: the configuration's rate is for its own adapter. Compared with LoRA, linear
    gets 2.5 times the rate, lora+ half of it, full a tenth. --model.lr sets the same rate for all.

    The exit status is 1 if a run failed.

    Args:
        config: YAML files, as for fit.
        data: Folder of pictures.
        methods: Methods to compare (default: linear, lora, qlora, full; with --backbones: linear,
            lora).
        seeds: Each method is trained once with each of these seeds.
        backbones: Bases to compare, each NAME, or NAME=FILE with the file of its weights.
        best: Bases on which the other methods are trained, of those in --backbones.
        margin: Accuracy that a cheaper method may lose and still be recommended, in [0, 1).
        output: Folder for table, chart, bundles and logs (default: comparisons/NAME, where NAME is
            the config's).
        options: Any option of fit with a dot in its name, or its short name.

    Returns:
        The table and the advice.

    Raises:
        UsageError: An option is wrong, or the output folder holds something else.
        DataError: The folder of pictures cannot be used.
        KeyboardInterrupt: It was stopped; finished runs are kept.

    Examples:
        $ vitlora compare demo.yaml --methods linear,lora,qlora
        $ vitlora compare waste5.yaml --data photos --seeds 0,1,2
        $ vitlora compare waste5.yaml --methods lora,dora --trainer.max_epochs 3
        $ vitlora compare --backbones torchvision/vit_b_16,torchvision/vit_b_32 \
            --data photos
    """
    bases = read_bases(backbones)
    methods = check_methods(methods or (_OF_BASES if bases else _OF_ONE))
    if bases:
        methods = [FROZEN, *(method for method in methods if method != FROZEN)]
    _check_seeds(seeds)
    if best < 1:
        raise UsageError(f"--best is {best}; expected at least 1")
    if best != 2 and not bases:
        raise UsageError("--best is for --backbones; leave it out")
    if not 0 <= margin < 1:
        raise UsageError(f"--margin is {margin}; expected 0 <= margin < 1, such as 0.02")
    words = fit_words(config, data, options)
    if not {"--config", "--data.root"} & {*words}:
        raise UsageError(
            "compare needs --config FILE or --data FOLDER; 'vitlora configs' lists the configs"
        )
    configs = [b for a, b in pairwise(words) if a == "--config"]
    if bases and (own := {"--model.backbone", "--model.weights"} & {*words}):
        raise UsageError(f"{min(own)} and --backbones do not go together; leave one out")
    name = Path(configs[-1]).stem if configs else "run"
    folder = expanded(output or Path("comparisons") / name)
    check_ours(folder, "comparison")
    base = resolved(words)
    split, pictures, digest = pictures_of(base["data"], "compare")
    same_rate = "--model.lr" in words
    study = Study(folder, base, split, same_rate, bases)
    weights = {name: weights_digest(name, file) for name, file in bases.items()}
    new = [name for name in bases if not study.finished(named(FROZEN, name), seeds[0])]
    _check_bases({name: bases[name] for name in new}, words)
    setup = {"vitlora": __version__, "pictures": digest, "same_lr": same_rate, "config": base}
    study.take({**setup, "bases": weights})
    on = f"{counted(len(bases), 'base')} and " if bases else ""
    tell(
        f"comparing {', '.join(methods)} on {on}{base['data']['root']}, "
        f"{counted(pictures, f'{split} picture')}; bundles and logs go to {folder}"
    )
    rows = len(bases) + min(best, len(bases)) * (len(methods) - 1) if bases else len(methods)
    if rows > 1:
        tell(can_tell(pictures, split, rows, len(seeds), margin))
    done = Runs(study, seeds, rows * len(seeds))
    if bases:
        done.add([named(FROZEN, base) for base in bases])
        chosen = _chosen(done.finished, best, methods[1:])
        done.add([named(method, base) for base in chosen for method in methods[1:]])
        others = [base for base in bases if base not in chosen]
        if kept := done.add_earlier([named(m, base) for base in others for m in methods[1:]]):
            tell(f"no longer among the best, but kept in the table: {', '.join(kept)}")
    else:
        done.add(methods)
    runs, failures = done.finished, done.failed
    found = Comparison(folder, split, base, side_by_side(runs), failures, margin)
    _write(found)
    return found


def _chosen(runs: Sequence[Run], best: int, methods: Sequence[str]) -> list[str]:
    """Returns the bases to fine-tune, and says which and why."""
    order = ranked(runs)
    if order and methods:
        said = ", ".join(f"{base} {score:.3f}" for base, score in order)
        tell(f"macro-F1 of frozen features on the validation pictures: {said}")
        tell(f"{' and '.join(methods)} on {', '.join(base for base, _ in order[:best])}")
    return [base for base, _ in order[:best]]


def _check_bases(bases: Mapping[str, str | None], words: Sequence[str]) -> None:
    """Refuses what is no base, or has not its weights, before the first is trained on.

    Args:
        bases: As ``read_bases`` returns them.
        words: The arguments of ``fit`` for the configuration that they share.

    Raises:
        UsageError: A base is unknown; its weights are missing, damaged or another base's; or the
            configuration is refused with it.
    """
    if not bases:
        return
    frozen = ["--model.adapter", "LinearProbe", "--model.head", "full"]
    runs = [
        [*words, "--model.backbone", name, "--model.weights", file or "null", *frozen]
        for name, file in bases.items()
    ]
    for name, refused in zip(bases, refusals(runs), strict=True):
        if refused is not None:
            option = f"--backbones {name}=FILE"
            raise UsageError(re.sub(r"--weights( FILE)?", option, refused.reason))


def _check_seeds(seeds: Sequence[int]) -> None:
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise UsageError(f"--seeds has {seed}; expected whole numbers from 0 to 4294967295")
        if list(seeds).count(seed) > 1:
            raise UsageError(f"--seeds has {seed} twice; give it once")
    if not seeds:
        raise UsageError("--seeds is empty; expected whole numbers, such as 0,1,2")


def _write(found: Comparison) -> None:
    """Writes table and numbers, and the chart if any run succeeded."""
    if found.rows:
        from vitlora.studies.chart import chart

        write_whole(found.folder / "comparison.png", chart(found.rows, found.title))
    write_json(found.to_json(), str(found.folder / "comparison.json"))
    write_whole(found.folder / "comparison.md", found.to_markdown())
