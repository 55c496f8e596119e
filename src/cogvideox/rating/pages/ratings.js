"use strict";
// Everything that comes from people or files is put into the page as text, never as markup.

const main = document.getElementById("main");
const state = document.getElementById("state");
let unit = null; // what is being rated
let said = null; // what was chosen so far
let sending = false;

function make(tag, settings = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(settings)) {
    if (key === "class") node.className = value;
    else if (key === "text") node.textContent = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

async function post(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const values = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(values.error || "refused"), { status: answer.status });
  return values;
}

function tell(text, bad = false) {
  state.textContent = text;
  state.className = bad ? "bad" : "";
}

function start() {
  const name = make("input", { id: "name", autocomplete: "off", maxlength: "200", "aria-label": "your name or code" });
  const form = make("form", { class: "start", onsubmit: (event) => { event.preventDefault(); begin(name.value); } },
    make("p", { text: "Your name or code. It is not kept; it only tells your ratings from those of others, and brings you back to where you stopped." }),
    name, make("button", { class: "send", text: "Start" }));
  main.replaceChildren(form);
  name.focus();
}

async function begin(name) {
  try {
    show(await post("/api/next", { name }));
  } catch (error) {
    tell(error.message, true);
  }
}

function show(next) {
  unit = next;
  sending = false;
  document.getElementById("place").textContent = `${next.done} of ${next.of} done`;
  document.getElementById("bar").value = next.of ? next.done / next.of : 1;
  tell("");
  if (next.finished) {
    said = null;
    main.replaceChildren(make("p", { id: "finished", text: "All done. Thank you." }));
    document.getElementById("keys").textContent = "";
    return;
  }
  said = next.mode === "pairs" ? { choice: null } : { aspects: {}, total: null, at: 0 };
  (next.mode === "pairs" ? drawPair : drawGrades)();
}

function player(source, label) {
  const video = make("video", { src: source, loop: "", muted: "", playsinline: "", controls: "", "aria-label": label });
  video.muted = true;
  video.play().catch(() => {});
  return video;
}

function shown() {
  const labels = unit.videos.length > 1 ? ["left", "right"] : ["video"];
  return make("div", { class: "shown" }, ...unit.videos.map((source, place) => player(source, labels[place])));
}

function note() {
  return make("textarea", { id: "note", maxlength: "2000", placeholder: "A note (not needed)", "aria-label": "note" });
}

function drawGrades() {
  const aspects = Object.entries(unit.criteria).map(([name, criterion]) => {
    const choices = unit.grades.map((grade) => make("button",
      { type: "button", "data-aspect": name, "data-grade": String(grade), onclick: () => grant(name, grade) },
      String(grade), make("small", { text: criterion.grades[String(grade)] })));
    return make("fieldset", { "data-name": name }, make("legend", { text: criterion.title }), make("div", { class: "choices" }, ...choices));
  });
  const steps = Array.from({ length: 2 * unit.most + 1 }, (_, step) => step / 2);
  const totals = steps.map((value) => make("button",
    { type: "button", "data-total": String(value), onclick: () => total(value) }, String(value)));
  const whole = make("fieldset", { "data-name": "total" }, make("legend", { text: `Overall, 0 to ${unit.most}` }),
    make("div", { class: "totals" }, ...totals), make("p", { class: "warn", id: "cap" }));
  const side = make("div", {}, make("p", { class: "prompt", id: "prompt", text: unit.prompt || "(no prompt)" }), shown());
  const grades = make("div", { class: "start-grades" }, ...aspects, whole, note(), send());
  grades.style.display = "grid";
  grades.style.gap = ".8rem";
  main.replaceChildren(make("div", { class: "rate grades" }, side, grades));
  document.getElementById("keys").textContent = "1 2 3: grade · 0-5: overall · + half a point · ↑ ↓ move · space: play again · enter: send";
  draw();
}

function drawPair() {
  const choices = [["left", "Left is better"], ["tie", "Equally good"], ["right", "Right is better"]].map(([choice, text]) =>
    make("button", { type: "button", "data-choice": choice, onclick: () => choose(choice) }, text));
  main.replaceChildren(make("div", { class: "rate pairs" },
    make("p", { class: "prompt", id: "prompt", text: unit.prompt || "(no prompt)" }), shown(),
    make("fieldset", { class: "now" }, make("legend", { text: "Which one would you rather have?" }), make("div", { class: "choices" }, ...choices)),
    note(), send()));
  document.getElementById("keys").textContent = "← left · ↓ equal · → right · space: play again · enter: send";
  draw();
}

function send() {
  return make("button", { type: "button", class: "send", id: "send", onclick: submit }, "Send");
}

const names = () => [...Object.keys(unit.criteria), "total"];

function grant(name, grade) {
  said.aspects[name] = grade;
  said.at = Math.min(names().indexOf(name) + 1, names().length - 1);
  draw();
}

function total(value) {
  said.total = value;
  said.at = names().length - 1;
  draw();
}

function choose(choice) {
  said.choice = choice;
  draw();
}

function complete() {
  return unit.mode === "pairs" ? said.choice !== null : said.total !== null && names().slice(0, -1).every((name) => name in said.aspects);
}

function draw() {
  for (const button of main.querySelectorAll("button[data-aspect]"))
    button.setAttribute("aria-pressed", String(said.aspects[button.dataset.aspect] === Number(button.dataset.grade)));
  for (const button of main.querySelectorAll("button[data-total]"))
    button.setAttribute("aria-pressed", String(said.total === Number(button.dataset.total)));
  for (const button of main.querySelectorAll("button[data-choice]"))
    button.setAttribute("aria-pressed", String(said.choice === button.dataset.choice));
  if (unit.mode !== "pairs") {
    for (const field of main.querySelectorAll("fieldset")) field.classList.toggle("now", field.dataset.name === names()[said.at]);
    const capped = said.aspects.instruction === 0 && said.total > unit.cap;
    document.getElementById("cap").textContent = capped ? `Counts as ${unit.cap}: the instruction is not followed.` : "";
  }
  document.getElementById("send").disabled = sending || !complete();
}

async function submit() {
  if (sending || !complete()) return;
  sending = true;
  draw();
  tell("sending");
  const body = { assignment: unit.assignment, note: document.getElementById("note").value, ...said };
  delete body.at;
  for (let wait = 250; ; wait = Math.min(2 * wait, 5000)) {
    try {
      const next = await post("/api/rate", body);
      show(next);
      return;
    } catch (error) {
      if (error.status && error.status !== 503) {
        sending = false;
        draw();
        tell(error.message, true);
        return;
      }
      tell("not kept yet; trying again", true); // the server is away: nothing chosen is lost
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

document.addEventListener("keydown", (event) => {
  if (!unit || unit.finished || event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.id === "note" || event.target.id === "name";
  if (event.key === "Enter" && !(typing && event.shiftKey)) { event.preventDefault(); submit(); return; }
  if (event.key === "Escape" && typing) { event.target.blur(); return; }
  if (typing) return;
  if (event.key === " ") {
    event.preventDefault();
    for (const video of main.querySelectorAll("video")) { video.currentTime = 0; video.play().catch(() => {}); }
  } else if (unit.mode === "pairs") {
    const choice = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", 1: "left", 2: "tie", 3: "right" }[event.key];
    if (choice) { event.preventDefault(); choose(choice); }
  } else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
    event.preventDefault();
    said.at = Math.max(0, Math.min(names().length - 1, said.at + (event.key === "ArrowDown" ? 1 : -1)));
    draw();
  } else if (names()[said.at] === "total") {
    if (/^[0-5]$/.test(event.key)) total(Number(event.key));
    else if (event.key === "+" && said.total !== null) total(Math.min(unit.most, said.total + 0.5));
    else if (event.key === "-" && said.total !== null) total(Math.max(0, said.total - 0.5));
  } else if (/^[123]$/.test(event.key)) grant(names()[said.at], unit.grades[Number(event.key) - 1]);
});

start();
