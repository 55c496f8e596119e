// The form: what the chosen model takes, what a video would need, and asking for it.

import { create, get, post, randomSeed, session } from "./api.js";
import { byId, el, iconButton, later, setText } from "./dom.js";
import * as given from "./given.js";
import { announce, failed, notice, tried } from "./notices.js";
import * as store from "./store.js";
import { about, length, memory, modelName } from "./words.js";

const DRAFT = "draft";
const FIELDS = ["negative", "width", "height", "frame-count", "steps", "guidance", "seed", "sampler", "strength", "fit", "count", "size", "frames"];
const EXAMPLES = {
  world: ["a red circle moves to the right", "a blue square grows", "There are three green triangles.", "a yellow ring turns into a yellow cross"],
  any: [
    "A golden retriever runs through fresh snow at dawn, snow flying from its paws, low sun behind it",
    "A small sailing boat crosses a calm bay at sunset, filmed from above",
    "Steam rises from a cup of coffee on a wooden table beside a window with rain on it",
  ],
};
const OWN = ["prompt", "negative_prompt", "width", "height", "frames", "steps", "guidance", "seed", "sampler", "strength", "fit", "video_use"];

let models = [];
let facts = null;
let limits = {};
let extras = {};
let keyframes = {};
let onTakes = () => {};
let planned = 0;
let canEnhance = false;
let shape = null; // of what is given, width / height
let wanted = {}; // choices of a draft or a reused video, until the model is known

const value = (id) => byId(id).value.trim();
const number = (id) => (value(id) === "" ? null : Number(value(id)));
const typed = (id, name = id) => (number(id) === null ? {} : { [name]: number(id) });

export async function begin(takesChanged) {
  onTakes = takesChanged;
  given.begin(changed);
  const form = byId("make");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    make();
  });
  form.addEventListener("input", changed);
  byId("prompt").addEventListener("input", fit);
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    make();
  });
  byId("strength").addEventListener("input", () => (byId("strength").dataset.touched = "true")); // before the form hears of it
  byId("model").addEventListener("change", () => choose(byId("model").value));
  byId("more-toggle").addEventListener("click", () => {
    showMore(byId("more").hidden);
    keep();
  });
  byId("dice").addEventListener("click", () => {
    byId("seed").value = randomSeed();
    changed();
  });
  byId("enhance").addEventListener("click", enhance);
  recall();
  const found = await session();
  canEnhance = Boolean(found.enhances);
  limits = found.limits;
  setAdapters(found.adapters || []);
  await loadModels();
}

/** Models are known once a worker is ready. */
export async function loadModels() {
  const { data } = await get("/v1/models");
  models = data.filter((each) => !(each.cogvideox && each.cogvideox.used_by));
  const isReady = data.every((each) => each.cogvideox);
  setText(byId("state"), isReady ? "" : "Loading the model");
  if (!isReady) {
    setTimeout(() => loadModels().catch(() => setTimeout(loadModels, 2000)), 500);
    setExamples(models[0] ? models[0].id : "");
    return;
  }
  const before = byId("model").value;
  byId("model").replaceChildren(...models.map((each) => el("option", { value: each.id }, modelName(each.id))));
  byId("model-field").hidden = models.length < 2;
  const isServed = (id) => models.some((each) => each.id === id);
  choose([wanted.model, before].find(isServed) || models[0].id);
}

function choose(id) {
  const model = models.find((each) => each.id === id);
  facts = model.cogvideox;
  byId("model").value = id;
  byId("model").title = facts.about || "";
  const takes = new Set(facts.takes);
  given.setTakes(takes);
  shape = given.shape();
  setSizes();
  setLengths();
  byId("steps").placeholder = String(facts.steps);
  byId("steps").max = String(limits.steps);
  byId("guidance").placeholder = String(facts.guidance);
  onTakes(takes);
  setExamples(id);
  for (const [field, text] of Object.entries(wanted.fields || {})) set(field, text);
  wanted = {};
  changed();
}

function showMore(visible) {
  byId("more").hidden = !visible;
  byId("more-toggle").setAttribute("aria-expanded", String(visible));
}

function setExamples(id) {
  const texts = EXAMPLES[/^tiny(-|$)/.test(id) ? "world" : "any"];
  byId("prompt").placeholder = texts[0];
  const chips = texts.map((text) => el("button", { type: "button", class: "example", onclick: () => write(text) }, text));
  byId("examples").replaceChildren(el("span", { class: "faint" }, "Try"), ...chips);
}

function write(text) {
  byId("prompt").value = text;
  fit();
  changed();
  byId("go").focus();
}

/** The box is as high as its text. */
function fit() {
  const box = byId("prompt");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight, 260)}px`;
}

function options(select, entries) {
  const before = select.value;
  select.replaceChildren(...entries.map(([text, label]) => el("option", { value: text }, label)));
  select.value = entries.some(([text]) => text === before) ? before : entries[0][0];
}

function setSizes() {
  const { width, height, pixel_multiple: unit, any_size: isFree } = facts;
  const entries = [["", `${width}×${height}`]];
  const shapes = { ...(shape && { "As given": shape }), Square: 1, "Wide 16:9": 16 / 9, "Landscape 3:2": 1.5, "Portrait 2:3": 2 / 3, "Tall 9:16": 9 / 16 };
  for (const [name, ratio] of Object.entries(isFree ? shapes : {})) {
    const tall = Math.max(unit, Math.round(Math.sqrt((width * height) / ratio) / unit) * unit);
    const wide = Math.max(unit, Math.round((tall * ratio) / unit) * unit);
    const isThere = entries.some(([text]) => text === `${wide}x${tall}`) || (wide === width && tall === height);
    if (wide * tall <= limits.pixels && !isThere) entries.push([`${wide}x${tall}`, `${name} ${wide}×${tall}`]);
  }
  if (isFree) entries.push(["custom", "Other size"]);
  options(byId("size"), entries);
  byId("size-field").hidden = entries.length < 2;
  for (const id of ["width", "height"]) {
    byId(id).step = String(unit);
    byId(id).placeholder = String(facts[id]);
  }
}

function setLengths() {
  const { frames, fps } = facts;
  const several = [0.25, 0.5, 1, 2, 4].map((each) => Math.round((frames - 1) * each) + 1);
  const label = (count) => length(count / fps);
  const entries = [["", label(frames)]];
  for (const count of several) if (count !== frames && count > 1 && count <= limits.frames) entries.push([String(count), label(count)]);
  entries.push(["custom", "Other length"]);
  options(byId("frames"), entries);
  byId("frame-count").max = String(limits.frames);
  byId("frame-count").placeholder = String(frames);
}

function setAdapters(names) {
  const rows = names.map((name, index) => {
    const amount = el("input", { type: "number", step: "0.1", min: "-2", max: "2", id: `adapter-${index}`, placeholder: "off" });
    amount.dataset.adapter = name;
    return el("div", { class: "field" }, el("label", { for: `adapter-${index}` }, name), amount);
  });
  byId("adapters").replaceChildren(...rows);
  byId("adapters-field").hidden = names.length === 0;
}

function adapterValues() {
  const strengths = {};
  for (const each of byId("adapters").querySelectorAll("input")) {
    if (each.value !== "" && Number(each.value) !== 0) strengths[each.dataset.adapter] = Number(each.value);
  }
  return strengths;
}

/** The body of a request for what the form says. */
export function request() {
  const settings = { ...extras };
  const size = byId("size").value;
  if (size === "custom") Object.assign(settings, typed("width"), typed("height"));
  else if (size) [settings.width, settings.height] = size.split("x").map(Number);
  const frames = byId("frames").value;
  if (frames) delete settings.seconds;
  if (frames === "custom") Object.assign(settings, typed("frame-count", "frames"));
  else if (frames) settings.frames = Number(frames);
  for (const name of ["steps", "guidance", "seed"]) if (number(name) !== null) settings[name] = number(name);
  if (byId("sampler").value) settings.sampler = byId("sampler").value;
  if (byId("fit").value && given.isShaped()) settings.fit = byId("fit").value;
  if (value("negative")) settings.negative_prompt = value("negative");
  if (given.videoUse()) settings.video_use = given.videoUse();
  if (!byId("strength-field").hidden && byId("strength").dataset.touched === "true") settings.strength = Number(byId("strength").value) / 100;
  settings.inputs = given.inputs();
  settings.keyframes = keyframes;
  settings.adapters = adapterValues();
  return { prompt: value("prompt"), model: byId("model").value || undefined, cogvideox: settings };
}

function changed() {
  const isCustom = byId("size").value === "custom" || byId("frames").value === "custom";
  if (isCustom && byId("custom-size").hidden && byId("custom-frames").hidden) showMore(true);
  byId("custom-size").hidden = byId("size").value !== "custom";
  byId("custom-frames").hidden = byId("frames").value !== "custom";
  if (facts && given.shape() !== shape) {
    shape = given.shape();
    setSizes();
  }
  byId("fit-field").hidden = !given.isShaped();
  const isChange = given.has("video") && given.videoUse() === "change";
  byId("strength-field").hidden = !isChange || given.has("remove");
  const isUsual = byId("strength").dataset.touched !== "true";
  if (isUsual) byId("strength").value = given.has("mask") ? "100" : "80"; // what the server takes where nothing is said
  setText(byId("strength-value"), `${byId("strength").value} %${isUsual ? ", the usual" : ""}`);
  if (!value("prompt")) showLength(null);
  byId("go").disabled = given.isBusy();
  byId("enhance").hidden = !canEnhance || !facts || !value("prompt");
  setText(byId("go-label"), Number(byId("count").value) > 1 ? `Make ${byId("count").value}` : "Make");
  showExtras();
  problem("");
  keep();
  plan();
}

/** How much of what the model reads the prompt takes, and what it leaves out, as the plan counted it. */
function showLength(counted) {
  const isLong = Boolean(counted && counted.left_out);
  let text = "";
  if (isLong) text = `${counted.tokens} word pieces; the model reads ${counted.budget} and leaves out “…${counted.left_out}”`;
  else if (counted && counted.tokens * 2 > counted.budget) text = `${counted.tokens} of ${counted.budget} word pieces`;
  setText(byId("length"), text);
  byId("length").classList.toggle("warn", isLong);
}

function showExtras() {
  const chips = Object.entries(extras).map(([name, each]) =>
    el(
      "span",
      { class: "setting" },
      `${name.replaceAll("_", " ")}: ${typeof each === "object" ? JSON.stringify(each) : each}`,
      iconButton("close", `Leave out ${name}`, () => {
        delete extras[name];
        changed();
      }),
    ),
  );
  if (Object.keys(keyframes).length) {
    chips.push(
      el(
        "span",
        { class: "setting" },
        `pictures at frames ${Object.keys(keyframes).join(", ")}`,
        iconButton("close", "Leave out the pictures", () => {
          keyframes = {};
          changed();
        }),
      ),
    );
  }
  byId("extras").replaceChildren(...chips);
  byId("extras").hidden = chips.length === 0;
}

/** What the model cannot do without and nobody has given yet. */
function missing() {
  const ids = given.inputs();
  const isNothing = Object.keys(ids).length === 0 && Object.keys(keyframes).length === 0;
  if (facts.needs_image && isNothing) return "This model starts from a picture: add one with Image.";
  if (facts.kind === "control" && !ids.control) return "This model follows a control video: add one.";
  if (facts.kind === "removal" && !(ids.video && ids.remove)) return "This model removes something: add a video and paint on it.";
  return "";
}

/** What it would need, beside the form, before anything is queued. */
const plan = later(300, async () => {
  if (!facts || given.isBusy()) return;
  const asked = ++planned;
  if (missing()) {
    setText(byId("plan"), byId("problem").textContent === missing() ? "" : missing());
    byId("warnings").replaceChildren();
    return;
  }
  const body = request();
  try {
    const needs = await post("/v1/plan", { ...body, prompt: body.prompt || byId("prompt").placeholder });
    if (asked !== planned) return;
    const parts = [`${needs.frames} ${needs.frames === 1 ? "frame" : "frames"} of ${needs.width}×${needs.height}`];
    if (needs.memory.bytes) parts.push(`${memory(needs.memory.bytes)} of memory`);
    if (needs.estimated_seconds) parts.push(about(needs.estimated_seconds * Number(byId("count").value)).replaceAll(" ", "\u00a0"));
    setText(byId("plan"), parts.join(" · "));
    showLength(value("prompt") ? needs.prompt : null);
    byId("warnings").replaceChildren(...(value("prompt") ? needs.warnings : []).map((text) => el("li", {}, text)));
    problem("");
  } catch (error) {
    if (asked !== planned) return;
    setText(byId("plan"), "");
    byId("warnings").replaceChildren();
    if (error.status === 400) problem(error.message);
    else if (error.status === 503 || error.status === 0) setTimeout(plan, 1500); // no worker is ready, or nothing answers
  }
});

/** Have the prompt written out; one click brings the old one back. */
async function enhance() {
  const before = value("prompt");
  const model = byId("model").value || undefined;
  byId("enhance").setAttribute("aria-busy", "true");
  const written = await tried(() => post("/v1/enhance", { prompt: before, model }));
  byId("enhance").removeAttribute("aria-busy");
  if (!written || value("prompt") !== before) return;
  const write = (text) => {
    byId("prompt").value = text;
    fit();
    changed();
    byId("prompt").focus();
  };
  if (written.prompt === before) {
    notice("The prompt is already as the model likes it.");
    return;
  }
  write(written.prompt);
  notice("The prompt was written out.", { label: "Bring mine back", run: () => write(before) });
}

function problem(text) {
  setText(byId("problem"), text);
}

let making = false;

export async function make() {
  if (making || given.isBusy()) return;
  if (facts && missing()) {
    problem(missing());
    setText(byId("plan"), ""); // which said the same
    return;
  }
  if (!value("prompt")) {
    problem("Say what the video shows, or choose one of the examples.");
    byId("prompt").focus();
    return;
  }
  making = true;
  byId("go").setAttribute("aria-busy", "true");
  const body = request();
  const count = Number(byId("count").value);
  try {
    for (let index = 0; index < count; index += 1) {
      const own = body.cogvideox.seed;
      const settings = own !== undefined && index > 0 ? { ...body.cogvideox, seed: own + index } : body.cogvideox;
      store.put(await create({ ...body, cogvideox: settings }));
    }
    announce(count > 1 ? `${count} videos are queued` : "The video is queued");
    if (store.isFiltered()) notice("The video is queued; the search hides it.");
  } catch (error) {
    if (error.status === 400) problem(error.message);
    else failed(error);
  } finally {
    making = false;
    byId("go").removeAttribute("aria-busy");
  }
}

function set(id, text) {
  const field = byId(id);
  if (field.tagName === "SELECT" && ![...field.options].some((each) => each.value === String(text))) return false;
  field.value = text === undefined || text === null ? "" : String(text);
  return true;
}

/** Fill the form with the settings of a video; those that it has no field for are kept and shown. */
export function reuse({ settings, model, inputs = {}, adapters = {}, keyframes: pictures = {}, names = {} }) {
  if (model && models.some((each) => each.id === model) && byId("model").value !== model) choose(model);
  byId("prompt").value = settings.prompt || "";
  byId("negative").value = settings.negative_prompt || "";
  const size = settings.width && settings.height ? `${settings.width}x${settings.height}` : "";
  const isOwn = facts && settings.width === facts.width && settings.height === facts.height;
  if (!set("size", isOwn ? "" : size)) set("size", "custom");
  set("width", settings.width);
  set("height", settings.height);
  const frames = settings.frames || "";
  if (!set("frames", facts && frames === facts.frames ? "" : frames)) set("frames", "custom");
  set("frame-count", settings.frames);
  for (const name of ["steps", "guidance", "seed", "sampler", "fit"]) set(name, settings[name]);
  byId("strength").dataset.touched = String(Boolean(settings.strength));
  if (settings.strength) byId("strength").value = String(Math.round(100 * settings.strength));
  extras = Object.fromEntries(Object.entries(settings).filter(([name]) => !OWN.includes(name)));
  keyframes = { ...pictures };
  for (const each of byId("adapters").querySelectorAll("input")) each.value = adapters[each.dataset.adapter] ?? "";
  const entries = Object.entries(inputs).map(([name, id]) => [
    name,
    { id, name: names[name] || "", use: settings.video_use, kind: /image|mask|remove/.test(name) ? "image" : "video" },
  ]);
  given.restore(Object.fromEntries(entries));
  fit();
  changed();
}

export function useVideo(video, use) {
  if (!value("prompt")) byId("prompt").value = video.prompt;
  fit();
  return given.useVideo(video, use);
}

export function focus() {
  byId("prompt").focus({ preventScroll: true });
  scrollTo({ top: 0, behavior: "smooth" });
}

/** A reload brings back what was typed. */
function keep() {
  const fields = Object.fromEntries(FIELDS.map((id) => [id, byId(id).value]));
  const draft = { prompt: byId("prompt").value, model: byId("model").value, fields, given: given.draft(), extras, keyframes, touched: byId("strength").dataset.touched, more: !byId("more").hidden };
  if (facts) sessionStorage.setItem(DRAFT, JSON.stringify(draft));
}

function recall() {
  let draft = null;
  try {
    draft = JSON.parse(sessionStorage.getItem(DRAFT));
  } catch {
    sessionStorage.removeItem(DRAFT);
  }
  if (!draft) return;
  byId("prompt").value = draft.prompt || "";
  byId("strength").dataset.touched = draft.touched || "false";
  showMore(Boolean(draft.more));
  extras = draft.extras || {};
  keyframes = draft.keyframes || {};
  wanted = { model: draft.model, fields: draft.fields };
  given.restore(draft.given);
  fit();
}
