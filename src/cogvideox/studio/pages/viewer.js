// One video, large: frame by frame, its facts, and everything that can be done with it.

import { randomSeed, create, post } from "./api.js";
import { byId, el, setText, icon } from "./dom.js";
import { announce, notice, tried } from "./notices.js";
import { Player } from "./player.js";
import * as store from "./store.js";
import { duration, framesOf, length, memory, modelName, sizeOf } from "./words.js";

const STARTED = { image: "a first frame", last_image: "a last frame", video: "a video", control: "a control video", remove: "what is removed", first_pass: "a first pass", mask: "a mask" };

const player = new Player();
let shown = null;
let actions = {};
let goesToForm = false;

export function sourceOf(video) {
  const size = sizeOf(video);
  const small = size && Math.max(size.width, size.height) <= 128;
  return { url: `/v1/videos/${video.id}/content`, ...framesOf(video), name: video.prompt, small };
}

/** `actions`: `reuse(video)`, `use(video, how)`, `image(blob, name)`, `compare(id)`, `closed(id)`. */
export function begin(given) {
  actions = given;
  byId("stage").append(player.videos[0]);
  byId("stage").after(player.controls);
  const dialog = byId("viewer");
  dialog.addEventListener("close", closed);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", key);
  const menu = byId("viewer-downloads");
  dialog.addEventListener("click", (event) => {
    if (!event.target.closest("#viewer-downloads summary")) menu.open = false;
  });
  dialog.addEventListener("cancel", (event) => {
    if (event.target !== dialog || !menu.open) return;
    event.preventDefault(); // Escape closes what was opened last
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  const on = (id, action) => byId(id).addEventListener("click", () => shown && action(shown));
  on("view-close", () => dialog.close());
  on("view-reuse", (video) => leave(() => actions.reuse(video), true));
  on("view-variation", vary);
  on("view-continue", (video) => leave(() => actions.use(video, "continue"), true));
  on("view-change", (video) => leave(() => actions.use(video, "change"), true));
  on("view-image", sendFrame);
  on("view-compare", (video) => leave(() => actions.compare(video.id)));
  on("view-star", (video) => tried(() => store.favourite(video.id, !video.cogvideox.favourite)));
  on("view-delete", (video) => leave(() => erase(video.id)));
  on("view-sheet", toggleSheet);
  on("view-newer", () => go(-1));
  on("view-older", () => go(1));
  store.watch((change) => {
    if (shown && change.kind === "changed" && change.video.id === shown.id) show(change.video);
    if (shown && change.kind === "removed" && change.isDeleted && change.id === shown.id) {
      dialog.close();
      notice("This video was deleted.");
    }
  });
}

/** What the chosen model takes decides what can be done with a video. */
export function setTakes(takes) {
  byId("view-image").hidden = !takes.has("image");
  byId("view-continue").hidden = byId("view-change").hidden = !takes.has("video");
}

export function open(id) {
  const video = store.find(id);
  if (!video || video.cogvideox.state !== "completed") return;
  show(video);
  byId("sheet").hidden = true;
  byId("view-sheet").setAttribute("aria-pressed", "false");
  byId("viewer-downloads").open = false;
  if (!byId("viewer").open) byId("viewer").showModal();
  tried(() => player.open([sourceOf(video)]));
  player.playButton.focus();
}

function show(video) {
  shown = video;
  setText(byId("view-prompt"), video.prompt || "No prompt");
  byId("view-star").setAttribute("aria-pressed", String(video.cogvideox.favourite));
  byId("view-facts").replaceChildren(...facts(video).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  for (const link of byId("viewer-downloads").querySelectorAll("a")) {
    link.href = `/v1/videos/${video.id}/content?variant=${link.dataset.variant}&download=true`;
  }
  const place = store.all().filter((each) => each.cogvideox.state === "completed").findIndex((each) => each.id === video.id);
  byId("view-newer").disabled = place <= 0;
  byId("view-older").disabled = place === store.all().filter((each) => each.cogvideox.state === "completed").length - 1;
}

function facts(video) {
  const { settings, result, adapters, inputs, plan } = video.cogvideox;
  const { frames, fps } = framesOf(video);
  const steps = settings.steps || (plan && plan.steps);
  const rows = [
    ["Model", modelName(video.model)],
    ["Size", video.size.replace("x", "×")],
    ["Length", `${length(video.seconds)}, ${frames} ${frames === 1 ? "frame" : "frames"} at ${fps} a second`],
    ["Seed", String(result.seed)],
  ];
  if (steps) rows.push(["Steps", String(steps)]);
  if (settings.guidance) rows.push(["Guidance", String(settings.guidance)]);
  if (settings.negative_prompt) rows.push(["Avoided", settings.negative_prompt]);
  const started = Object.keys(inputs || {}).map((name) => (STARTED[name] || name.replaceAll("_", " ")));
  if (started.length) rows.push(["From", started.join(", ")]);
  if (settings.strength) rows.push(["Changed", `${Math.round(100 * settings.strength)} %`]);
  for (const [name, strength] of Object.entries(adapters || {})) rows.push(["Adapter", `${name}, ${strength}`]);
  if (result.total_seconds) rows.push(["Took", duration(result.total_seconds)]);
  rows.push(["File", memory(video.cogvideox.bytes)]);
  rows.push(["Made", new Date(1000 * video.created_at).toLocaleString()]);
  for (const each of result.warnings || []) rows.push(["Note", each]);
  return rows;
}

function go(by) {
  const videos = store.all().filter((each) => each.cogvideox.state === "completed");
  const next = videos[videos.findIndex((each) => each.id === shown.id) + by];
  if (next) open(next.id);
}

function key(event) {
  if (player.key(event)) return;
  if (event.target.matches("textarea, input:not([type=range])")) return;
  if (event.key === "PageUp") go(-1);
  else if (event.key === "PageDown") go(1);
  else if (event.key.toLowerCase() === "f") byId("view-star").click();
  else return;
  event.preventDefault();
}

function closed() {
  const id = shown && shown.id;
  player.close();
  byId("sheet-image").removeAttribute("src");
  shown = null;
  if (id && !goesToForm) actions.closed(id);
  goesToForm = false;
}

/** Close and go on: with the focus in the form, or on the card of the video. */
function leave(action, toForm = false) {
  goesToForm = toForm;
  byId("viewer").close();
  action();
}

function toggleSheet(video) {
  const hidden = !byId("sheet").hidden;
  byId("sheet").hidden = hidden;
  byId("view-sheet").setAttribute("aria-pressed", String(!hidden));
  if (!hidden) byId("sheet-image").src = `/v1/videos/${video.id}/content?variant=spritesheet`;
}

/** The body of a request that makes this video again; `changed` settings instead of its own. */
export function requestOf(video, changed = {}) {
  const { settings, inputs, keyframes, adapters } = video.cogvideox;
  const { prompt, ...others } = settings;
  return {
    prompt,
    model: video.model,
    cogvideox: { ...others, inputs, keyframes, adapters, ...changed },
  };
}

async function vary(video) {
  const made = await tried(() => create(requestOf(video, { seed: randomSeed() })));
  if (!made) return;
  store.put(made);
  announce("A variation is queued");
  notice("A variation with another seed is queued.");
}

async function sendFrame(video) {
  player.pause();
  const frame = player.frame;
  const blob = await player.picture();
  leave(() => actions.image(blob, `frame ${frame + 1}`), true);
}

export async function erase(id) {
  const done = await tried(async () => {
    await store.erase(id);
    return true;
  });
  if (done) notice("Deleted.", { label: "Undo", run: () => tried(() => store.restore(id)) }, 30);
}
