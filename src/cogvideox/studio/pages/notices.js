// Short messages at the edge of the page, and news for screen readers.

import { byId, el } from "./dom.js";

const SECONDS = 10;

/** Show a message for a while; `action` is `{ label, run }`, such as to undo what was done. */
export function notice(text, action = null, seconds = SECONDS) {
  const message = el("div", { class: "notice" }, el("span", {}, text));
  const close = () => message.remove();
  if (action) {
    const run = () => {
      close();
      action.run();
    };
    message.append(el("button", { type: "button", class: "text-button", onclick: run }, action.label));
  }
  message.append(el("button", { type: "button", class: "text-button faint", "aria-label": "Close this message", onclick: close }, "Close"));
  let timer = setTimeout(close, 1000 * seconds);
  const hold = () => clearTimeout(timer);
  const release = () => {
    clearTimeout(timer);
    timer = setTimeout(close, 1000 * seconds);
  };
  message.addEventListener("pointerenter", hold);
  message.addEventListener("focusin", hold);
  message.addEventListener("pointerleave", release);
  message.addEventListener("focusout", release);
  const place = document.querySelector("dialog[open]") || document.body; // what is outside an open dialog cannot be used
  if (byId("notices").parentElement !== place) place.append(byId("notices"));
  byId("notices").append(message);
  while (byId("notices").childElementCount > 3) byId("notices").firstElementChild.remove();
  return close;
}

/** What a dialog showed stays when it closes. */
export function begin() {
  const home = () => document.body.append(byId("notices"));
  for (const dialog of document.querySelectorAll("dialog")) dialog.addEventListener("close", home);
}

export function failed(error) {
  if (error.status !== 401) notice(error.message);
}

/** Said by screen readers, not shown. */
export function announce(text) {
  byId("news").textContent = text;
}

/** Run something that asks the server; what goes wrong is shown. */
export async function tried(action) {
  try {
    return await action();
  } catch (error) {
    failed(error);
    return undefined;
  }
}
