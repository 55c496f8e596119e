// A video that is exact to the frame: plays in a loop, goes forth and back by frames, shows which one is seen.

import { download } from "./api.js";
import { el, iconButton, icon, setText } from "./dom.js";

/** Several videos in step under one set of controls; the longest decides how many frames there are. */
export class Player {
  constructor(labels = [""]) {
    this.videos = labels.map(() => el("video", { muted: true, playsinline: true, preload: "auto", tabindex: "-1" }));
    for (const each of this.videos) each.muted = true;
    this.playButton = iconButton("play", "Play (space)", () => this.toggle(), { class: "icon-button play" });
    this.slider = el("input", { type: "range", min: "0", max: "0", value: "0", step: "1", "aria-label": "Frame", oninput: () => this.seek(Number(this.slider.value)) });
    this.count = el("output", { class: "count" });
    this.loopButton = iconButton("loop", "Loop (L)", () => this.setLoop(!this.looping), { "aria-pressed": "true" });
    const back = iconButton("back", "One frame back (left arrow)", () => this.step(-1));
    const forth = iconButton("forth", "One frame on (right arrow)", () => this.step(1));
    this.controls = el("div", { class: "controls" }, this.playButton, back, forth, this.slider, this.count, this.loopButton);
    this.frame = 0;
    this.looping = true;
    this.isPlaying = false;
    this.urls = [];
    this.opening = 0;
    for (const each of this.videos) each.addEventListener("click", () => this.toggle());
  }

  /** Show files: `sources` of `{ url, frames, fps, name }`, one for each video; they begin at once unless motion is unwanted. */
  async open(sources) {
    this.close();
    const number = ++this.opening;
    this.sources = sources;
    this.frames = Math.max(...sources.map((each) => each.frames));
    this.fps = sources[0].fps;
    this.slider.max = String(this.frames - 1);
    sources.forEach((each, index) => {
      this.videos[index].setAttribute("aria-label", each.name);
      this.videos[index].classList.toggle("pixels", Boolean(each.small));
    });
    this.seek(0);
    const blobs = await Promise.all(sources.map((each) => download(each.url)));
    if (number !== this.opening) return;
    this.urls = blobs.map((each) => URL.createObjectURL(each));
    await Promise.all(
      this.videos.map(
        (video, index) =>
          new Promise((done) => {
            video.addEventListener("loadeddata", done, { once: true });
            video.addEventListener("error", done, { once: true });
            video.src = this.urls[index];
          }),
      ),
    );
    if (number !== this.opening) return;
    this.seek(0);
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) this.play();
  }

  close() {
    this.opening += 1;
    this.pause();
    for (const video of this.videos) {
      video.removeAttribute("src");
      video.load();
    }
    for (const url of this.urls) URL.revokeObjectURL(url);
    this.urls = [];
  }

  seek(frame) {
    this.frame = Math.min(this.frames - 1, Math.max(0, frame));
    this.videos.forEach((video, index) => {
      const source = this.sources[index];
      if (video.readyState > 0) video.currentTime = (Math.min(this.frame, source.frames - 1) + 0.5) / source.fps;
    });
    this.show();
  }

  step(by) {
    this.pause();
    this.seek((this.frame + by + this.frames) % this.frames);
  }

  show() {
    this.slider.value = String(this.frame);
    this.slider.setAttribute("aria-valuetext", `frame ${this.frame + 1} of ${this.frames}`);
    setText(this.count, `${this.frame + 1} / ${this.frames}`);
  }

  toggle() {
    if (this.isPlaying) this.pause();
    else this.play();
  }

  /** The longest video leads; the others are brought to where it is when they drift by half a frame. */
  play() {
    if (this.isPlaying || !this.urls.length) return;
    if (this.frame >= this.frames - 1) this.seek(0);
    this.setPlaying(true);
    const start = () => this.videos.forEach((each) => each.play().catch(() => {})); // it was stopped before it began
    const leader = this.videos[this.sources.findIndex((each) => each.frames === this.frames)];
    start();
    const tick = () => {
      if (!this.isPlaying) return;
      if (leader.ended) {
        if (!this.looping) {
          this.pause();
          return;
        }
        this.seek(0);
        start();
      } else if (!leader.seeking) {
        const frame = Math.min(this.frames - 1, Math.floor(leader.currentTime * this.fps + 0.01));
        if (frame !== this.frame) {
          this.frame = frame;
          this.show();
        }
        for (const each of this.videos) {
          const drift = Math.abs(each.currentTime - leader.currentTime);
          if (!each.seeking && !each.ended && drift > 0.5 / this.fps) each.currentTime = leader.currentTime;
        }
      }
      this.timer = requestAnimationFrame(tick);
    };
    this.timer = requestAnimationFrame(tick);
  }

  pause() {
    cancelAnimationFrame(this.timer);
    for (const each of this.videos) each.pause();
    const wasPlaying = this.isPlaying;
    this.setPlaying(false);
    if (wasPlaying) this.seek(this.frame); // where a frame is seen whole
  }

  setPlaying(value) {
    this.isPlaying = value;
    const label = value ? "Pause (space)" : "Play (space)";
    this.playButton.setAttribute("aria-label", label);
    this.playButton.title = label;
    this.playButton.replaceChildren(icon(value ? "pause" : "play"));
  }

  setLoop(value) {
    this.looping = value;
    this.loopButton.setAttribute("aria-pressed", String(value));
  }

  /** Keys of a dialog that shows this player; true where one was used. */
  key(event) {
    const isText = event.target.matches("textarea, input:not([type=range]), select");
    if (isText || event.ctrlKey || event.metaKey || event.altKey) return false;
    const onButton = event.target.matches("button, a, summary");
    if (event.key === "ArrowLeft" && event.target !== this.slider) this.step(-1);
    else if (event.key === "ArrowRight" && event.target !== this.slider) this.step(1);
    else if (event.key === " " && !onButton) this.toggle();
    else if (event.key.toLowerCase() === "l") this.setLoop(!this.looping);
    else return false;
    event.preventDefault();
    return true;
  }

  /** The picture that is seen, as a PNG. */
  picture(index = 0) {
    const video = this.videos[index];
    const canvas = el("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }
}
