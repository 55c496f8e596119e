// Elements from values. Whatever comes from people or files becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element: `el("button", { class: "quiet", onclick: f, "aria-label": "..." }, "text", child)`. */
export function el(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "hidden" || name === "muted" || name === "loop") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((each) => each !== null && each !== undefined));
  return element;
}

/** A picture of the sprite in index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button with a picture; its name is read out, and shown as `title` where there is no text. */
export function iconButton(name, label, onclick, given = {}) {
  return el("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...given }, icon(name));
}

/** Set text only where it changed: screen readers repeat what is written again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function later(milliseconds, action) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
}
