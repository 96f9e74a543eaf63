// The page: pictures in, answers out. NETWORK, `frame` and answers.js come before it.

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

async function show(file) {
  const name = file.name || text("pasted");
  say(text("looking", { name }));
  await new Promise((resolve) => setTimeout(resolve, 20)); // lets the browser show that
  const bitmap = await opened(file).catch(() => null);
  if (!bitmap) return fail(text("unread", { name }));
  try {
    const said = { ...(await answerTo(squareOf(bitmap))), deep: await isDeep(file) };
    const marks = ["unsure", "unfamiliar", "deep"].filter((mark) => said[mark]);
    // a threshold above 1 marks every answer
    const made = card(name, thumbnail(bitmap, name), said.top, marks, NETWORK.marks?.unsure_below > 1);
    answer(name, made, said.top, marks);
  } catch (error) {
    fail(whyNot(error));
  } finally {
    bitmap.close();
  }
}

const whyNot = (error) => (readsTrue() ? text("failed", { why: error.message }) : text("altered"));

translate({ n: NETWORK.classes.length });
byId("raw").hidden = !!NETWORK.marks;
say(text("loading"));
listen();
const session = new Promise((done) => addEventListener("DOMContentLoaded", done)).then(start);
session.then(() => say(text("ready")), (error) => fail(whyNot(error)));
