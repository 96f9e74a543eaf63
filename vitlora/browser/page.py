"""An exported network -> one HTML page that classifies pictures, offline."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import PIL

from vitlora.browser.runtime import Runtime
from vitlora.data.framing import Framing
from vitlora.errors import UsageError
from vitlora.exporting.exported import Exported
from vitlora.pages.page import render, shared_script

MOST_BYTES = 350_000_000  # of an exported file; the largest tried is a ViT-B in fp32
_BLOCK = 3 * 2**20  # bytes in one data block; browsers keep each as one string
_TALL_FIRST = 13  # the first Pillow that scales some pictures' columns before their rows
_SCRIPTS = ("framing.js", "classify.js")


def page_of(network: bytes, exported: Exported, runtime: Runtime, title: str) -> str:
    """Returns the page, which holds all it needs and may load nothing.

    Args:
        network: An ONNX file that vitlora exported.
        exported: What it says about itself.
        runtime: What runs it.
        title: Heading of the page.

    Raises:
        UsageError: The network is too large for a page.
    """
    if len(network) > MOST_BYTES:
        raise UsageError(
            f"the network takes {len(network) / 1e6:,.0f} MB; a page holds "
            f"{MOST_BYTES / 1e6:,.0f} MB at most; choose --precision int8, or a smaller base"
        )
    scripts = [_our_script(exported), _their_script(runtime.script)]
    return render(
        "classify.html",
        title=title,
        classes=exported.classes,
        scripts=scripts,
        hashes=[_digest(script) for script in scripts],
        parts={
            "runtime": list(_blocks(runtime.program)),
            "network": list(_blocks(network)),
        },
    )


def view_of(framing: Framing) -> dict[str, object]:
    """Returns what framing.js needs to know, to scale as the installed Pillow does."""
    pillow = int(PIL.__version__.partition(".")[0])
    return {**asdict(framing), "tall_first": pillow >= _TALL_FIRST}


def _our_script(exported: Exported) -> str:
    view, known = exported.preprocessing, exported.confidence
    fields = {
        "classes": exported.classes,
        "framing": view_of(view.framing()),
        "srgb": view.srgb,
        "marks": known
        and {"unsure_below": known.unsure_below, "unfamiliar_above": known.unfamiliar_above},
    }
    # a class may be called "</script>"
    said = json.dumps(fields).replace("<", "\\u003c")
    texts = [(Path(__file__).parent / name).read_text("utf-8") for name in _SCRIPTS]
    return "\n".join([shared_script(), texts[0], f"const NETWORK = {said};", *texts[1:]])


def _their_script(module: str) -> str:
    """Returns onnxruntime-web's module, with its exports as the global ``ort`` for our script."""
    (default,) = re.findall(r"([\w$]+) as default\b", module)
    module = re.sub(r"\n//# sourceMappingURL=.*\n?\Z", "\n", module)
    return f"{module}globalThis.ort = {default};\n"


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _blocks(data: bytes) -> Iterator[str]:
    """Yields bytes packed, as texts."""
    packed = gzip.compress(data, mtime=0)
    for start in range(0, len(packed), _BLOCK):
        yield base64.b64encode(packed[start : start + _BLOCK]).decode()
