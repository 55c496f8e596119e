// The videos as cards: pictures of those that are there, progress of those to come.

import { byId, el, iconButton, icon, setText } from "./dom.js";
import * as store from "./store.js";
import { announce, tried } from "./notices.js";
import { length, sizeOf, stateText } from "./words.js";

const cards = new Map();
let actions = {};
let picking = null;

/** `actions`: `open(id)`, `reuse(video)`, `erase(id)`. */
export function begin(given) {
  actions = given;
  store.watch(changed);
  byId("older").addEventListener("click", async () => {
    const before = cards.size;
    await tried(store.loadOlder);
    const first = byId("gallery").children[before];
    if (first) first.querySelector("button:enabled").focus({ preventScroll: true });
  });
  byId("pick-cancel").addEventListener("click", () => pick(null));
}

function changed(change) {
  const list = byId("gallery");
  if (change.kind === "all") {
    cards.clear();
    const videos = store.all();
    list.replaceChildren(...videos.map((video) => cardOf(video).element));
  } else if (change.kind === "added") {
    list.insertBefore(cardOf(change.video).element, list.children[change.place] || null);
  } else if (change.kind === "changed") {
    cards.get(change.video.id).update(change.video);
    tellNews(change.before, change.video);
  } else if (change.kind === "removed") {
    const { element } = cards.get(change.id);
    const hadFocus = element.contains(document.activeElement);
    const next = element.nextElementSibling || element.previousElementSibling;
    element.remove();
    cards.delete(change.id);
    if (hadFocus) (next ? next.querySelector("button") : byId("prompt")).focus();
  }
  setTitle();
  byId("older").hidden = !store.hasMore();
  const isEmpty = cards.size === 0;
  document.body.classList.toggle("is-new", isEmpty && !store.isFiltered());
  byId("none").hidden = !isEmpty || !store.isFiltered();
  setText(byId("none"), store.isSearched() ? "No video matches." : "No favourites yet: the star on a video makes it one.");
}

/** What is said aloud: a new state, and every quarter of the way. */
function tellNews(before, video) {
  const [was, is] = [before.cogvideox.state, video.cogvideox.state];
  const quarter = Math.floor(video.progress / 25);
  const said = { running: "Being made", completed: "Done", failed: "Failed", cancelled: "Cancelled" }[is];
  if (was !== is && said) announce(`${said}: ${video.prompt.slice(0, 120)}`);
  else if (is === "running" && quarter > Math.floor(before.progress / 25)) announce(`${25 * quarter} percent: ${video.prompt.slice(0, 120)}`);
}

/** The name of the tab says how far it is. */
function setTitle() {
  const running = store.all().find((each) => each.cogvideox.state === "running");
  const title = running ? `${running.progress} % · cogvideox studio` : "cogvideox studio";
  if (document.title !== title) document.title = title;
}

function cardOf(video) {
  const card = new Card(video);
  cards.set(video.id, card);
  return card;
}

/** Choose a completed video: whatever is opened next goes to `action` instead. */
export function pick(action, text = "") {
  picking = action;
  byId("pick").hidden = !action;
  setText(byId("pick-text"), text);
  document.body.classList.toggle("is-picking", Boolean(action));
  if (action) byId("gallery").scrollIntoView({ block: "nearest" });
}

export function focusCard(id) {
  const card = cards.get(id);
  if (card) card.button.focus();
}

class Card {
  constructor(video) {
    this.id = video.id;
    this.image = el("img", { alt: "", loading: "lazy", decoding: "async" });
    this.button = el("button", { type: "button", class: "cover", onclick: () => this.open() }, this.image);
    this.button.addEventListener("pointerenter", () => this.move(true));
    this.button.addEventListener("pointerleave", () => this.move(false));
    this.button.addEventListener("focus", () => this.move(true));
    this.button.addEventListener("blur", () => this.move(false));
    this.star = iconButton("star", "Favourite", () => this.favourite(), { class: "icon-button star", "aria-pressed": "false" });
    this.prompt = el("p", { class: "said" });
    this.state = el("p", { class: "state" });
    this.progress = el("progress", { max: "100", "aria-label": "Progress" });
    this.tools = el("div", { class: "tools" });
    this.element = el(
      "li",
      { class: "card" },
      el("div", { class: "frame" }, this.button, this.star, this.progress),
      el("div", { class: "about" }, this.prompt, this.state, this.tools),
    );
    this.element.dataset.id = video.id;
    this.kind = "";
    this.shown = null;
    this.update(video);
  }

  update(video) {
    this.video = video;
    const { state, favourite, live } = video.cogvideox;
    this.element.dataset.state = state;
    setText(this.prompt, video.prompt || "No prompt");
    this.prompt.title = video.prompt;
    setText(this.state, state === "completed" ? `${length(video.seconds)} · ${video.size.replace("x", "×")}` : stateText(video));
    const isOpen = state === "queued" || state === "running";
    this.progress.hidden = !isOpen;
    if (state === "running") this.progress.value = video.progress;
    else this.progress.removeAttribute("value");
    this.star.hidden = state !== "completed";
    this.star.setAttribute("aria-pressed", String(favourite));
    this.button.disabled = state !== "completed";
    this.button.setAttribute("aria-label", state === "completed" ? `Open: ${video.prompt}` : `Not ready: ${video.prompt}`);
    const size = sizeOf(video);
    const ratio = size ? Math.min(1.8, Math.max(0.7, size.width / size.height)) : 1;
    this.element.querySelector(".frame").style.aspectRatio = String(ratio);
    this.image.classList.toggle("pixels", Boolean(size && Math.max(size.width, size.height) <= 128));
    this.picture(state, live);
    if (this.kind !== state) this.setTools(state);
    this.kind = state;
  }

  picture(state, live) {
    let source = "";
    if (state === "completed") source = `/v1/videos/${this.id}/content?variant=thumbnail`;
    else if (live && live.preview) source = `/v1/videos/${this.id}/preview?${live.preview}`;
    if (source === this.shown) return;
    this.shown = source;
    if (source) {
      this.image.src = source;
    } else this.image.removeAttribute("src");
    this.image.hidden = !source;
  }

  setTools(state) {
    const tool = (text, action) => el("button", { type: "button", class: "text-button", onclick: action }, text);
    const reuse = () => tool("Use settings", () => actions.reuse(this.video));
    const erase = () => tool("Delete", () => actions.erase(this.id));
    const cancel = () => tool("Cancel", () => tried(() => store.cancel(this.id)));
    const tools = { queued: [cancel], running: [cancel], failed: [reuse, erase], cancelled: [reuse, erase] }[state] || [];
    this.tools.replaceChildren(...tools.map((each) => each()));
  }

  open() {
    if (picking) {
      const action = picking;
      pick(null);
      action(this.id);
    } else actions.open(this.id);
  }

  favourite() {
    return tried(() => store.favourite(this.id, !this.video.cogvideox.favourite));
  }

  /** Under the pointer a video moves. */
  move(moving) {
    if (this.moving) {
      this.moving.remove();
      this.moving = null;
    }
    if (!moving || this.video.cogvideox.state !== "completed" || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    const video = el("video", { playsinline: true, "aria-hidden": "true", tabindex: "-1", class: this.image.className });
    video.muted = true;
    video.loop = true;
    video.src = `/v1/videos/${this.id}/content`;
    this.moving = video;
    this.button.append(video);
    video.play().catch(() => video.remove()); // the pointer has left again
  }
}
