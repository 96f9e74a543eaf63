"use strict";
// The page: pictures in, answers out. NETWORK and `frame` come from the scripts before it.

const TEXTS = {
  en: {
    about: "Names what a picture shows. Pictures stay on this device: this page sends nothing.",
    classes: "It knows {n} classes",
    choose: "Choose pictures",
    photo: "Take a photo",
    hint: "Or drop pictures anywhere on this page, or paste one.",
    answers: "Answers",
    loading: "Loading the network …",
    ready: "Ready.",
    looking: "Looking at {name} …",
    unsure: "Unsure",
    unsureWhy: "With so little confidence, too many answers are wrong. Check this one yourself.",
    unprovenWhy: "There were too few pictures to tell how often its answers are right. Check this one yourself.",
    unfamiliar: "Unlike the training pictures",
    unfamiliarWhy: "The network has not learnt from pictures like this. Do not rely on its answer.",
    deep: "More than 8 bits",
    deepWhy: "This page reads 8 bits of each colour, so the brightness may be wrong.",
    raw: "The confidence is not calibrated, so no answer is marked as unsure or unfamiliar.",
    unread: "{name}: no picture, damaged, or of a kind that this browser cannot read. Save it as JPEG.",
    altered: "This browser alters pictures before a page may read them, against tracking. Allow this page to read canvas data, then load it again.",
    failed: "The network does not run in this browser. It needs Chrome 97, Firefox 113, Safari 16.4 or newer, and enough memory. ({why})",
    pasted: "pasted picture",
  },
  es: {
    about: "Dice qué muestra una imagen. Las imágenes no salen de este dispositivo: esta página no envía nada.",
    classes: "Conoce {n} clases",
    choose: "Elegir imágenes",
    photo: "Tomar una foto",
    hint: "También puede arrastrar imágenes a cualquier parte de la página, o pegar una.",
    answers: "Respuestas",
    loading: "Cargando la red …",
    ready: "Lista.",
    looking: "Analizando {name} …",
    unsure: "Respuesta insegura",
    unsureWhy: "Con tan poca confianza, demasiadas respuestas son erróneas. Compruébela usted.",
    unprovenWhy: "Había muy pocas imágenes para saber con qué frecuencia acierta. Compruébela usted.",
    unfamiliar: "Distinta de las imágenes de entrenamiento",
    unfamiliarWhy: "La red no ha aprendido de imágenes como esta. No se fíe de la respuesta.",
    deep: "Más de 8 bits",
    deepWhy: "Esta página lee 8 bits de cada color, así que el brillo puede ser incorrecto.",
    raw: "La confianza no está calibrada, así que ninguna respuesta se marca como insegura o distinta.",
    unread: "{name}: no es una imagen, está dañada o este navegador no puede leerla. Guárdela como JPEG.",
    altered: "Este navegador altera las imágenes antes de que una página las lea, para evitar el rastreo. Permita que esta página lea datos del canvas y vuelva a cargarla.",
    failed: "La red no funciona en este navegador. Necesita Chrome 97, Firefox 113, Safari 16.4 o posterior, y memoria suficiente. ({why})",
    pasted: "imagen pegada",
  },
};

const language = navigator.languages.map((l) => l.slice(0, 2)).find((l) => TEXTS[l]) || "en";
const text = (key, values = {}) =>
  TEXTS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
const SHOWN = 3; // classes for a picture
const byId = (id) => document.getElementById(id);
const one = { minimumFractionDigits: 1, maximumFractionDigits: 1 };
const digits = new Intl.NumberFormat(language, { style: "percent", ...one });
const percent = (share) => (share > 0.999 ? "> " : "") + digits.format(Math.min(share, 0.999));

// Screen readers tell what the status says; eyes need it only until it stands among the answers.
function say(words, answered = false) {
  byId("status").classList.toggle("unseen", answered);
  byId("status").textContent = words;
}

// What lies in the page packed: base64 of gzip, in several data blocks. They are removed.
async function unpacked(kind) {
  const parts = [...document.querySelectorAll(`script[data-part="${kind}"]`)].map((block) => {
    const letters = atob(block.textContent);
    const bytes = new Uint8Array(letters.length);
    for (let n = 0; n < bytes.length; n++) bytes[n] = letters.charCodeAt(n);
    block.remove();
    return bytes;
  });
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start() {
  if (!readsTrue()) throw new Error("canvas");
  ort.env.wasm.numThreads = 1; // more of them need headers that a file does not have
  ort.env.wasm.wasmBinary = await unpacked("runtime");
  return ort.InferenceSession.create(await unpacked("network"));
}

// Whether a page reads what it drew: against tracking, some browsers return other pixels.
function readsTrue() {
  const { context } = sheet(16, 16);
  const drawn = context.createImageData(16, 16);
  drawn.data.forEach((_, n) => (drawn.data[n] = n % 4 === 3 ? 255 : n % 251));
  context.putImageData(drawn, 0, 0);
  const read = context.getImageData(0, 0, 16, 16).data;
  return read.reduce((sum, value, n) => sum + Math.abs(value - drawn.data[n]), 0) < read.length;
}

function sheet(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  return { canvas, context: canvas.getContext("2d", { willReadFrequently: true }) };
}

// Upright, in sRGB unless the network has learnt from colours as they are stored.
const opened = (file) =>
  createImageBitmap(file, {
    imageOrientation: "from-image",
    colorSpaceConversion: NETWORK.srgb ? "default" : "none",
  });

// The square that the network sees of a bitmap; transparency is laid on white.
function squareOf(bitmap) {
  const read = (x, y, width, height) => {
    const { context } = sheet(width, height);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, -x, -y);
    return context.getImageData(0, 0, width, height).data;
  };
  return frame(read, bitmap.width, bitmap.height, NETWORK.framing);
}

// Whether a file is a PNG of 16 bits, of which a browser reads 8.
async function isDeep(file) {
  const start = new Uint8Array(await file.slice(0, 25).arrayBuffer());
  return start[0] === 0x89 && start[1] === 0x50 && start[24] === 16;
}

async function answerTo(square) {
  const { size } = NETWORK.framing;
  const pictures = new ort.Tensor("uint8", square, [1, size, size, 3]);
  const names = ["probabilities", ...(NETWORK.marks ? ["distances"] : [])];
  const said = await (await session).run({ pictures }, names);
  const top = [...said.probabilities.data]
    .map((confidence, n) => ({ name: NETWORK.classes[n], confidence }))
    .sort((a, b) => b.confidence - a.confidence);
  const { marks } = NETWORK;
  return {
    top,
    unsure: !!marks && top[0].confidence < marks.unsure_below,
    unfamiliar: !!marks && said.distances.data[0] > marks.unfamiliar_above,
  };
}

function element(tag, content, className = "") {
  const made = document.createElement(tag);
  made.append(...[content].flat());
  made.className = className;
  return made;
}

function thumbnail(bitmap, name) {
  const scale = 320 / Math.max(bitmap.width, bitmap.height);
  const sides = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const { canvas, context } = sheet(...sides);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, ...sides);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", name);
  return canvas;
}

function bar({ name, confidence }) {
  const meter = Object.assign(document.createElement("meter"), { value: confidence });
  meter.setAttribute("aria-hidden", "true"); // the number beside it says the same
  return element("li", [element("span", name), meter, element("span", percent(confidence))]);
}

// a threshold above 1 marks every answer: nothing could be promised
const why = (mark) =>
  text(mark === "unsure" && NETWORK.marks.unsure_below > 1 ? "unprovenWhy" : `${mark}Why`);

function card(name, bitmap, answer, marks) {
  const doubts = marks.map((mark) =>
    element("p", [element("strong", `${text(mark)}.`), " ", why(mark)], "mark"));
  const words = [
    element("h3", answer.top[0].name),
    ...doubts,
    element("ol", answer.top.slice(0, SHOWN).map(bar)),
    element("p", name, "soft"),
  ];
  return element("li", [thumbnail(bitmap, name), element("div", words)]);
}

async function show(file) {
  const name = file.name || text("pasted");
  say(text("looking", { name }));
  await new Promise((resolve) => setTimeout(resolve, 20)); // lets the browser show that
  const bitmap = await opened(file).catch(() => null);
  if (!bitmap) return fail(text("unread", { name }));
  try {
    const answer = { ...(await answerTo(squareOf(bitmap))), deep: await isDeep(file) };
    const marks = ["unsure", "unfamiliar", "deep"].filter((mark) => answer[mark]);
    const [best] = answer.top;
    byId("answers").prepend(card(name, bitmap, answer, marks));
    const doubts = marks.map((mark) => text(mark));
    say([`${name}: ${best.name}, ${percent(best.confidence)}`, ...doubts].join(". "), true);
  } catch (error) {
    fail(whyNot(error));
  } finally {
    bitmap.close();
  }
}

const whyNot = (error) => (readsTrue() ? text("failed", { why: error.message }) : text("altered"));

function fail(words) {
  byId("answers").prepend(element("li", element("p", words, "mark"), "failed"));
  say(words, true);
}

let turn = Promise.resolve(); // pictures take turns
const add = (files) => [...files].forEach((file) => (turn = turn.then(() => show(file))));

function listen() {
  for (const input of document.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      add(input.files);
      input.value = ""; // the same picture may be chosen again
    });
  }
  const over = (event, is) => {
    event.preventDefault(); // the browser would show the picture instead of this page
    document.body.classList.toggle("over", is);
  };
  addEventListener("dragover", (event) => over(event, true));
  addEventListener("dragleave", (event) => over(event, false));
  addEventListener("drop", (event) => {
    over(event, false);
    add(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => add(event.clipboardData.files));
}

document.documentElement.lang = language;
for (const place of document.querySelectorAll("[data-text]")) {
  place.textContent = text(place.dataset.text, { n: NETWORK.classes.length });
}
byId("raw").hidden = !!NETWORK.marks;
say(text("loading"));
listen();
const session = new Promise((done) => addEventListener("DOMContentLoaded", done)).then(start);
session.then(() => say(text("ready")), (error) => fail(whyNot(error)));
