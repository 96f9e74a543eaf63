"""The demo's page in Chromium: what a person sees and does there."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import BROWSER, Tab, chromium
from PIL import Image
from runs import train
from serving.servers import running, until

from vitlora.adapters import Lora
from vitlora.pages.page import shared_script

CARDS = """[...document.querySelectorAll('#answers > li')].map((card) => ({
  label: card.querySelector('h3')?.textContent, text: card.innerText,
  canvas: !!card.querySelector('.picture canvas'),
  images: [...card.querySelectorAll('.picture img')].map((one) => one.naturalWidth)}))"""
ANSWERED = "started.then(() => new Promise((done) => setTimeout(() => turn.then(done), 50)))"
QUIET = "new Promise((done) => setTimeout(done, 100))"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: Any, make_folder: Any) -> Iterator[tuple[Path, str]]:
    """A folder, in which the command runs with two adapters, and the page's address."""
    if BROWSER is None:
        pytest.skip("no Chromium: scripts/install-chromium")
    home = tmp_path_factory.mktemp("demo")
    for name, classes in {"two": ("a", "b"), "three": ("<b>&", "y", "z")}.items():
        train(make_folder(home / f"{name} photos", classes), home / name, adapter=Lora(rank=4))
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment.pop("VITLORA_TOKEN", None)
    words = ("demo", "two", "three", "--no-browser")
    with running(*words, cwd=home, env=environment, seconds=300) as process:
        assert process.stdout
        line = process.stdout.readline()
        found = re.fullmatch(r"open (http://127\.0\.0\.1:\d+/#[\w-]{20,}) in a browser\n", line)
        assert found, (line, process.poll())
        yield home, found[1]
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 0 and said.startswith("stopped; ")


@pytest.fixture(scope="module")
def tab(demo: tuple[Path, str]) -> Iterator[Tab]:
    with chromium() as opened:
        yield opened


def opened(tab: Tab, address: str, width: int = 1280, language: str = "en-US") -> Tab:
    tab.look(width)
    tab.open("about:blank")  # or only what stands behind the # would change
    tab.open(address, language)
    return tab


def test_answers_maps_and_corrections(tab: Tab, demo: tuple[Path, str]) -> None:
    home, address = demo
    opened(tab, address)
    good = sorted((home / "two photos" / "val").rglob("*.jpg"))[:2]
    (home / "torn.jpg").write_bytes(b"\xff\xd8torn")
    Image.new("RGB", (50, 40), "red").save(home / "old.tif")  # which Chromium cannot show
    tab.choose([*good, home / "torn.jpg", home / "old.tif"])
    tab.run(ANSWERED)
    tif, torn, *cards = tab.run(CARDS)
    assert all(card["label"] in "ab" and card["canvas"] for card in cards)
    assert "torn.jpg" in torn["text"] and "No answer" in torn["text"]
    assert tif["label"] in "ab"
    for press in (1, 2):
        tab.run("document.querySelector('#answers > li:last-child button').click()")
        wait(
            tab,
            f"document.querySelectorAll('#answers > li:last-child img').length === {4 - 2 * press}",
        )
    tab.run("document.querySelector('#answers > li:last-child button').click()")
    wait(tab, "document.querySelectorAll('#answers > li:last-child img').length === 2")
    tif, _, _, card = tab.run(CARDS)
    assert all(card["images"]) and len(tif["images"]) == 2
    assert "what speaks for" in card["text"]
    correct = """{ const card = document.querySelector('#answers > li:last-child');
      card.querySelector('details').open = true;
      card.querySelector('input').value = '%s'; card.querySelector('form button').click() }"""
    tab.run(correct % "../up")
    wait(tab, "document.getElementById('status').textContent.startsWith('Not kept')")
    tab.run(correct % "b")
    wait(tab, "document.getElementById('status').textContent.startsWith('Kept')")
    kept = home / "corrections" / "two" / "b" / good[0].name
    assert kept.read_bytes() == good[0].read_bytes()
    here = address.partition("#")[0]
    assert all(url.startswith((here, "data:", "about:")) for url in tab.asked)
    assert not [line for line in tab.logged if "status of 422" not in line]


def wait(tab: Tab, condition: str) -> None:
    until(lambda: tab.run(condition))


def test_an_error_names_its_picture(tab: Tab, demo: tuple[Path, str]) -> None:
    home, address = demo
    with (home / "long.jpg").open("wb") as file:
        file.truncate(33_000_000)
    (home / "torn.jpg").write_bytes(b"torn")
    opened(tab, address).choose([home / "long.jpg", home / "torn.jpg"])
    tab.run(ANSWERED)
    torn, long = (card["text"] for card in tab.run(CARDS))
    assert long.startswith("No answer. long.jpg: more than 32,000,000 bytes, the limit of this")
    assert torn == "No answer. torn.jpg: not a picture, whatever its name says"


def test_after_a_failure_the_map_is_explained_again(tab: Tab, demo: tuple[Path, str]) -> None:
    home, address = demo
    opened(tab, address)
    tab.choose(sorted((home / "two photos" / "val").rglob("*.jpg"))[:1])
    tab.run(ANSWERED)
    press = "document.querySelector('#answers button').click()"
    says = "document.getElementById('answers').innerText.includes('%s')"
    once = "fetch = () => { fetch = real; return Promise.reject() }"
    tab.run(f"{{ const real = fetch; {once}; {press} }}")
    wait(tab, says % "does not answer")
    tab.run(press)
    wait(tab, says % "what speaks for")
    assert not tab.run(says % "does not answer")


def test_another_adapter_answers_the_next_pictures(tab: Tab, demo: tuple[Path, str]) -> None:
    home, address = demo
    opened(tab, address).run("started")
    options = tab.run("[...document.getElementById('adapter').options].map((one) => one.text)")
    assert options == ["two", "three"]
    tab.run("""{ const field = document.getElementById('adapter');
      field.value = 'three'; field.dispatchEvent(new Event('change')) }""")
    assert tab.run("document.getElementById('names').textContent") == "<b>&, y, z"
    tab.choose(sorted((home / "three photos" / "val").rglob("*.jpg"))[:1])
    tab.run(ANSWERED)
    (card,) = tab.run(CARDS)
    assert card["label"] in ("<b>&", "y", "z") and "· three" in card["text"]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(("language", "words"), [("en-US", "Where the"), ("es-ES", "Dónde miró")])
def test_it_fits_and_speaks_the_browsers_language(
    tab: Tab, demo: tuple[Path, str], width: int, language: str, words: str
) -> None:
    home, address = demo
    opened(tab, address, width, language)
    tab.choose(sorted((home / "two photos" / "val").rglob("*.jpg"))[:1])
    tab.run(ANSWERED)
    tab.run("document.querySelector('details:not(#known)').open = true")
    assert words in tab.run("document.body.innerText")
    assert tab.run("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("wrong", ["", "#", "#0123456789abcdef0123456", "#%"])
def test_without_the_token_it_says_which_address_to_open(
    tab: Tab, demo: tuple[Path, str], wrong: str
) -> None:
    opened(tab, demo[1].partition("#")[0] + wrong).run(QUIET)
    wait(tab, "document.getElementById('status').textContent.startsWith('Open the address')")
    tab.run(f"void (location.hash = '{demo[1].partition('#')[2]}')")
    wait(tab, "document.getElementById('status')?.textContent === 'Ready.'")


def test_its_policy_forbids_to_send_elsewhere(tab: Tab, demo: tuple[Path, str]) -> None:
    opened(tab, demo[1])
    assert tab.run("fetch('http://localhost:1/x').then(() => 'came', () => 'refused')") == "refused"
    assert any("Content Security Policy" in line for line in tab.logged)


def test_every_text_that_its_page_asks_for_is_there() -> None:
    script = (Path(__file__).parents[2] / "vitlora/serving/demo.js").read_text("utf-8")
    for key in re.findall(r'\btext\("(\w+)"', script):
        assert shared_script().count(f"    {key}: ") == 2, key
