"""The page in Chromium: what it says, beside predict; what it asks of the network: nothing."""

from __future__ import annotations

import http.server
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from chromium import BROWSER, Tab, chromium
from PIL import Image
from runs import train

from vitlora.adapters import Lora
from vitlora.browser import page as module
from vitlora.browser.page import page_of
from vitlora.browser.runtime import Runtime, find_runtime
from vitlora.cli.main import main as vitlora
from vitlora.commands.page import page
from vitlora.errors import UsageError, VitloraError
from vitlora.metrics.confidence import NEVER

pytest.importorskip("onnx", reason="needs vitlora[export]")
pytest.importorskip("onnxruntime", reason="needs vitlora[export]")
pytest.importorskip("onnxscript", reason="needs vitlora[export]")

from vitlora.exporting.exported_predictor import ExportedPredictor

CLASSES = ("<b>&'é", "b", "c")
CARDS = """[...document.querySelectorAll('#answers > li')].map((card) => ({
  label: card.querySelector('h3')?.textContent ?? null,
  marks: [...card.querySelectorAll('.mark strong')].map((mark) => mark.textContent),
  bars: [...card.querySelectorAll('meter')].map((meter) => meter.value),
  file: card.querySelector('.soft')?.textContent, text: card.textContent}))"""
STATUS = "document.getElementById('status').textContent"
LOADED = """new Promise((done) => {
  const it = document.createElement('%s');
  it.onload = () => done(it.contentWindow ? 'refused' : 'came');
  it.onerror = () => done('refused');
  it.src = '%s';
  document.body.append(it);
})"""
ANSWERED = "new Promise((done) => setTimeout(() => turn.then(done), 50))"


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    try:
        return find_runtime()
    except VitloraError as error:
        pytest.skip(f"no onnxruntime-web: {error}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any, make_folder: Any, runtime: Runtime) -> Path:
    """A folder with a calibrated bundle, its exported file, and its page, made by the command."""
    where = tmp_path_factory.mktemp("page")
    root = make_folder(where / "data", CLASSES, count=8)
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):  # of many shapes
        picture = Image.open(path).convert("RGB")
        picture.resize((40 + 7 * (number % 5), 36 + 25 * (number % 3))).save(path, quality=95)
    train(root, where / "bundle", adapter=Lora(rank=4), crop_mode="border")
    assert vitlora(["calibrate", str(where / "bundle"), "--coverage", "0.5"]) == 0
    assert vitlora(["export", str(where / "bundle"), str(where / "x.onnx")]) == 0
    words = ["page", str(where / "x.onnx"), str(where / "page.html"), "--title", "Which <bin>?"]
    assert vitlora(words) == 0
    return where


@pytest.fixture(scope="module")
def tab(made: Path) -> Iterator[Tab]:
    if BROWSER is None:
        pytest.skip("no Chromium: scripts/install-chromium")
    with chromium() as opened:
        yield opened


@pytest.fixture
def opened(tab: Tab, made: Path) -> Tab:
    """The page, ready, on a desktop in English."""
    tab.look(1280)
    tab.open(made / "page.html")
    assert tab.run("session.then(() => 'there')") == "there"
    return tab


def asked(tab: Tab, files: list[Path]) -> list[dict[str, Any]]:
    """Returns the page's cards for files that were chosen, the first first."""
    tab.choose(files)
    tab.run(ANSWERED)
    return tab.run(CARDS)[: len(files)][::-1]


def test_it_says_what_predict_says(opened: Tab, made: Path, capsys: Any) -> None:
    files = sorted((made / "data" / "train").rglob("*.jpg"))
    odd = made / "odd.png"
    Image.effect_noise((80, 33), 90).save(odd)
    turned = made / "turned.jpg"
    exif = Image.Exif()
    exif[0x112] = 6
    Image.open(files[0]).resize((90, 40)).save(turned, exif=exif, quality=95)
    clear = made / "clear.png"
    Image.new("RGBA", (40, 50), (90, 90, 90, 0)).save(clear)
    files += [odd, turned, clear]
    capsys.readouterr()
    words = [*map(str, files), "--json", "--top-k", "3", "--checkpoint", str(made / "bundle")]
    assert vitlora(["predict", *words]) == 0
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    cards = asked(opened, files)
    assert [card["file"] for card in cards] == [path.name for path in files]
    for card, said in zip(cards, expected, strict=True):
        assert card["label"] == said["class"]
        assert card["bars"] == pytest.approx([one["confidence"] for one in said["top_k"]], abs=2e-5)
        marks = {"Unsure.": said["unsure"], "Unlike the training pictures.": said["unfamiliar"]}
        assert card["marks"] == [mark for mark, is_set in marks.items() if is_set]
    for mark in ("unsure", "unfamiliar"):
        assert {one[mark] for one in expected} == {True, False}


def test_it_asks_for_nothing_but_itself(opened: Tab, made: Path) -> None:
    asked(opened, sorted((made / "data" / "val").rglob("*.jpg"))[:1])
    assert opened.asked == [(made / "page.html").as_uri()] and opened.logged == []


def test_its_policy_forbids_to_load_or_to_send(opened: Tab, made: Path) -> None:
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_error(404)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/x"
        tries = [
            f"fetch('{url}').then(() => 'came', () => 'refused')",
            f"import('{url}').then(() => 'came', () => 'refused')",
            LOADED % ("img", url),
            LOADED % ("script", url),
            LOADED % ("iframe", url),
            f"(navigator.sendBeacon('{url}'), 'refused')",
            """(() => { const it = document.createElement('script'); it.textContent = 'hit = 1';
              document.body.append(it); return window.hit ? 'came' : 'refused' })()""",
        ]
        assert [opened.run(one) for one in tries] == ["refused"] * len(tries)
        server.shutdown()
    assert seen == []


def test_dropped_and_pasted_pictures_are_answered(opened: Tab, made: Path) -> None:
    opened.run("void (window.probe = document.createElement('input')).setAttribute('type', 'file')")
    opened.choose([sorted((made / "data" / "val").rglob("*.jpg"))[0]], "probe")
    opened.run("void (window.data = new DataTransfer(), data.items.add(probe.files[0]))")
    events = ("new DragEvent('drop', {dataTransfer: data, cancelable: true})",
              "new ClipboardEvent('paste', {clipboardData: data})")  # fmt: skip
    for count, event in enumerate(events, 1):
        opened.run(f"void window.dispatchEvent({event})")
        opened.run(ANSWERED)
        assert len(opened.run(CARDS)) == count


def test_what_is_no_picture_is_told_and_the_others_are_answered(opened: Tab, made: Path) -> None:
    good = sorted((made / "data" / "val").rglob("*.jpg"))[0]
    (made / "torn.jpg").write_bytes(b"\xff\xd8torn")
    (made / "text.jpg").write_text("hello")
    cards = asked(opened, [made / "torn.jpg", good, made / "text.jpg"])
    assert [card["label"] is None for card in cards] == [True, False, True]
    assert cards[0]["text"].startswith("torn.jpg: no picture, damaged")
    assert opened.run(STATUS).startswith("text.jpg: no picture")


def test_a_picture_of_16_bits_is_marked(opened: Tab, made: Path) -> None:
    deep = made / "deep.png"
    Image.fromarray(np.full((40, 40), 30_000, np.uint16)).save(deep)
    (card,) = asked(opened, [deep])
    assert "More than 8 bits." in card["marks"]


@pytest.mark.parametrize("width", [360, 390, 1280])
@pytest.mark.parametrize("language", ["en", "es"])
def test_it_fits_and_speaks_the_browsers_language(
    tab: Tab, made: Path, width: int, language: str
) -> None:
    tab.look(width)
    tab.open(made / "page.html", {"en": "de-DE,en-GB", "es": "es-MX"}[language])
    asked(tab, [sorted((made / "data" / "val").rglob("*.jpg"))[0], made / "x.onnx"])
    assert tab.run("document.documentElement.lang") == language
    assert tab.run("document.documentElement.scrollWidth") <= width
    said = tab.run("document.body.innerText")
    words = {"en": ("Choose pictures", "It knows 3 classes"),
             "es": ("Elegir imágenes", "Conoce 3 clases")}  # fmt: skip
    assert all(word in said for word in words[language])
    photo = {"en": "Take a photo", "es": "Tomar una foto"}[language]
    assert (photo in said) == (width < 600)


def test_both_languages_have_every_text(opened: Tab) -> None:
    texts = opened.run("TEXTS")
    assert texts.keys() == {"en", "es"} and texts["en"].keys() == texts["es"].keys()
    for key, text in texts["en"].items():
        other = texts["es"][key]
        assert text and other and text != other
        assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", other))


def test_a_keyboard_reaches_it_and_a_screen_reader_can_tell_it(opened: Tab, made: Path) -> None:
    asked(opened, [sorted((made / "data" / "val").rglob("*.jpg"))[0]])
    reached = []
    for _ in range(3):
        for kind in ("keyDown", "keyUp"):
            opened.do("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab",
                      windowsVirtualKeyCode=9)  # fmt: skip
        reached.append(opened.run("document.activeElement.id || document.activeElement.localName"))
    assert "files" in reached and "summary" in reached
    nodes = opened.do("Accessibility.getFullAXTree")["nodes"]
    told = [(n["role"]["value"], n.get("name", {}).get("value")) for n in nodes if not n["ignored"]]
    assert ("button", "Choose pictures") in told
    assert ("heading", "Which <bin>?") in told and ("heading", "Answers") in told
    assert ("image", "0.jpg") in told or ("img", "0.jpg") in told
    assert any(role == "status" for role, _ in told)


def test_a_page_is_the_same_from_the_bundle_and_from_its_exported_file(made: Path) -> None:
    result = page(made / "bundle", made / "bundle.html", title="Which <bin>?")
    assert result.proof and (result.proof.pictures, result.proof.changed_classes) == (24, 0)
    ours, theirs = ((made / name).read_text("utf-8") for name in ("page.html", "bundle.html"))
    assert ours.partition('data-part="network"')[0] == theirs.partition('data-part="network"')[0]


def test_a_class_may_have_any_name(tab: Tab, made: Path, runtime: Runtime) -> None:
    exported = ExportedPredictor(made / "x.onnx").exported
    names = ("</script><script>hit = 1</script>", "<!--<script>", '"; hit = 1; "')
    other = replace(exported, classes=names, confidence=None)
    (made / "names.html").write_text(
        page_of((made / "x.onnx").read_bytes(), other, runtime, "</title>"), "utf-8"
    )
    tab.open(made / "names.html")
    tab.run("session.then(() => 1)")
    assert tab.run("[window.hit ?? 0, ...NETWORK.classes]") == [0, *names]
    assert tab.run("document.getElementById('raw').hidden") is False  # not calibrated
    assert tab.run("document.title") == "</title>"


def test_it_says_why_every_answer_is_unsure(tab: Tab, made: Path, runtime: Runtime) -> None:
    exported = ExportedPredictor(made / "x.onnx").exported
    assert exported.confidence
    never = replace(exported, confidence=replace(exported.confidence, unsure_below=NEVER))
    (made / "never.html").write_text(
        page_of((made / "x.onnx").read_bytes(), never, runtime, "never"), "utf-8"
    )
    tab.open(made / "never.html")
    tab.run("session.then(() => 1)")
    [card] = asked(tab, sorted((made / "data" / "val").rglob("*.jpg"))[:1])
    assert card["marks"][0] == "Unsure." and "too few pictures to tell" in card["text"]


def test_a_browser_that_alters_pictures_is_told(tab: Tab, made: Path) -> None:
    source = (
        "const plain = CanvasRenderingContext2D.prototype.getImageData;"
        "CanvasRenderingContext2D.prototype.getImageData = function (...words) {"
        "const read = plain.apply(this, words); read.data.fill(77); return read }"
    )
    added = tab.do("Page.addScriptToEvaluateOnNewDocument", source=source)["identifier"]
    try:
        tab.open(made / "page.html")
        tab.run("session.catch(() => new Promise((done) => setTimeout(done, 50)))")
        assert tab.run(STATUS).startswith("This browser alters pictures")
    finally:
        tab.do("Page.removeScriptToEvaluateOnNewDocument", identifier=added)


def test_a_network_too_large_is_refused(made: Path, runtime: Runtime, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 10**6)
    with pytest.raises(UsageError, match=r"takes \d MB; a page holds 1 MB at most; choose --prec"):
        page(made / "x.onnx", made / "large.html")
    assert not (made / "large.html").exists()
