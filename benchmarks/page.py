"""A page of `vitlora page` in Chromium, beside the bundle that it was made of.

    python benchmarks/page.py BUNDLE --photos FOLDER [--count 200] [--runtime FILE.tgz]
    python benchmarks/page.py PAGE.html ... --photos FOLDER

The second times pages alone: seconds until they are ready, and for a photo.

``photos``: confidences of all classes, and marks, of real photos; in the page and by torch
(`Predictor`, what `vitlora predict` uses), for each precision. ``squares`` are those that the
network is given, in grey levels. ``kinds``: one photo saved in many ways, and turned, and with
colour profiles. ``cameras``: photos enlarged to 12 megapixels, which predict decodes smaller.

Milliseconds include decoding and scaling, on one thread. Rows are printed and appended to
benchmarks/results/page.jsonl.
"""

import argparse
import base64
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from chromium import Tab, chromium  # pyright: ignore[reportMissingImports]
from profiles import PROFILES  # pyright: ignore[reportMissingImports]

from vitlora.browser.page import page_of
from vitlora.browser.runtime import find_runtime
from vitlora.bundle.checkpoint import load_bundle
from vitlora.data.listing import list_pictures
from vitlora.errors import DataError
from vitlora.exporting.exported_predictor import ExportedPredictor
from vitlora.exporting.program import described, exported_program, merged_vit
from vitlora.exporting.targets import TARGETS
from vitlora.prediction.predictor import Predictor

RESULTS = Path(__file__).parent / "results" / "page.jsonl"
PRECISIONS: Any = ("32", "int8", "fp16")  # the last changes the network
_ASK = """(async () => {
  const bitmap = await opened(probe.files[0]), start = performance.now();
  const square = squareOf(bitmap), framed = performance.now();
  const answer = await answerTo(square);
  const all = Object.fromEntries(answer.top.map((one) => [one.name, one.confidence]));
  let bytes = ''; for (const value of square) bytes += String.fromCharCode(value);
  return {square: btoa(bytes), all, unsure: answer.unsure, unfamiliar: answer.unfamiliar,
    scaling: framed - start, network: performance.now() - framed};
})()"""


def main() -> None:
    """Measures in one Chromium."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path, nargs="+")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--runtime", type=Path)
    options = parser.parse_args()
    every = sorted(list_pictures(options.photos).pictures)
    photos = every[:: max(1, len(every) // options.count)][: options.count]
    with tempfile.TemporaryDirectory() as name, RESULTS.open("a", encoding="utf-8") as file:
        pages = options.bundle[0].suffix == ".html"
        rows = _timed(options.bundle, photos[0]) if pages else _rows(options, photos, Path(name))
        for row in rows:
            row |= {"load_average": round(os.getloadavg()[0], 1)}
            print(json.dumps(row), flush=True)
            file.write(json.dumps(row) + "\n")


def _rows(options: Any, photos: list[Path], folder: Path) -> Iterator[dict[str, Any]]:
    runtime, bundle = find_runtime(options.runtime), load_bundle(options.bundle[0])
    target = TARGETS[".onnx"]
    vit, pages = merged_vit(bundle, target), {}
    torch_says = Predictor(options.bundle[0], device="cpu")
    for precision in PRECISIONS:
        onnx = folder / f"{precision}.onnx"
        program = exported_program(vit, bundle, precision)
        target.write(program, described(bundle, precision), onnx)
        pages[precision] = folder / f"{precision}.html"
        exported = ExportedPredictor(onnx)
        page = page_of(onnx.read_bytes(), exported.exported, runtime, precision)
        pages[precision].write_text(page, "utf-8")
    exported = ExportedPredictor(folder / "32.onnx")
    with chromium() as tab:
        about = {"browser": tab.do("Browser.getVersion")["product"], "photos": len(photos)}
        seen = bundle.record.preprocessing
        about |= {"seen": [seen.crop_mode, seen.crop_pct, seen.srgb]}
        for precision, page in pages.items():
            about |= {"precision": precision, "bytes": page.stat().st_size}
            ask = _asking(tab, page)
            yield {"part": "photos", **about, **_compared(ask, torch_says, exported, photos)}
        ask = _asking(tab, pages["32"])
        for kind, made in _kinds(photos[0], folder):
            yield {"part": "kinds", "kind": kind, **_compared(ask, torch_says, exported, [made])}
        large = [_enlarged(photo, folder) for photo in photos[:: len(photos) // 20]]
        yield {"part": "cameras", **_compared(ask, torch_says, exported, large)}


def _timed(pages: list[Path], photo: Path) -> Iterator[dict[str, Any]]:
    for page in pages:
        with chromium() as tab:
            start = time.perf_counter()
            ask = _asking(tab, page.absolute())
            ready = time.perf_counter() - start
            taken = []
            for _ in range(4):
                start = time.perf_counter()
                ask(photo)
                taken.append(time.perf_counter() - start)
        yield {
            "part": "times",
            "page": page.name,
            "bytes": page.stat().st_size,
            "seconds": {"ready": round(ready, 1), "photo": round(statistics.median(taken), 2)},
        }


def _asking(tab: Tab, page: Path) -> Callable[[Path], dict[str, Any]]:
    start = time.perf_counter()
    tab.open(page)
    tab.run("session.then(() => 1)")
    print(f"{page.name}: {time.perf_counter() - start:.1f} s to start", file=sys.stderr)
    tab.run("void (window.probe = Object.assign(document.createElement('input'), {type: 'file'}))")

    def ask(photo: Path) -> dict[str, Any]:
        tab.choose([photo], "probe")
        return tab.run(_ASK)

    return ask


def _compared(
    ask: Callable[[Path], dict[str, Any]],
    torch_says: Predictor,
    exported: ExportedPredictor,
    photos: Sequence[Path],
) -> dict[str, Any]:
    gaps, changed, levels, taken = [], {"class": 0, "unsure": 0, "unfamiliar": 0}, [], []
    for photo in photos:
        (ours,) = torch_says.predict([photo], len(exported.classes))
        theirs = ask(photo)
        if isinstance(ours, DataError):
            raise ours
        gaps.append(max(abs(theirs["all"][name] - value) for name, value in ours.top))
        best = max(theirs["all"], key=theirs["all"].get)
        changed["class"] += best != ours.label
        for mark in ("unsure", "unfamiliar"):
            changed[mark] += theirs[mark] != getattr(ours, mark)
        square = np.frombuffer(base64.b64decode(theirs["square"]), np.uint8).astype(int)
        levels.append(np.abs(square - exported.square(photo)[0].reshape(-1)))
        taken.append((theirs["scaling"], theirs["network"]))
    return {
        "largest_gap": float(f"{max(gaps):.2g}"),
        "median_gap": float(f"{statistics.median(gaps):.2g}"),
        "changed": changed,
        "squares": {
            "differ": sum(bool(one.any()) for one in levels),
            "most": int(max(one.max() for one in levels)),
            "mean": round(float(np.mean([one.mean() for one in levels])), 3),
        },
        "ms": [round(statistics.median(part), 1) for part in zip(*taken, strict=True)],
    }


def _kinds(photo: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields a photo, saved in many ways."""
    image = Image.open(photo).convert("RGB")
    alpha = image.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(image.size))
    wide = np.asarray(image).astype(np.uint16) * 257
    ways: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "PNG": (image, "png", {}),
        "PNG, transparent": (alpha, "png", {}),
        "PNG, palette": (image.quantize(), "png", {}),
        "PNG, grey": (image.convert("L"), "png", {}),
        "PNG, grey, 16 bits": (Image.fromarray(wide[..., 1]), "png", {}),
        "JPEG 4:4:4": (image, "jpg", {"quality": 95, "subsampling": 0}),
        "JPEG 4:2:2": (image, "jpg", {"quality": 90, "subsampling": 1}),
        "JPEG 4:2:0": (image, "jpg", {"quality": 80, "subsampling": 2}),
        "JPEG, progressive": (image, "jpg", {"quality": 80, "progressive": True}),
        "JPEG, grey": (image.convert("L"), "jpg", {"quality": 90}),
        "JPEG, CMYK": (image.convert("CMYK"), "jpg", {"quality": 90}),
        "WebP": (image, "webp", {"quality": 80}),
        "WebP, lossless": (image, "webp", {"lossless": True}),
        "AVIF": (image, "avif", {"quality": 80}),
        "GIF": (image.quantize(), "gif", {}),
        "BMP": (image, "bmp", {}),
        "sRGB profile": (image, "png", {"icc_profile": _srgb()}),
        "Display P3 profile": (image, "png", {"icc_profile": PROFILES["Display P3"]}),
        "Adobe RGB profile": (image, "png", {"icc_profile": PROFILES["Adobe RGB"]}),
        "Adobe RGB, named in EXIF": (image, "jpg", {"quality": 95, "exif": _adobe()}),
    }
    for turn in range(2, 9):
        exif = Image.Exif()
        exif[0x112] = turn
        ways[f"JPEG, EXIF orientation {turn}"] = (image, "jpg", {"quality": 90, "exif": exif})
    for kind, (made, ending, options) in ways.items():
        path = folder / f"{len(list(folder.iterdir()))}.{ending}"
        made.save(path, **options)
        yield kind, path


def _srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _adobe() -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    return exif


def _enlarged(photo: Path, folder: Path) -> Path:
    image = Image.open(photo).convert("RGB")
    scale = 4000 / max(image.size)
    sides = [round(side * scale) for side in image.size]
    path, data = folder / f"large-{photo.stem}.jpg", io.BytesIO()
    image.resize((sides[0], sides[1]), Image.Resampling.LANCZOS).save(data, "JPEG", quality=92)
    path.write_bytes(data.getvalue())
    return path


if __name__ == "__main__":
    main()
