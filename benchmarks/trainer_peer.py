"""Time to a good model: vitlora's fit, in turn with ``transformers.Trainer`` and plain PEFT.

    pip install transformers accelerate
    python benchmarks/trainer_peer.py --data TRASHNET --weights VIT_TINY.safetensors \
        --ours 4 "3 --model.adapter.lr_ratio 4 --model.lr 1e-3" --peer 6 4 --seeds 0 1 2

Both read the same files, augment them the same way, train LoRA with rank 8 on the same weights with
the same schedule, and evaluate after each epoch; what follows our epochs is passed to fit. The time
is that of the whole process: vitlora's also calibrates the confidence, the peer's also scores the
test split. Scored is vitlora's best epoch on the validation split, and the peer's last.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

VIT_TINY = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def main() -> None:
    """Runs ours, the peer, ours, the peer, ... with each seed; prints a JSON line for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--ours", nargs="*", default=["4"], help="epochs, and options of fit")
    parser.add_argument("--peer", nargs="*", default=["6"], help="epochs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--lr", type=float, default=2e-3, help="the peer's learning rate")
    parser.add_argument("--batch", type=int, default=32, help="the peer's pictures a step")
    parser.add_argument("--crop-mode", default="squash", help="what both see of a picture")
    parser.add_argument("--score-to", type=Path, help="run the peer here; its score goes there")
    options = parser.parse_args()
    if options.score_to:
        score = _peer(options, epochs=int(options.peer[0]), seed=options.seeds[0])
        options.score_to.write_text(json.dumps(score))
        return
    for seed in options.seeds:
        for way in zip_longest(options.ours, options.peer):
            for run, words in zip((_vitlora, _trainer), way, strict=True):
                if words is not None:
                    with tempfile.TemporaryDirectory() as folder:
                        row = run(options, words, seed, Path(folder))
                    print(json.dumps(row), flush=True)


def _vitlora(options: argparse.Namespace, words: str, seed: int, folder: Path) -> dict[str, object]:
    bundle, score = folder / "bundle", folder / "score.json"
    epochs, *more = words.split()
    fit = ["fit", "--data.root", options.data, "--output", bundle, "--seed_everything", seed]
    fit += ["--model.backbone", f"timm/{VIT_TINY}", "--model.weights", options.weights]
    fit += ["--model.crop_mode", options.crop_mode, "--trainer.max_epochs", epochs, *more]
    seconds = _timed(["-m", "vitlora", *fit])
    _timed(["-m", "vitlora", "test", "--checkpoint", bundle, "--json", score])
    return _row("vitlora", epochs, " ".join(more), seed, seconds, score)


def _trainer(options: argparse.Namespace, words: str, seed: int, folder: Path) -> dict[str, object]:
    score = folder / "score.json"
    peer = [__file__, "--data", options.data, "--weights", options.weights, "--seeds", seed]
    peer += ["--lr", options.lr, "--batch", options.batch, "--crop-mode", options.crop_mode]
    seconds = _timed([*peer, "--peer", words, "--score-to", score])
    return _row("transformers.Trainer + PEFT", words, "", seed, seconds, score)


def _row(
    who: str, epochs: str, more: str, seed: int, seconds: float, file: Path
) -> dict[str, object]:
    score = json.loads(file.read_text("utf-8"))
    return {
        "who": who,
        "epochs": int(epochs),
        "options": more,
        "seed": seed,
        "seconds": round(seconds, 1),
        **{key: round(score[key], 6) for key in ("accuracy", "macro_f1")},
    }


def _timed(words: Sequence[object]) -> float:
    start = time.monotonic()
    subprocess.run([sys.executable, *map(str, words)], check=True, stdout=sys.stderr)
    return time.monotonic() - start


def _peer(options: argparse.Namespace, epochs: int, seed: int) -> dict[str, float]:
    import torch
    from peer import Peer, collate, vit_tiny
    from timm.data.config import resolve_model_data_config
    from transformers import Trainer, TrainingArguments

    from vitlora.data.augmentation import Augmentation
    from vitlora.data.dataset import ImageDataset, prepare_worker
    from vitlora.data.order import Order
    from vitlora.data.preprocessing import Preprocessing
    from vitlora.data.read import read_folder

    torch.manual_seed(seed)
    folder = read_folder(options.data)
    model = vit_tiny(options.weights, len(folder.classes))
    preprocessing = Preprocessing.from_timm(resolve_model_data_config(model))
    preprocessing = preprocessing.seeing(options.crop_mode)

    class Loader(torch.utils.data.DataLoader):  # type: ignore[type-arg]
        """Lets the Trainer choose the epoch."""

        def set_epoch(self, epoch: int) -> None:
            order.set_epoch(epoch)

    class Seeded(Trainer):
        """Orders and augments the pictures of each epoch as vitlora does."""

        def get_train_dataloader(self) -> torch.utils.data.DataLoader:  # type: ignore[type-arg]
            return Loader(
                train,
                batch_size=options.batch,
                sampler=order,
                num_workers=2,
                persistent_workers=True,
                collate_fn=collate,
                worker_init_fn=prepare_worker,
            )

    train = ImageDataset(
        folder.splits["train"],
        Augmentation("light", preprocessing),
        at_least=2 * preprocessing.image_size,
        seed=seed,
    )
    order = Order(len(train), seed, shuffle=True)
    val, test = (
        ImageDataset(folder.splits[split], preprocessing.transform()) for split in ("val", "test")
    )
    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output,
            num_train_epochs=epochs,
            per_device_train_batch_size=options.batch,
            per_device_eval_batch_size=32,
            learning_rate=options.lr,
            weight_decay=0.0,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            bf16=True,
            use_cpu=True,
            eval_strategy="epoch",
            save_strategy="no",
            report_to=[],
            dataloader_num_workers=2,
            seed=seed,
            logging_strategy="no",
            remove_unused_columns=False,
            max_grad_norm=1.0,
            disable_tqdm=True,
        )
        trainer = Seeded(
            Peer(model),
            arguments,
            train_dataset=train,
            eval_dataset=val,
            data_collator=collate,
            compute_metrics=lambda p: _scores(p, len(folder.classes)),
        )
        trainer.train()
        found = trainer.evaluate(test)  # type: ignore[arg-type]
    return {key: found[f"eval_{key}"] for key in ("accuracy", "macro_f1", "nll")}


def _scores(answers: Any, classes: int) -> dict[str, float]:
    import torch
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

    logits, labels = torch.tensor(answers.predictions), torch.tensor(answers.label_ids)
    accuracy = multiclass_accuracy(logits, labels, classes, average="micro")
    return {
        "nll": float(torch.nn.functional.cross_entropy(logits, labels)),
        "accuracy": float(accuracy),
        "macro_f1": float(multiclass_f1_score(logits, labels, classes, average="macro")),
    }


if __name__ == "__main__":
    main()
