"""The report command: what stands on the page, by html.parser, by Predictor and in Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import train

from vitlora.adapters import Lora
from vitlora.bundle.checkpoint import Bundle, load_bundle, save_bundle
from vitlora.cli.main import main as vitlora
from vitlora.commands.report import MARK, report
from vitlora.data.datamodule import FolderData
from vitlora.data.folder import Sample
from vitlora.errors import BundleError, DataError, UsageError
from vitlora.evaluation.answers import Answers
from vitlora.evaluation.figures import as_seen
from vitlora.evaluation.pictures import Pictures
from vitlora.evaluation.report_page import ReportPage
from vitlora.evaluation.seen import Seen
from vitlora.metrics.confidence import Confidence
from vitlora.metrics.intervals import exact_interval
from vitlora.metrics.prediction import Prediction
from vitlora.metrics.reference import Reference
from vitlora.prediction.predictor import Predictor

CLASSES = ('<b>&"é', "b", "c")
VOID = {"meta", "img", "br", "input"}
SHAPES = {"line", "circle", "polyline", "rect"}  # these may close themselves, within an SVG


class Page(HTMLParser):
    """A parsed page; a tag that is not closed where it should be is an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.links: dict[str, str] = {}
        self.images: Counter[str] = Counter()
        self.words: list[str] = []
        self.feed(path.read_text("utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.open.append((tag, dict(attrs).get("id") or dict(attrs).get("href") or ""))
        if tag == "img":
            self.images.update({name for _, name in self.open if name})
        if tag in VOID:
            self.open.pop()

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        assert tag in SHAPES, tag
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1][0] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][0] == "a":
            self.links.setdefault(self.open[-1][1], data)
        if not any(tag == "style" for tag, _ in self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: Any, make_folder: Any) -> Bundle:
    where = tmp_path_factory.mktemp("report")
    root = make_folder(where / "data", CLASSES, splits=("train", "val", "test"), count=6)
    shutil.copy(root / "train" / "b" / "0.jpg", root / "test" / "b" / "copy.jpg")
    shutil.copy(root / "test" / "c" / "0.jpg", root / "test" / "b" / "mislabelled.jpg")
    shutil.copy(root / "test" / "b" / "1.jpg", root / "test" / "c" / "mislabelled.jpg")
    train(root, where / "bundle", adapter=Lora(rank=2), lr=0.01)
    (where / "bundle" / "logs").mkdir()
    (where / "bundle" / "logs" / "metrics.csv").write_text(
        "epoch,train/loss_epoch,val/loss,train/acc_epoch,val/acc\n0,,1.1,,0.5\n0,1.2,,0.4,\n"
    )
    return load_bundle(where / "bundle")


@pytest.fixture(scope="module")
def page_file(bundle: Bundle, tmp_path_factory: Any) -> Path:
    out = tmp_path_factory.mktemp("page") / "r.html"
    assert vitlora(["report", str(bundle.folder), "--output", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def page(page_file: Path) -> Page:
    return Page(page_file)


def predictions(bundle: Bundle, split: str = "test") -> list[Prediction]:
    root = Path(bundle.record.split["root"])
    paths = sorted((root / split).rglob("*.jpg"))
    found = [p for p in Predictor(bundle).predict(paths, top_k=3) if isinstance(p, Prediction)]
    assert len(found) == len(paths)
    return found


def test_matrix_and_pictures_are_those_of_predictor(bundle: Bundle, page: Page) -> None:
    answers = predictions(bundle)
    cells = Counter(
        (CLASSES.index(answer.path.parent.name), CLASSES.index(answer.label)) for answer in answers
    )
    shown = {f"cell-{true}-{guess}": count for (true, guess), count in cells.items()}
    assert len(shown) > 3  # some are mistakes
    got = {href[1:]: int(text) for href, text in page.links.items() if "#cell" in href}
    assert got == shown
    assert {name: n for name, n in page.images.items() if name.startswith("cell")} == shown


def test_headline_numbers_are_right(bundle: Bundle, page: Page) -> None:
    answers = predictions(bundle)
    right = sum(answer.label == answer.path.parent.name for answer in answers)
    assert f"accuracy {100 * right / len(answers):.1f}%" in page.text
    assert f"{right} of {len(answers)} pictures classified correctly" in page.text
    for name in CLASSES:
        found = [a for a in answers if a.path.parent.name == name]
        recall = sum(a.label == name for a in found) / len(found)
        assert re.search(rf"{re.escape(name)} {len(found)} [\d.]+% {100 * recall:.1f}%", page.text)


def test_mistakes_come_surest_first_with_their_confidence(bundle: Bundle, page: Page) -> None:
    wrong = [a for a in predictions(bundle) if a.label != a.path.parent.name]
    wrong.sort(key=lambda answer: -answer.confidence)
    shown = page.text.partition("Worst mistakes Wrong")[2].partition("Least sure The")[0]
    expected = [
        f"{a.label} {100 * a.confidence:.1f}% true class: {a.path.parent.name}" for a in wrong
    ]
    places = [shown.find(line) for line in expected]
    assert -1 not in places
    assert places == sorted(places)


def test_page_asks_for_nothing_and_hides_nothing(page: Page, page_file: Path) -> None:
    raw = page_file.read_text("utf-8")
    assert not re.search(r"https?://|url\(|@import|<script|<link", raw)
    for tag, name, value in page.attributes:
        if name in ("src", "href", "srcset", "data", "action"):
            assert value.startswith(("data:image/jpeg;base64,", "data:image/png;base64,", "#")), tag
    assert "<b>&" not in raw.replace("&lt;b&gt;&amp;", "")
    assert CLASSES[0] in page.text
    ids = {value for _, name, value in page.attributes if name == "id"}
    assert {value[1:] for _, name, value in page.attributes if name == "href"} <= ids
    assert all(
        value or ("img", "class", "map") in page.attributes
        for tag, name, value in page.attributes
        if (tag, name) == ("img", "alt")
    )


def test_page_says_how_it_was_made(bundle: Bundle, page: Page) -> None:
    assert re.search(rf"vitlora report {bundle.folder} --output \S+/r.html bundle", page.text)
    assert bundle.record.base_digest[:12] in page.text
    assert torch.__version__.partition("+")[0] in page.text
    assert "model: {}" in page.text  # the run's configuration
    assert "How it learned" in page.text


def test_copies_of_training_pictures_are_named(page: Page) -> None:
    assert "1 of 21 pictures is a copy of a training picture: scores are too high" in page.text
    assert "test/b/copy.jpg" in page.text


def test_unreadable_pictures_are_listed_and_left_out(
    bundle: Bundle, tmp_path: Path, make_folder: Any, capsys: Any
) -> None:
    root = make_folder(tmp_path / "new", (*CLASSES, "stranger"), splits=(), count=2)
    (root / "c" / "torn.jpg").write_bytes((root / "c" / "0.jpg").read_bytes()[:300])
    out = ["--data", str(root), "--output", str(tmp_path / "r.html")]
    assert vitlora(["report", str(bundle.folder), *out]) == 0
    page = Page(tmp_path / "r.html")
    assert "6 pictures of" in page.text
    assert "split all" in page.text
    assert "1 picture not scored, because unreadable" in page.text
    assert "torn.jpg" in page.text
    assert "bundle does not have: stranger" in page.text
    said = capsys.readouterr()
    assert "6 pictures" in said.out
    assert "note: left out 1 unreadable picture; see the page" in said.err


def test_a_temperature_and_a_threshold_are_applied(bundle: Bundle, tmp_path: Path) -> None:
    network, transform = Predictor(bundle).network, bundle.record.preprocessing.transform()
    paths = [answer.path for answer in predictions(bundle)]
    with torch.no_grad():
        logits = network(torch.stack([transform(Image.open(path)) for path in paths]))
    sure = (logits / 4).softmax(1).max(1).values
    threshold = float(sure.sort().values[5]) - 1e-5  # five pictures are below
    known = Confidence(
        temperature=4.0,
        unsure_below=threshold,
        chosen_for={"max_error": 0.05},
        coverage=0.71,
        error=0.03,
        calibration_error=(0.2, 0.1),
        unfamiliar_above=2.0,
        images=18,
        confidences=(0.5,) * 11,
        distances=(0.5,) * 11,
    )
    reference = Reference.of(torch.randn(40, 160), torch.arange(40) % 3, 8)
    record, folder = replace(bundle.record, confidence=known), tmp_path / "bundle"
    save_bundle(folder, record, bundle.tensors, bundle.peft, "model: {}\n", None, reference)
    report(folder, output=tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    names = [CLASSES[index] for index in logits.argmax(1).tolist()]
    wrong = [name != path.parent.name for name, path in zip(names, paths, strict=True)]
    answered = (sure >= threshold).tolist()
    share = sum(answered) / len(paths)
    error = sum(a and w for a, w in zip(answered, wrong, strict=True)) / sum(answered)
    assert len(paths) - sum(answered) == 5
    assert f"Here {share:.1%} of the pictures get a sure answer (" in page.text
    assert f") and {error:.1%} of these are wrong (" in page.text
    assert "which says nothing about new pictures" in page.text  # an older bundle's threshold
    assert f"{float(sure.min()):.1%}" in page.text  # the least sure picture's
    assert "After calibration" in page.text
    assert "temperature 4.00" in page.text


def test_who_is_unsure_is_the_judges_word(bundle: Bundle, tmp_path: Path) -> None:
    logits = torch.eye(3)[torch.tensor([0, 1, 2, 0])] * torch.tensor([1.0, 2, 3, 4])[:, None]
    least = float(logits.softmax(1).max(1).values[0])
    known = Confidence(
        temperature=1.0,
        unsure_below=least + 1e-10,  # in fp32 the same number
        chosen_for={"max_error": 0.05},
        coverage=0.71,
        error=0.03,
        calibration_error=(0.2, 0.1),
        unfamiliar_above=2.0,
        images=18,
        confidences=(0.5,) * 11,
        distances=(0.5,) * 11,
    )
    reference = Reference.of(torch.randn(40, 160), torch.arange(40) % 3, 8)
    judging = replace(bundle, record=replace(bundle.record, confidence=known), reference=reference)
    samples = tuple(Sample(tmp_path / f"{i}.jpg", 0) for i in range(4))
    answers = Answers(samples, logits, torch.zeros(4, 160), {})
    pictures = Pictures(tmp_path, "test", list(samples), (), Seen(4))
    page = ReportPage(judging, pictures, answers)
    sure = page.answered()
    assert page.sure.tolist() == [False, True, True, True]
    assert sure is not None
    assert sure[0] == (0.75, exact_interval(3, 4))
    assert sure[1] == (2 / 3, exact_interval(2, 3))


def test_an_earlier_report_is_replaced_and_nothing_else(
    bundle: Bundle, page_file: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle-report.html").write_bytes(page_file.read_bytes()[:3000])
    assert vitlora(["report", str(bundle.folder)]) == 0
    assert Page(tmp_path / "bundle-report.html").images
    assert [path.name for path in tmp_path.iterdir()] == ["bundle-report.html"]
    (tmp_path / "mine.html").write_text("mine")
    (tmp_path / "folder.html").mkdir()
    for out, message in {
        "mine.html": "mine.html' exists and was not written by vitlora",
        "folder.html": "is a folder; expected a file",
        "none/r.html": "its folder does not exist",
        "r.pdf": "ends in .html",
        str(bundle.folder / "r.html"): "inside a bundle",
    }.items():
        with pytest.raises(UsageError, match=message) as caught:
            report(bundle.folder, output=out)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "mine.html").read_text() == "mine"


def test_a_page_bears_the_mark_by_which_it_is_known_again(page_file: Path) -> None:
    assert MARK in page_file.read_bytes()[:2000]


def test_json_holds_the_scores_and_the_page_its_command(
    bundle: Bundle, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["report", str(bundle.folder), "--out", "my page.html", "--split=val", "--device=cpu"]
    assert vitlora([*words, "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    answers = predictions(bundle, "val")
    right = sum(answer.label == answer.path.parent.name for answer in answers)
    assert found["accuracy"] == pytest.approx(right / len(answers), abs=1e-6)
    assert (found["images"], found["split"], found["seen_in_training"]) == (len(answers), "val", 0)
    assert (found["checkpoint"], found["output"]) == (str(bundle.folder), "my page.html")
    assert found["unreadable"] == {}
    assert "note: --out is now called --output; the old name still works" in said.err
    command = f'vitlora report {bundle.folder} --split val --output "my page.html" --device cpu'
    assert command in Page(tmp_path / "my page.html").text


def test_bad_folders_are_refused_in_a_line(
    bundle: Bundle, tmp_path: Path, make_folder: Any
) -> None:
    lacking = make_folder(tmp_path / "lacking", ('<b>&"e', "b", "c"), splits=("test",), count=1)
    whole = make_folder(tmp_path / "whole", CLASSES, splits=("val",), count=1)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"data": tmp_path / "none"}, "--data '.*none': no such folder"),
        ({"data": lacking}, "has no such class .did you mean '<b>&\"é'"),
        ({"data": whole, "split": "test"}, "has no test split; choose --split val"),
    ]
    for options, message in cases:
        with pytest.raises(DataError, match=message) as caught:
            report(bundle.folder, output=tmp_path / "r.html", **options)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("*.html"))


def test_drawn_splits_are_the_ones_held_out(tmp_path: Path, make_folder: Any) -> None:
    root = make_folder(tmp_path / "data", CLASSES, splits=(), count=5)
    train(root, tmp_path / "bundle", adapter=Lora(rank=2))
    bundle, out = load_bundle(tmp_path / "bundle"), tmp_path / "r.html"
    held = FolderData(str(root)).folder.splits["val"]
    report(bundle.folder, output=out)
    page = Page(out)
    assert "3 pictures of" in page.text
    assert "split val" in page.text
    assert "Training compared its epochs on these pictures" in page.text
    assert "none is an exact copy of a training picture" in page.text
    moved = shutil.copytree(root, tmp_path / "moved")
    report(bundle.folder, data=moved, output=out)
    assert "3 pictures of" in Page(out).text  # a copy is recognised, and split the same
    (held_out,) = (a.name for a in (sample.path for sample in held) if a.parent.name == "b")
    (moved / "b" / held_out).unlink()
    report(bundle.folder, data=moved, output=out)
    assert "2 of 3 val pictures are still there and are scored" in Page(out).text
    assert "2 pictures of" in Page(out).text
    for sample in held:
        sample.path.unlink(missing_ok=True)
    with pytest.raises(BundleError, match="is not the one of training"):
        report(bundle.folder, output=out)


def test_ten_thousand_pictures_make_a_page_of_a_few_megabytes(
    bundle: Bundle, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    paths = []
    for index in range(10):
        noise = torch.randint(256, (300, 300, 3), dtype=torch.uint8).numpy()
        paths.append(tmp_path / f"{index}.jpg")
        Image.fromarray(noise).save(paths[-1])
    samples = tuple(Sample(paths[i % 10], i % 3) for i in range(10_000))
    unread = {tmp_path / f"{i}.png": "damaged" for i in range(10_000)}
    answers = Answers(samples, torch.randn(10_000, 3), torch.zeros(10_000, 1), unread)
    pictures = Pictures(tmp_path, "test", list(samples), (), Seen(len(samples)))
    content = ReportPage(bundle, pictures, answers)
    network = Predictor(bundle).network
    (tmp_path / "r.html").write_text(content.html(network, torch.device("cpu"), ""), "utf-8")
    page = Page(tmp_path / "r.html")
    assert sum(n for name, n in page.images.items() if name.startswith("cell")) == 400
    assert "9,950 more" in page.text
    assert (tmp_path / "r.html").stat().st_size < 8_000_000  # noise is the worst there is


@pytest.fixture(scope="module")
def large_page(bundle: Bundle, tmp_path_factory: Any) -> Path:
    """A report on 20,000 answers by chance, of 1,000 classes."""
    folder = tmp_path_factory.mktemp("many")
    names = tuple(f"class {n:03}" for n in range(1000))
    record = replace(bundle.record, classes=names, confidence=None)
    many = replace(bundle, record=record)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 300, 300, 3), np.uint8)
    paths = [folder / f"{number}.jpg" for number in range(8)]
    for path, one in zip(paths, pixels, strict=True):
        Image.fromarray(one).save(path)
    logits = torch.randn(20_000, 1000, generator=torch.manual_seed(0))
    logits[:10_000, 3] += 4  # so that some confusions are more frequent than others
    samples = tuple(Sample(paths[i % 8], 7 * i % 999) for i in range(20_000))  # none of class 999
    answers = Answers(samples, logits, torch.zeros(20_000, 1), {})
    pictures = Pictures(folder, "test", list(samples), (), Seen(len(samples)))
    content = ReportPage(many, pictures, answers)
    network = Predictor(bundle).network
    network.head = torch.nn.Linear(network.head.in_features, 1000)
    html = content.html(network, torch.device("cpu"), "")
    (folder / "page.html").write_text(html, "utf-8")
    return folder / "page.html"


def test_a_thousand_classes_make_a_small_page_with_the_worst_first(large_page: Path) -> None:
    page, html = Page(large_page), large_page.read_text("utf-8")
    assert large_page.stat().st_size < 8_000_000  # noise is the worst there is
    assert "1,000 classes are too many for a matrix" in page.text
    links = re.findall(
        r'<a href="#(cell-\d+-3)">class (\d+) taken for class 003</a>: (\d+) of', html
    )
    assert len(links) == 30
    counts = [int(count) for _, _, count in links]
    assert counts == sorted(counts, reverse=True) and counts[-1] > 1
    cells = {name for name in page.images if name.startswith("cell")}
    assert cells == {cell for cell, _, _ in links}
    assert "The other 970 classes" in page.text
    rows = re.findall(
        r'class="name-cell">class (\d+)</th><td>(\d+)</td><td>([\d.]+)%.*?([\d.]+)%</td><td class',
        html,
    )
    f1 = [float(row[-1]) for row in rows]
    assert len(rows) == 999 and f1 == sorted(f1)
    assert html.index("class 999</th>") > html.rindex("%</td><td>")  # without pictures: the last


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_picture_is_shown_as_the_network_saw_it(bundle: Bundle, crop_mode: str) -> None:
    seen = replace(bundle.record.preprocessing, crop_mode=crop_mode, crop_pct=0.5, image_size=64)
    seen = seen if crop_mode == "center" else replace(seen, crop_pct=1.0)
    picture = Image.radial_gradient("L").resize((300, 200)).convert("RGB")
    if crop_mode == "squash":
        expected = picture.resize((64, 64), Image.Resampling.BICUBIC)
    elif crop_mode == "border":  # the long side to 64, the mean above and below
        grey = tuple(round(255 * value) for value in seen.mean)
        expected = Image.new("RGB", (64, 64), grey)
        expected.paste(picture.resize((64, 43), Image.Resampling.BICUBIC), (0, 10))
    else:  # the short side to 64 / 0.5, then the middle
        expected = picture.resize((192, 128), Image.Resampling.BICUBIC).crop((64, 32, 128, 96))
    got = as_seen(seen.transform()(picture), seen)
    difference = [abs(a - b) for a, b in zip(got.tobytes(), expected.tobytes(), strict=True)]
    assert got.size == (64, 64)
    assert max(difference) <= 2


SCRIPT = """<script>
onload = () => {
  const shown = () => [...document.querySelectorAll(".cell img")].filter(i => i.offsetWidth).length;
  const before = shown();
  document.querySelector(".matrix td.miss a").click();
  setTimeout(() => parent.postMessage({
    width: document.documentElement.scrollWidth, room: innerWidth, before, after: shown(),
    asked: document.querySelector(".matrix td.miss a").textContent,
    broken: [...document.images].filter(i => !i.naturalWidth).length,
  }, "*"), 200);
};
</script></body>"""
FRAME = """<!doctype html><iframe src="page.html" style="border:0;width:{}px;height:900px"></iframe>
<pre></pre><script>
onmessage = e => document.querySelector("pre").textContent = JSON.stringify(e.data);
</script>"""


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_in_a_browser_it_fits_and_a_click_shows_pictures(
    page_file: Path, tmp_path: Path, width: int
) -> None:
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium: scripts/install-chromium")
    (tmp_path / "page.html").write_text(page_file.read_text("utf-8").replace("</body>", SCRIPT))
    (tmp_path / "frame.html").write_text(FRAME.format(width))
    words = "--headless --no-sandbox --disable-gpu --virtual-time-budget=5000 --dump-dom"
    options = [*words.split(), f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000"]
    done = subprocess.run(
        [browser, *options, (tmp_path / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r"<pre>(\{.*\})</pre>", done.stdout)
    assert found, done.stderr[-500:]
    seen = json.loads(found[1])
    assert seen["room"] == width
    assert seen["width"] <= width
    assert (seen["before"], seen["after"]) == (0, int(seen["asked"]))
    assert seen["broken"] == 0
