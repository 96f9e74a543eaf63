"""What the tests of serving share: bundles, pictures of all kinds, and a server for a test."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fastapi.testclient import TestClient
from PIL import Image

from vitlora.backbones import features_and_logits
from vitlora.bundle.checkpoint import load_bundle, save_bundle
from vitlora.metrics.confidence import Confidence
from vitlora.metrics.reference import Reference
from vitlora.prediction.pool import AdapterPool
from vitlora.prediction.predictor import Predictor
from vitlora.serving.app import application
from vitlora.serving.limits import Limits
from vitlora.serving.service import Service

TOKEN = "0123456789abcdef"


def calibrate(folder: Path, temperature: float) -> None:
    """Writes into a bundle what validation might have taught it; its marks are half and half."""
    bundle = load_bundle(folder)
    predictor = Predictor(bundle, device="cpu")
    seen = [predictor.preprocessing.open(file).image for file in photos(folder.parent)]
    images = torch.stack([predictor.preprocessing.transform()(image) for image in seen])
    with torch.inference_mode():
        features, logits = features_and_logits(predictor.network, images)
    labels = torch.arange(len(features)) % len(bundle.record.classes)
    reference = Reference.of(features, labels, dimensions=8)
    known = Confidence(
        temperature=temperature,
        unsure_below=amid((logits / temperature).softmax(1).amax(1)),
        chosen_for={"max_error": 0.05},
        coverage=0.9,
        error=0.04,
        calibration_error=(0.2, 0.1),
        unfamiliar_above=amid(reference.distances(features)),
        images=100,
        confidences=tuple(torch.linspace(0.3, 1, 11).tolist()),
        distances=tuple(torch.linspace(1, 2, 11).tolist()),
    )
    record = replace(bundle.record, confidence=known)
    save_bundle(folder, record, bundle.tensors, bundle.peft, "", reference=reference)


def amid(values: torch.Tensor) -> float:
    """Returns the middle of the widest gap between values, which rounding does not cross."""
    ordered = values.double().sort().values
    gap = int(ordered.diff().argmax())
    return float(ordered[gap : gap + 2].mean())


def photos(root: Path) -> list[Path]:
    """Returns pictures of all kinds, familiar and not."""
    folder = root / "kinds"
    if not folder.exists():
        folder.mkdir()
        for number in range(12):
            noise = Image.effect_noise((70, 40 + 5 * number), 10 * number)
            kind = ("png", "jpg", "webp")[number % 3]
            noise.convert("RGB").save(folder / f"{number:02}.{kind}")
        Image.effect_noise((1500, 1400), 60).save(folder / "large.jpg", quality=40)
        Image.fromarray(torch.arange(0, 65536, 16).reshape(64, 64).numpy().astype("uint16")).save(
            folder / "deep.png"
        )
    return [*sorted(root.glob("* photos/val/*/0.jpg")), *sorted(folder.iterdir())]


@contextmanager
def served(
    bundles: Path,
    token: str | None = None,
    below: Path | None = None,
    local: bool = False,
    **limits: Any,
) -> Iterator[tuple[TestClient, Service]]:
    pool = AdapterPool({name: bundles / name for name in ("two", "three", "new")}, device="cpu")
    service = Service(pool, Limits(**limits), 2, below)
    with TestClient(application(service, token, local)) as client:
        yield client, service


@contextmanager
def running(
    *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, seconds: float = 120
) -> Iterator[subprocess.Popen[str]]:
    """Runs vitlora as a process, which is killed at the end, or when it takes too long."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vitlora", *words],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    late = threading.Timer(seconds, process.kill)
    late.start()
    try:
        yield process
    finally:
        late.cancel()
        process.kill()
        process.communicate()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Waits for a condition; fails if it does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.01)
