// What a video starts from: pictures, a video, a mask painted on it. Files are uploaded at once and named by id.

import { upload } from "./api.js";
import { byId, el, iconButton, icon } from "./dom.js";
import { failed, notice } from "./notices.js";
import { paint } from "./mask.js";
import * as store from "./store.js";

const LABELS = {
  image: "First frame",
  last_image: "Last frame",
  video: "Video",
  control: "Control video",
  first_pass: "First pass",
};
const BUTTONS = { image: "Image", last_image: "Last image", video: "Video", control: "Control video" };
const PAINTED = { mask: "Paint what is made anew", remove: "Paint what is removed" };
const EXCLUDES = { image: ["video"], last_image: ["video"], video: ["image", "last_image"] }; // each says how the video begins
const PICTURES = "image/png,image/jpeg,image/webp,image/bmp,image/tiff";

let given = {};
let takes = new Set();
let changed = () => {};

export function begin(onchange) {
  changed = onchange;
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files][0];
    if (file && !event.clipboardData.types.includes("text/plain")) addFile(file); // else the text is meant
  });
}

/** Ids by option, as the API reads them. */
export function inputs() {
  const ids = {};
  for (const [name, each] of Object.entries(given)) if (takes.has(name) && each.id) ids[name] = each.id;
  return ids;
}

export const has = (name) => Boolean(given[name] && takes.has(name));
export const videoUse = () => (has("video") ? given.video.use || "change" : null);

const SHAPED = ["image", "video", "last_image", "control"];
export const isShaped = () => SHAPED.some(has);

/** Width / height of what is given, null where it is not known. */
export function shape() {
  const shown = SHAPED.find((name) => has(name) && given[name].width);
  return shown ? given[shown].width / given[shown].height : null;
}

export const isBusy = () => Object.values(given).some((each) => !each.id);

/** Plain values that a reload brings back. */
export function draft() {
  const plain = {};
  for (const [name, each] of Object.entries(given)) {
    if (each.id) plain[name] = { id: each.id, name: each.name, use: each.use, width: each.width, height: each.height, kind: each.kind };
  }
  return plain;
}

export function restore(plain) {
  given = {};
  for (const [name, each] of Object.entries(plain || {})) given[name] = { ...each, picture: pictureOf(each) };
  render();
}

function pictureOf(each) {
  if (String(each.id).startsWith("video_")) return `/v1/videos/${each.id}/content?variant=thumbnail`;
  return String(each.id).startsWith("input_") ? `/v1/inputs/${each.id}/content?variant=frame` : "";
}

export function setTakes(kinds) {
  takes = kinds;
  const buttons = Object.keys(BUTTONS)
    .filter((name) => takes.has(name))
    .map((name) => el("button", { type: "button", class: "ghost", id: `add-${name}`, onclick: () => choose(name) }, icon(name === "video" || name === "control" ? "film" : "image"), BUTTONS[name]));
  byId("add").replaceChildren(...buttons);
  render();
}

function choose(name) {
  const input = byId("file");
  input.accept = name === "video" ? "video/*" : name === "control" ? `video/*,${PICTURES}` : PICTURES;
  input.onchange = () => {
    if (input.files[0]) addFile(input.files[0], name);
    input.value = "";
  };
  input.click();
}

/** Upload a file and use it as `name`, else as what it is. The answer of the server, or null where it was refused. */
export async function addFile(blob, name = "", label = blob.name || "picture") {
  const url = URL.createObjectURL(blob);
  const kind = blob.type.startsWith("video/") ? "video" : "image";
  const wanted = name || (kind === "video" ? "video" : "image");
  const entry = { name: label, kind, picture: kind === "image" ? url : "" };
  const before = given[wanted];
  if (takes.has(wanted)) put(wanted, entry);
  try {
    const facts = await upload(blob, label);
    const { id, width, height, settings } = facts;
    Object.assign(entry, { id, width, height, kind: facts.ending === "png" ? "image" : "video" });
    if (entry.kind === "video") entry.frame = await firstFrame(url);
    if (!entry.picture) entry.picture = entry.frame || pictureOf(entry);
    const isOther = !name && entry.kind !== kind; // browsers name only the kinds that they can show
    if (isOther) {
      if (given[wanted] === entry) take(wanted);
      put(entry.kind, entry);
    } else if (given[wanted] === entry) put(wanted, entry);
    return { facts, settings, entry };
  } catch (error) {
    if (given[wanted] === entry) {
      if (before) put(wanted, before);
      else take(wanted);
    }
    error.message = error.message.replace(/^upload: /, `${label}: `);
    failed(error);
    return null;
  }
}

export function put(name, entry) {
  if (!takes.has(name)) {
    notice(`This model takes no ${(LABELS[name] || name).toLowerCase()}.`);
    return;
  }
  if (name === "video" && given.video !== entry) {
    delete given.mask;
    delete given.remove;
  }
  const replaced = (entry.id && EXCLUDES[name] ? EXCLUDES[name] : []).filter((other) => given[other]);
  for (const other of replaced) delete given[other];
  if (replaced.includes("video")) {
    delete given.mask;
    delete given.remove;
  }
  given[name] = entry;
  if (replaced.some((other) => takes.has(other))) notice(`${LABELS[name]} instead of ${replaced.map((other) => LABELS[other].toLowerCase()).join(" and ")}: a video is made from one or the other.`);
  render();
  changed();
}

export function take(name) {
  delete given[name];
  if (name === "video") {
    delete given.mask;
    delete given.remove;
  }
  render();
  changed();
}

/** Use a completed video of this server. */
export async function useVideo(video, use) {
  const url = `/v1/videos/${video.id}/content`;
  const [width, height] = video.size.split("x").map(Number);
  put("video", { id: video.id, name: video.prompt, use, width, height, kind: "video", picture: `${url}?variant=thumbnail`, frame: await firstFrame(url) });
}

/** The first frame of a video that the browser can show, as an address; "" where it cannot. */
async function firstFrame(url) {
  const video = el("video", { preload: "auto" });
  video.muted = true;
  const isShown = new Promise((done) => {
    video.onseeked = () => done(true);
    video.onerror = () => done(false);
    video.onloadeddata = () => (video.currentTime = 0.001);
    setTimeout(() => done(false), 5000);
  });
  video.src = url;
  if (!(await isShown) || !video.videoWidth) return "";
  const canvas = el("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  return blob ? URL.createObjectURL(blob) : "";
}

async function paintMask(name) {
  const { frame, picture, width, height, id } = given.video;
  let source = frame || picture;
  if (!frame && id.startsWith("video_")) source = await firstFrame(`/v1/videos/${id}/content`);
  const blob = await paint(source, PAINTED[name], { width, height });
  if (blob) await addFile(blob, name, PAINTED[name]);
}

function render() {
  const shown = Object.keys(LABELS).filter((name) => given[name] && takes.has(name));
  byId("given").replaceChildren(...shown.map(chip));
  byId("given").hidden = shown.length === 0;
  for (const name of Object.keys(BUTTONS)) {
    const isExcluded = Object.keys(given).some((other) => takes.has(other) && EXCLUDES[name]?.includes(other));
    const isShown = !given[name] && !isExcluded && (name !== "last_image" || given.image);
    if (byId(`add-${name}`)) byId(`add-${name}`).hidden = !isShown;
  }
}

function chip(name) {
  const each = given[name];
  const picture = el("span", { class: "thumb" });
  if (each.picture) picture.append(el("img", { src: each.picture, alt: "" }));
  else picture.append(icon("film"));
  if (name === "video" && given.mask && given.mask.picture) picture.append(el("img", { src: given.mask.picture, alt: "", class: "over" }));
  const text = el("span", { class: "what" }, el("b", {}, LABELS[name]), el("small", {}, each.id ? each.name || "" : "Uploading"));
  const tools = [];
  if (name === "video") {
    const use = el("select", { "aria-label": "What is done with the video" }, el("option", { value: "change" }, "Change it"), el("option", { value: "continue" }, "Continue it"));
    use.value = each.use || "change";
    use.addEventListener("change", () => {
      each.use = use.value;
      changed();
    });
    tools.push(use);
    for (const [mask, label] of Object.entries(PAINTED)) {
      if (!takes.has(mask)) continue;
      tools.push(el("button", { type: "button", class: "text-button", onclick: () => paintMask(mask) }, given[mask] ? "Paint again" : label));
      if (given[mask]) tools.push(el("button", { type: "button", class: "text-button", onclick: () => take(mask) }, "Remove mask"));
    }
  }
  const remove = iconButton("close", `Remove: ${LABELS[name]}`, () => {
    take(name);
    byId("prompt").focus();
  });
  return el("div", { class: each.id ? "chip" : "chip is-busy" }, picture, text, ...tools, remove);
}
