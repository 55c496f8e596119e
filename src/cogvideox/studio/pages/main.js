// The page: its parts and how they speak with each other.

import { get, logIn, send, session } from "./api.js";
import * as compare from "./compare.js";
import { byId, later, setText } from "./dom.js";
import * as drop from "./drop.js";
import * as form from "./form.js";
import * as gallery from "./gallery.js";
import * as given from "./given.js";
import * as mask from "./mask.js";
import { begin as beginNotices, notice, tried } from "./notices.js";
import * as store from "./store.js";
import * as viewer from "./viewer.js";

function reuse(video) {
  const { settings, inputs, adapters, keyframes, result } = video.cogvideox;
  const seed = settings.seed ?? (result ? result.seed : undefined);
  form.reuse({ settings: { ...settings, seed }, model: video.model, inputs, adapters, keyframes });
  form.focus();
  notice("The settings are in the form.");
}

async function use(video, how) {
  await form.useVideo(video, how);
  form.focus();
}

function startCompare(id) {
  gallery.pick((other) => compare.open([id, other]), "Choose the video to compare with");
}

function beginTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  const name = () => byId("theme").setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
  byId("theme").addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("theme", theme);
    name();
  });
  dark.addEventListener("change", name);
  name();
}

function beginKey() {
  const dialog = byId("key");
  document.addEventListener("key-needed", () => dialog.open || dialog.showModal());
  dialog.addEventListener("close", () => dialog.showModal()); // without a key there is nothing to see
  byId("sign-out").addEventListener("click", async () => {
    if (await tried(() => send("DELETE", "/v1/session"))) location.reload();
  });
  session().then(
    ({ user }) => {
      byId("sign-out").hidden = user === "local"; // who needs no key
      byId("sign-out").title = `Signed in as ${user}`;
    },
    () => {}, // told where it is needed
  );
  byId("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await logIn(byId("key-value").value.trim());
      location.reload();
    } catch (error) {
      setText(byId("key-problem"), error.message);
    }
  });
}

function beginSearch() {
  const search = byId("search");
  search.addEventListener(
    "input",
    later(250, () => tried(() => store.load({ search: search.value.trim() }))),
  );
  byId("favourites").addEventListener("click", () => {
    const only = byId("favourites").getAttribute("aria-pressed") !== "true";
    byId("favourites").setAttribute("aria-pressed", String(only));
    tried(() => store.load({ favourite: only }));
  });
}

function connection(isThere) {
  const wasLost = !byId("lost").hidden;
  byId("lost").hidden = isThere;
  if (isThere && wasLost) {
    tried(() => session(true));
    tried(store.load);
    tried(form.loadModels);
  }
}

/** Why nothing is begun, where that is so, such as a full disk. */
async function watchQueue() {
  const isWaiting = store.all().some((each) => each.cogvideox.state === "queued");
  if (document.hidden || !isWaiting || !byId("lost").hidden) return;
  const queue = await tried(() => get("/v1/queue"));
  if (queue) setText(byId("state"), queue.paused ? `Nothing is begun: ${queue.paused}` : "");
}

async function begin() {
  beginTheme();
  beginNotices();
  beginKey();
  beginSearch();
  mask.begin();
  compare.begin();
  drop.begin();
  viewer.begin({
    reuse,
    use,
    image: (blob, name) => given.addFile(blob, "image", name).then(form.focus),
    compare: startCompare,
    closed: gallery.focusCard,
  });
  gallery.begin({ open: viewer.open, reuse, erase: viewer.erase });
  addEventListener("keydown", (event) => event.key === "Escape" && gallery.pick(null));
  const shown = tried(store.load).then(() => {
    document.body.classList.remove("is-starting");
    if (document.activeElement === document.body) byId("prompt").focus();
  });
  await tried(() => form.begin(viewer.setTakes));
  await shown;
  store.begin(connection);
  setInterval(watchQueue, 10_000);
  document.body.dataset.ready = "true";
}

begin();
