"use strict";
// The square that a network sees of a picture, to the grey level as vitlora/data/framing.py has it.
// Pillow scales in two passes, and rounds after each to 8 bits; so does this.

const BITS = 22; // of the fixed-point weights, as in Pillow's Resample.c

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const hamming = (x) => Math.fround(0.54) + Math.fround(0.46) * Math.cos(Math.PI * x);
const cubic = (x) => // a = -0.5
  x < 1 ? (1.5 * x - 2.5) * x * x + 1 : -0.5 * (((x - 5) * x + 8) * x - 4);

// Pillow's filters: how far they reach, and the weight of a pixel at a distance, left or right.
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) < 1 ? sinc(x) * hamming(x) : 0)],
  bicubic: [2, (x) => (Math.abs(x) < 2 ? cubic(Math.abs(x)) : 0)],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

// The pixels that make each of `count` new ones, from the one numbered `first`, and their weights.
function contributions(name, oldSide, newSide, first, count) {
  const scale = oldSide / newSide;
  const all = [];
  for (let at = first; at < first + count; at++) {
    const centre = (at + 0.5) * scale;
    if (name === "nearest") {
      all.push({ start: Math.floor(centre), weights: Int32Array.of(1 << BITS) });
      continue;
    }
    const [reach, weigh] = FILTERS[name];
    const wide = Math.max(scale, 1); // shrinking, a filter covers all that a new pixel stands for
    const start = Math.max(0, Math.trunc(centre - reach * wide + 0.5));
    const end = Math.min(oldSide, Math.trunc(centre + reach * wide + 0.5));
    const exact = [];
    for (let x = start; x < end; x++) exact.push(weigh((x - centre + 0.5) / wide));
    const sum = exact.reduce((a, b) => a + b, 0) || 1;
    const fixed = exact.map((w) => Math.trunc((w / sum) * (1 << BITS) + (w / sum < 0 ? -0.5 : 0.5)));
    all.push({ start, weights: Int32Array.from(fixed) });
  }
  return all;
}

// One pass: RGB of `lines` lines, of which neighbours lie `step` bytes apart and lines `line` bytes.
function pass(from, to, lines, made) {
  const { data, step } = from;
  const half = 1 << (BITS - 1);
  for (let n = 0; n < lines; n++) {
    for (let at = 0; at < made.length; at++) {
      const { start, weights } = made[at];
      let [red, green, blue] = [half, half, half];
      let place = from.offset + n * from.line + start * step;
      for (let k = 0; k < weights.length; k++, place += step) {
        red += data[place] * weights[k];
        green += data[place + 1] * weights[k];
        blue += data[place + 2] * weights[k];
      }
      const target = to.offset + n * to.line + at * to.step;
      to.data[target] = red >> BITS; // cut to 0..255
      to.data[target + 1] = green >> BITS;
      to.data[target + 2] = blue >> BITS;
    }
  }
}

function roundHalfEven(x) { // as Python's round
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2) : Math.round(x);
}

// The sides that a picture is scaled to. A very thin one keeps a pixel.
function scaledSides(width, height, view) {
  if (view.mode === "squash") return [view.scaled, view.scaled];
  if (view.mode === "border") {
    const ratio = Math.max(width / view.scaled, height / view.scaled);
    return [width, height].map((side) => Math.max(1, roundHalfEven(side / ratio)));
  }
  const long = Math.trunc((view.scaled * Math.max(width, height)) / Math.min(width, height));
  return width <= height ? [view.scaled, long] : [long, view.scaled];
}

// Along one side: which scaled pixels are in the square, and where in it they start.
function seenPart(scaled, size) {
  const canvas = Math.max(scaled, size);
  const from = roundHalfEven((canvas - size) / 2) - Math.floor((canvas - scaled) / 2);
  const at = Math.max(0, -from);
  const first = Math.max(0, from);
  return { at, first, count: Math.min(size - at, scaled - first) };
}

// Whether Pillow scales columns before rows: from 13 on, if that saves work (its pull request 9549).
const tallFirst = (width, height, wide, high, view) =>
  view.tall_first && height > high && height - high > 2 * (width - wide);

// Returns the square as bytes, RGB, row by row.
// read(x, y, width, height) returns a part of the upright picture as RGBA; `view` is a Framing.
// It is read in strips: phones refuse a canvas of a whole photo.
function frame(read, width, height, view) {
  const { size, fill, interpolation } = view;
  const [wide, high] = scaledSides(width, height, view);
  const [across, down] = [seenPart(wide, size), seenPart(high, size)];
  const columns = contributions(interpolation, width, wide, across.first, across.count);
  const rows = contributions(interpolation, height, high, down.first, down.count);
  const square = new Uint8ClampedArray(3 * size * size);
  for (let n = 0; n < square.length; n++) square[n] = fill[n % 3];
  const start = 3 * (down.at * size + across.at);
  const STRIP = 256;
  if (tallFirst(width, height, wide, high, view)) {
    const flat = new Uint8ClampedArray(3 * width * down.count);
    for (let x = 0; x < width; x += STRIP) {
      const count = Math.min(STRIP, width - x);
      const from = { data: read(x, 0, count, height), offset: 0, line: 4, step: 4 * count };
      pass(from, { data: flat, offset: 3 * x, line: 3, step: 3 * width }, count, rows);
    }
    const to = { data: square, offset: start, line: 3 * size, step: 3 };
    pass({ data: flat, offset: 0, line: 3 * width, step: 3 }, to, down.count, columns);
  } else {
    const line = 3 * across.count;
    const narrow = new Uint8ClampedArray(height * line);
    for (let y = 0; y < height; y += STRIP) {
      const count = Math.min(STRIP, height - y);
      const from = { data: read(0, y, width, count), offset: 0, line: 4 * width, step: 4 };
      pass(from, { data: narrow, offset: y * line, line, step: 3 }, count, columns);
    }
    const to = { data: square, offset: start, line: 3, step: 3 * size };
    pass({ data: narrow, offset: 0, line: 3, step: line }, to, across.count, rows);
  }
  return new Uint8Array(square.buffer);
}
