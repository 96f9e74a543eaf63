"""The cardboard box."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from vitlora.data.drawn.paint import COLOURS, KRAFT, Array, Colour, Image, noise, pick, write
from vitlora.data.drawn.rays import SHEET, Panels
from vitlora.data.drawn.thing import Thing, turned

TAPES = ((206, 178, 128), (150, 104, 60), (222, 214, 196))
Panel = tuple[Array, Array, Array]  # a corner and two edges


def cardboard_box(rng: np.random.Generator) -> Thing:
    """Returns a carton, mostly brown: closed and taped, or with each flap open at its own angle."""
    size = np.array([rng.uniform(0.7, 1.3), rng.uniform(0.4, 1.2), rng.uniform(0.7, 1.3)])
    tone = pick(rng, KRAFT if rng.random() < 0.65 else COLOURS)
    tape = pick(rng, TAPES)
    right, up, front = np.diag(2 * size).astype(np.float32)
    zero = np.zeros(3, np.float32)
    panels: list[Panel] = [
        (right, -right, up), (front, right, up), (zero, front, up), (right + front, -front, up),
        (zero, right, front),
    ]  # fmt: skip
    skins = [_marked(rng, _cardboard(rng, tone, True)) for _ in range(4)]
    skins.append(_cardboard(rng, tone, False))
    taped, fallen = rng.random() < 0.7, rng.random() < 0.2
    if rng.random() < 0.45:
        panels.append((up, right, front))
        skins.append(_lid(rng, tone))
        if taped:
            skins[-1][40:56] = tape
            for skin in skins[2:4]:
                skin[:22, 40:56] = tape
    else:
        for flap in _flaps(rng, size, fallen):
            panels.append(flap)
            skins.append(_cardboard(rng, tone, True))
    lean = np.eye(3, dtype=np.float32)
    lean[0, 1], lean[2, 1] = rng.normal(0, 0.05, 2)
    panels = [(lean @ corner, lean @ a, lean @ b) for corner, a, b in panels]
    spin = pick(rng, (0, np.pi / 2, np.pi))
    return Thing(Panels(panels, skins), turned(fallen * np.pi / 2, spin, rng.uniform(0, 6.3)))


def _flaps(rng: np.random.Generator, size: Array, fallen: bool) -> Iterator[Panel]:
    """Yields the four flaps of a carton of this half size (3,), ajar all alike or each its way."""
    ajar = rng.uniform(-0.9, 1.9, 4) if rng.random() < 0.8 else [rng.uniform(0.6, 1.9)] * 4
    if fallen:
        ajar = rng.uniform(-0.8, 0.1, 4)
    right, up, front = np.diag(2 * size).astype(np.float32)
    x, y, z = size.tolist()
    hinges = ((up, right, -front / z), (up + front, right, front / z),
              (up, front, -right / x), (up + right, front, right / x))  # fmt: skip
    for (corner, edge, outward), angle in zip(hinges, ajar, strict=True):
        reach = outward / 2 * np.sin(angle) + up / (2 * y) * np.cos(angle)
        yield corner, edge, (min(x, z) * rng.uniform(0.8, 1) * reach).astype(np.float32)


def _lid(rng: np.random.Generator, tone: Colour) -> Image:
    """Returns a closed carton's top, (SHEET, SHEET), with the gap between its flaps."""
    marked = rng.random() < 0.4
    lid = _cardboard(rng, tone, False)
    if marked:
        _marked(rng, lid)
    lid[47:49] = np.array(tone) // 3
    return lid


def _cardboard(rng: np.random.Generator, tone: Colour, across: bool) -> Image:
    """Returns a sheet of cardboard, (SHEET, SHEET): fibres, faint flutes and a paler cut edge."""
    fibres = 1 + 0.14 * noise(rng, (SHEET, SHEET), (4, 20, 60))
    sheet = np.full((SHEET, SHEET, 3), tone, np.float32) * fibres[..., None]
    flutes = 1 + 0.035 * np.sin(np.arange(SHEET) * 1.4)
    sheet *= flutes[None, :, None] if across else flutes[:, None, None]
    edge = np.array(tone) * 0.5 + 110
    sheet[:2], sheet[-2:], sheet[:, :2], sheet[:, -2:] = edge, edge * 0.8, edge * 0.9, edge * 0.9
    return np.clip(sheet, 0, 255).astype(np.uint8)


def _marked(rng: np.random.Generator, sheet: Image) -> Image:
    """Prints shipping marks on a side: arrows, a band, a bar code, an address label or a word."""
    ink = pick(rng, ((44, 36, 30), (44, 36, 30), *COLOURS[:4]))
    for mark in rng.permutation(5)[: int(rng.integers(0, 4))]:
        if mark == 0:
            for x in (62, 78):
                cv2.arrowedLine(sheet, (x, 44), (x, 14), ink, 3, cv2.LINE_AA, tipLength=0.4)
        elif mark == 1:
            sheet[70:80] = ink
        elif mark == 2:
            for x in np.cumsum(rng.integers(2, 5, 10)):
                cv2.line(sheet, (8 + int(x), 54), (8 + int(x), 66), (30, 28, 26), 1)
        elif mark == 3:
            cv2.rectangle(sheet, (10, 12), (48, 42), (240, 238, 232), -1)
            for y in (20, 26, 32):
                cv2.line(sheet, (14, y), (int(rng.integers(30, 46)), y), (60, 60, 64), 1)
        else:
            word = pick(rng, ("FRAGILE", "THIS UP", "PARTS", "24 PCS"))
            write(sheet, word, (10, 90), 0.5, ink, 1)
    return sheet
