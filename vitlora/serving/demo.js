// The demo's page: pictures go to the server that the page came from. answers.js comes before it.

const key = token();
let adapters = []; // as GET /demo describes them
const chosen = () => adapters[byId("adapter").selectedIndex];

// What stands behind the # of the address, and so is in no request and no log.
function token() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return ""; // it was cut
  }
}

// Returns what the server says. An error's message is one line for the user.
async function ask(path, file, parameters = {}) {
  const asked = { headers: { Authorization: `Bearer ${key}` } };
  if (file) {
    const body = new FormData();
    body.append("image", file, file.name || text("pasted"));
    Object.assign(asked, { method: "POST", body });
  }
  const query = new URLSearchParams(parameters);
  const reply = await fetch(`${path}?${query}`, asked).catch(() => null);
  const said = await reply?.json().catch(() => null);
  if (!said) throw new Error(text("gone"));
  if (reply.status === 401) throw new Error(text("locked"));
  if (path === "corrections" && !reply.ok) throw new Error(text("notKept", { why: said.detail }));
  if (!reply.ok) throw new Error(text("refused", { why: named(said.detail, file) }));
  return said;
}

// Errors of a whole request do not name its picture.
function named(why, file) {
  const name = file?.name || text("pasted");
  return !file || why.startsWith(`${name}:`) ? why : `${name}: ${why}`;
}

async function start() {
  ({ adapters } = await ask("demo"));
  byId("adapter").append(...adapters.map(({ name }) => new Option(name)));
  byId("choice").hidden = adapters.length < 2;
  adapters.forEach(({ classes }, n) => {
    const list = element("datalist", classes.map((name) => new Option("", name)));
    list.id = `classes${n}`;
    document.body.append(list);
  });
  byId("adapter").addEventListener("change", describe);
  describe();
}

function describe() {
  const { classes, calibrated } = chosen();
  byId("known").hidden = false;
  byId("count").textContent = text("classes", { n: classes.length });
  byId("names").textContent = classes.join(", ");
  byId("raw").hidden = calibrated;
}

async function show(file) {
  const name = file.name || text("pasted");
  say(text("looking", { name }));
  try {
    await started;
    const adapter = chosen();
    const asked = { adapter: adapter.name, top_k: SHOWN };
    const { results: [said] } = await ask("predict", file, asked);
    const top = said.top_k.map(({ class: label, confidence }) => ({ name: label, confidence }));
    const marks = ["unsure", "unfamiliar", "outside"].filter((mark) => said[mark]);
    const bitmap = await createImageBitmap(file).catch(() => null); // of a kind for servers alone
    const picture = element("div", bitmap ? thumbnail(bitmap, name) : [], "picture");
    bitmap?.close();
    const look = where(file, adapter, top[0].name, picture);
    const more = [look];
    if (adapter.corrections) more.push(correction(file, adapter));
    const title = adapters.length > 1 ? `${name} · ${adapter.name}` : name;
    answer(name, card(title, picture, top, marks, adapter.unproven, more), top, marks);
    if (!bitmap) look.firstChild.click(); // the server shows what it saw
  } catch (error) {
    fail(error.message);
  }
}

// A button that shows the square that the network saw, with what speaks for a class, and back.
function where(file, adapter, label, picture) {
  const button = element("button", text("where"));
  const note = element("p", "", "soft");
  const plain = [...picture.children];
  let looked = null;
  const press = async () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.disabled = true;
    try {
      if (on && !looked) {
        const said = await ask("where", file, { adapter: adapter.name, class: label });
        const image = (src, alt, className) =>
          Object.assign(document.createElement("img"), { src, alt, className });
        looked = [image(said.seen, text("where"), ""), image(said.map, "", "map")];
      }
      note.textContent = text("whereWhy", { name: label });
      button.setAttribute("aria-pressed", on);
      picture.replaceChildren(...(on ? looked : plain));
      note.hidden = !on;
      say(on ? note.textContent : "", true);
    } catch (error) {
      note.textContent = error.message;
      note.hidden = false;
      say(error.message, true);
    } finally {
      button.disabled = false;
    }
  };
  note.hidden = true;
  button.setAttribute("aria-pressed", false);
  button.addEventListener("click", press);
  return element("div", [button, note]);
}

// "Wrong? It is …": a field for the right class; the server keeps the picture.
function correction(file, adapter) {
  const field = document.createElement("input");
  field.setAttribute("list", `classes${adapters.indexOf(adapter)}`);
  const settings = { placeholder: text("right"), ariaLabel: text("right"), required: true };
  Object.assign(field, { ...settings, maxLength: 200, autocomplete: "off", spellcheck: false });
  const button = element("button", text("keep"));
  const note = element("p", "", "soft");
  const form = element("form", [field, button]);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      const said = await ask("corrections", file, { adapter: adapter.name, class: field.value });
      note.textContent = text(said.new ? "keptNew" : "kept", { place: said.place });
    } catch (error) {
      note.textContent = error.message;
    } finally {
      button.disabled = false;
      say(note.textContent, true);
    }
  });
  return element("details", [element("summary", text("wrong")), form, note]);
}

translate({ host: location.host });
say(text("loading"));
listen();
addEventListener("hashchange", () => location.reload()); // another token
const started = start();
started.then(() => say(text("ready")), (error) => fail(error.message));
