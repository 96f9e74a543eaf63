"""Printed labels: a ground colour, one of five motifs and mostly a word, twice round the thing."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from vitlora.data.drawn.paint import COLOURS, Colour, Image, pick, write


def label(rng: np.random.Generator, size: tuple[int, int], words: Sequence[str]) -> Image:
    """Returns a label of this height and width in pixels; an empty word stays unwritten."""
    height, width = size
    ground, second, third = (pick(rng, COLOURS) for _ in range(3))
    art = np.full((height, width, 3), ground, np.uint8)
    pick(rng, (_waves, _belt, _rings, _wedges, _stripes))(rng, art, second, third)
    ink = (245, 244, 238) if sum(ground) < 400 else (28, 26, 30)
    word = pick(rng, words)
    if word and rng.random() < 0.85:
        (wide, tall), _ = cv2.getTextSize(word, cv2.FONT_HERSHEY_DUPLEX, 1, 2)
        scale = min(width * 0.36 / wide, height * 0.34 / tall)
        foot = int(height / 2 + tall * scale / 2)
        for middle in (0.25, 0.75):
            write(art, word, (int(width * middle - wide * scale / 2), foot), scale, ink, 3)
    return art


def _waves(rng: np.random.Generator, art: Image, second: Colour, third: Colour) -> None:
    height, width = art.shape[:2]
    y, x = np.ogrid[:height, :width]
    for shift, colour in ((0, second), (height // 8, third)):
        wave = height * (0.5 + 0.2 * np.sin(x / width * 4 * np.pi + rng.uniform(0, 6)))
        art[y > wave.astype(int) + shift] = colour


def _belt(rng: np.random.Generator, art: Image, second: Colour, third: Colour) -> None:
    height = art.shape[0]
    art[height // 3 : height * 2 // 3] = second


def _rings(rng: np.random.Generator, art: Image, second: Colour, third: Colour) -> None:
    height, width = art.shape[:2]
    for middle in (width // 4, width // 2 + width // 4):
        for size, colour in ((0.36, second), (0.26, third)):
            spot = (middle, height // 2)
            cv2.circle(art, spot, int(height * size), colour, -1, cv2.LINE_AA)


def _wedges(rng: np.random.Generator, art: Image, second: Colour, third: Colour) -> None:
    height, width = art.shape[:2]
    wedge = np.array([(0, height), (width // 4, 0), (width // 3, 0), (60, height)], np.int32)
    for half in (art[:, : width // 2], art[:, width // 2 :]):
        cv2.fillPoly(half, [wedge], second, cv2.LINE_AA)


def _stripes(rng: np.random.Generator, art: Image, second: Colour, third: Colour) -> None:
    art[:, np.arange(art.shape[1]) // int(rng.integers(12, 40)) % 2 == 0] = second
