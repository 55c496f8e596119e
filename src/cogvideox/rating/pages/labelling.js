"use strict";
const at = (id) => document.getElementById(id);
const chosen = new Set();
const skip = [];
let clip = null;
let names = [];
let busy = false;

async function send(path, body) {
  if (busy) return;
  busy = true;
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...body, skip }),
    });
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.error);
    show(said);
  } catch (error) {
    at("state").textContent = "Not kept: " + error.message;
  } finally {
    busy = false;
  }
}

function show(said) {
  clip = said.clip;
  chosen.clear();
  at("state").textContent = clip ? "" : skip.length ? "Only skipped clips are left." : "All clips are labelled.";
  at("count").textContent = said.done + " of " + said.of;
  at("path").textContent = clip ? said.path : "";
  if (clip) at("clip").src = "/media/" + clip;
  else at("clip").removeAttribute("src");
  names = Object.keys(said.labels);
  at("labels").replaceChildren(
    ...names.map((name, place) => {
      const button = document.createElement("button");
      button.textContent = place + 1 + "  " + name.replace("_", " ") + ": " + said.labels[name];
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => toggle(name));
      return button;
    }),
  );
}

function toggle(name) {
  if (chosen.has(name)) chosen.delete(name);
  else chosen.add(name);
  [...at("labels").children].forEach((button, place) => {
    button.setAttribute("aria-pressed", String(chosen.has(names[place])));
  });
}

document.addEventListener("keydown", (event) => {
  if (!clip || event.ctrlKey || event.metaKey || event.altKey) return;
  const place = Number(event.key) - 1;
  if (names[place]) toggle(names[place]);
  else if (event.key === "Enter") {
    event.preventDefault();
    const labels = Object.fromEntries([...chosen].map((name) => [name, true]));
    send("/api/label", { clip, labels });
  } else if (event.key === "s") {
    skip.push(clip);
    send("/api/next", {});
  } else if (event.key === "r") at("clip").currentTime = 0;
});

send("/api/next", {});
