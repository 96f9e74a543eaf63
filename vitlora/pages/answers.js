"use strict";
// Pages that answer pictures: their texts, how an answer looks, how pictures come in.

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
    aboutDemo: "Names what a picture shows. Pictures go to the machine that runs vitlora demo ({host}), and no further.",
    adapter: "Answers by",
    outside: "Values outside the range of training",
    outsideWhy: "Its brightness means little to the network, so do not rely on the answer.",
    refused: "No answer. {why}",
    gone: "vitlora demo does not answer. Start it again, and open the address that it prints.",
    locked: "Open the address that vitlora demo printed, with all that stands behind the #.",
    where: "Where the network looked",
    whereWhy: "Red is what speaks for {name}, in the square that the network saw.",
    wrong: "Wrong? It is …",
    right: "The right class",
    keep: "Keep",
    notKept: "Not kept: {why}",
    kept: "Kept: {place}",
    keptNew: "Kept, in a class that is new to the network: {place}",
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
    aboutDemo: "Dice qué muestra una imagen. Las imágenes van a la máquina donde se ejecuta vitlora demo ({host}), y no más lejos.",
    adapter: "Responde",
    outside: "Valores fuera del rango de entrenamiento",
    outsideWhy: "Su brillo dice poco a la red; no se fíe de la respuesta.",
    refused: "Sin respuesta. {why}",
    gone: "vitlora demo no responde. Inícielo de nuevo y abra la dirección que muestra.",
    locked: "Abra la dirección que mostró vitlora demo, con todo lo que sigue a #.",
    where: "Dónde miró la red",
    whereWhy: "En rojo, lo que habla a favor de {name}, en el cuadrado que vio la red.",
    wrong: "¿Es errónea? Es …",
    right: "La clase correcta",
    keep: "Guardar",
    notKept: "No guardada: {why}",
    kept: "Guardada: {place}",
    keptNew: "Guardada, en una clase nueva para la red: {place}",
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

function sheet(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  return { canvas, context: canvas.getContext("2d", { willReadFrequently: true }) };
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

// where nothing could be promised, every answer is marked
const why = (mark, unproven) => text(mark === "unsure" && unproven ? "unprovenWhy" : `${mark}Why`);

// An answer: `picture` is an element, `top` classes with confidences, the best first.
function card(name, picture, top, marks, unproven, more = []) {
  const doubts = marks.map((mark) =>
    element("p", [element("strong", `${text(mark)}.`), " ", why(mark, unproven)], "mark"));
  const words = [
    element("h3", top[0].name),
    ...doubts,
    element("ol", top.slice(0, SHOWN).map(bar)),
    element("p", name, "soft"),
    ...more,
  ];
  return element("li", [picture, element("div", words)]);
}

function answer(name, made, [best], marks) {
  byId("answers").prepend(made);
  const doubts = marks.map((mark) => text(mark));
  say([`${name}: ${best.name}, ${percent(best.confidence)}`, ...doubts].join(". "), true);
}

function fail(words) {
  byId("answers").prepend(element("li", element("p", words, "mark"), "failed"));
  say(words, true);
}

let turn = Promise.resolve(); // pictures take turns
const add = (files) => [...files].forEach((file) => (turn = turn.then(() => show(file))));

// A page has a function `show`, which answers a file.
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

function translate(values) {
  document.documentElement.lang = language;
  for (const place of document.querySelectorAll("[data-text]")) {
    place.textContent = text(place.dataset.text, values);
  }
}
