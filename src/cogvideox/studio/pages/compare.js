// Two videos side by side, in step.

import { byId, el, setText } from "./dom.js";
import { tried } from "./notices.js";
import { Player } from "./player.js";
import * as store from "./store.js";
import { sourceOf } from "./viewer.js";

const player = new Player(["", ""]);
const captions = [el("figcaption"), el("figcaption")];

export function begin() {
  const dialog = byId("compare");
  byId("pair").append(...player.videos.map((video, index) => el("figure", {}, video, captions[index])));
  byId("pair").after(player.controls);
  dialog.addEventListener("close", () => player.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => player.key(event));
  byId("compare-close").addEventListener("click", () => dialog.close());
}

export function open(ids) {
  const videos = ids.map(store.find);
  if (videos.some((each) => !each)) return;
  videos.forEach((video, index) => {
    setText(captions[index], `${video.prompt || "No prompt"} (seed ${video.cogvideox.result.seed})`);
  });
  byId("compare").showModal();
  tried(() => player.open(videos.map(sourceOf)));
  player.playButton.focus();
}
