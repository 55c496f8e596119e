// A mask painted on a frame: with a pointer, or by keys (arrows move, space paints).

import { byId } from "./dom.js";

const STEPS = 40; // that can be undone
let finish = null;
let state = null;

export function begin() {
  const dialog = byId("mask");
  const canvas = byId("mask-canvas");
  dialog.addEventListener("close", () => finish && finish(null));
  byId("mask-cancel").addEventListener("click", () => dialog.close());
  byId("mask-done").addEventListener("click", done);
  byId("mask-undo").addEventListener("click", undo);
  byId("mask-clear").addEventListener("click", () => change(() => (state.strokes = [])));
  byId("mask-erase").addEventListener("click", () => {
    state.erases = !state.erases;
    byId("mask-erase").setAttribute("aria-pressed", String(state.erases));
  });
  byId("mask-size").addEventListener("input", draw);
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    canvas.focus();
    canvas.setPointerCapture(event.pointerId);
    state.cursor = pointOf(event);
    begun();
  });
  canvas.addEventListener("pointermove", (event) => {
    state.cursor = pointOf(event);
    if (state.stroke) state.stroke.points.push(state.cursor);
    draw();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (state.stroke = null));
  canvas.addEventListener("keydown", key);
  canvas.addEventListener("blur", draw);
  canvas.addEventListener("focus", draw);
}

/** Paint on a picture, of so many pixels or its own: a PNG, white where painted; null where nothing was. */
export async function paint(source, title, given = {}) {
  const picture = source ? await loaded(source) : null;
  const { width = picture ? picture.naturalWidth : 720, height = picture ? picture.naturalHeight : 480 } = given;
  const canvas = byId("mask-canvas");
  canvas.width = width;
  canvas.height = height;
  const scale = Math.min(innerWidth * 0.86, 900) / width;
  canvas.style.aspectRatio = `${width} / ${height}`;
  canvas.style.width = `min(100%, ${Math.round(Math.min(scale * width, (innerHeight * 0.6 * width) / height))}px)`;
  canvas.classList.toggle("pixels", Math.max(width, height) <= 128);
  byId("mask-title").textContent = title;
  byId("mask-erase").setAttribute("aria-pressed", "false");
  state = { picture, strokes: [], stroke: null, erases: false, cursor: { x: width / 2, y: height / 2 }, layer: new OffscreenCanvas(width, height) };
  byId("mask").showModal();
  canvas.focus();
  draw();
  return new Promise((resolve) => {
    finish = (blob) => {
      finish = null;
      resolve(blob);
    };
  });
}

function loaded(source) {
  return new Promise((done) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => done(null);
    image.src = source;
  });
}

function radius() {
  const { width, height } = byId("mask-canvas");
  return (Number(byId("mask-size").value) / 100) * 0.5 * Math.min(width, height);
}

function pointOf(event) {
  const canvas = byId("mask-canvas");
  const box = canvas.getBoundingClientRect();
  return { x: ((event.clientX - box.left) * canvas.width) / box.width, y: ((event.clientY - box.top) * canvas.height) / box.height };
}

function begun() {
  change(() => {
    state.stroke = { points: [state.cursor], radius: radius(), erases: state.erases };
    state.strokes.push(state.stroke);
  });
}

function change(action) {
  state.before = [...(state.before || []), [...state.strokes]].slice(-STEPS);
  action();
  draw();
}

function undo() {
  if (!state.before || !state.before.length) return;
  state.strokes = state.before.pop();
  draw();
}

function key(event) {
  const { width, height } = byId("mask-canvas");
  const by = radius();
  const moves = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] };
  if (moves[event.key]) {
    const [x, y] = moves[event.key];
    state.cursor = { x: Math.min(width, Math.max(0, state.cursor.x + x)), y: Math.min(height, Math.max(0, state.cursor.y + y)) };
    draw();
  } else if (event.key === " ") {
    begun();
    state.stroke = null;
  } else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) undo();
  else return;
  event.preventDefault();
}

/** White strokes on nothing. */
function strokes(context) {
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  for (const { points, radius: half, erases } of state.strokes) {
    context.globalCompositeOperation = erases ? "destination-out" : "source-over";
    context.strokeStyle = context.fillStyle = "#fff";
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = 2 * half;
    context.beginPath();
    context.moveTo(points[0].x, points[0].y);
    for (const { x, y } of points) context.lineTo(x, y);
    context.stroke();
    context.beginPath();
    context.arc(points[0].x, points[0].y, half, 0, 7);
    context.fill();
  }
  context.globalCompositeOperation = "source-over";
}

function draw() {
  if (!state) return;
  const canvas = byId("mask-canvas");
  const context = canvas.getContext("2d");
  context.globalAlpha = 1;
  context.fillStyle = "#777";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (state.picture) context.drawImage(state.picture, 0, 0, canvas.width, canvas.height);
  const layer = state.layer.getContext("2d");
  strokes(layer);
  layer.globalCompositeOperation = "source-in";
  layer.fillStyle = "#ff3d8b";
  layer.fillRect(0, 0, canvas.width, canvas.height);
  layer.globalCompositeOperation = "source-over";
  context.globalAlpha = 0.6;
  context.drawImage(state.layer, 0, 0);
  context.globalAlpha = 1;
  const line = Math.max(0.5, canvas.width / (canvas.clientWidth || canvas.width));
  for (const [color, width] of [["#000", 3 * line], ["#fff", 1.5 * line]]) {
    context.strokeStyle = color;
    context.lineWidth = width;
    context.beginPath();
    context.arc(state.cursor.x, state.cursor.y, radius(), 0, 7);
    context.stroke();
  }
}

async function done() {
  const { width, height } = byId("mask-canvas");
  const layer = state.layer.getContext("2d");
  strokes(layer);
  const mask = new OffscreenCanvas(width, height);
  const context = mask.getContext("2d");
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  context.drawImage(state.layer, 0, 0);
  const blob = state.strokes.length ? await mask.convertToBlob({ type: "image/png" }) : null;
  if (finish) finish(blob);
  byId("mask").close();
}
