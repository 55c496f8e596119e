// Files dropped on the page: a video of ours brings its settings, any other file is what a video starts from.

import { get } from "./api.js";
import { byId } from "./dom.js";
import * as form from "./form.js";
import * as given from "./given.js";
import { notice, tried } from "./notices.js";

export function begin() {
  let depth = 0;
  const isFile = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  const show = (visible) => document.body.classList.toggle("is-dropping", visible);
  addEventListener("dragenter", (event) => {
    if (!isFile(event)) return;
    depth += 1;
    show(true);
  });
  addEventListener("dragleave", (event) => {
    if (!isFile(event)) return;
    depth = Math.max(0, depth - 1);
    show(depth > 0);
  });
  addEventListener("dragover", (event) => isFile(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    depth = 0;
    show(false);
    const [file, ...others] = event.dataTransfer.files;
    if (file) dropped(file);
    if (others.length) notice(`One file at a time: ${file.name} is taken.`);
  });
  const input = byId("settings-file");
  byId("from-file").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    if (input.files[0]) dropped(input.files[0]);
    input.value = "";
  });
}

async function dropped(file) {
  if (/\.json$/i.test(file.name)) return fromRecord(file);
  if (file.type.startsWith("image/")) return given.addFile(file, "image");
  const done = notice(`Reading ${file.name}`);
  const found = await given.addFile(file);
  done();
  if (!found || !found.settings) return undefined;
  given.take("video");
  const use = () => given.put("video", { ...found.entry, use: "change" });
  return reuse(file, found.settings, found.facts.model, { label: "Use the video itself", run: use });
}

/** The record that lies beside a video. */
async function fromRecord(file) {
  let record = null;
  try {
    record = JSON.parse(await file.text());
  } catch {
    // told below
  }
  const config = record && (record.config || record.settings);
  if (!config || typeof config.prompt !== "string") return notice(`${file.name} holds no settings of a video.`);
  return reuse(file, { ...config, seed: record.seed }, record.model && record.model.name, null);
}

/** Fill the form with the settings of a file; its paths are of another place, so what it started from stays out. */
async function reuse(file, config, model, action) {
  const described = await tried(() => get("/openapi.json"));
  if (!described) return undefined;
  const { schema } = described.paths["/v1/videos"].post.requestBody.content["application/json"];
  const known = schema.properties.cogvideox.properties;
  const isDefault = (name, each) => each === null || JSON.stringify(each) === JSON.stringify(known[name].default);
  const settings = { prompt: String(config.prompt || "") };
  for (const [name, each] of Object.entries(config)) {
    if (Object.hasOwn(known, name) && !isDefault(name, each)) settings[name] = each;
  }
  form.reuse({ settings, model });
  const started = ["image", "last_image", "video", "mask", "remove", "control"].some((name) => config[name]);
  const lacks = started ? " What it started from is not in the file." : "";
  return notice(`The settings of ${file.name} are in the form.${lacks}`, action);
}
