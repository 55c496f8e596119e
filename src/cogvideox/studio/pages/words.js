// Numbers and states as people read them.

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 1) return "under 1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** The same after a word such as "takes". */
export function about(seconds) {
  return seconds < 1 ? duration(seconds) : `about ${duration(seconds)}`;
}

export function length(seconds) {
  return `${Number(seconds).toFixed(1).replace(/\.0$/, "")} s`;
}

export function memory(bytes) {
  if (bytes >= 1e9) return `${(bytes / 1e9).toPrecision(2)} GB`;
  if (bytes >= 1e6) return `${Math.round(bytes / 1e6)} MB`;
  return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
}

/** A model as people call it: of a folder its name. */
export function modelName(id) {
  return /^[./~]/.test(id) ? id.replace(/\/+$/, "").split("/").at(-1) : id;
}

const STAGES = {
  starting: "Starting",
  "planning the memory": "Planning",
  text: "Reading the prompt",
  encode: "Reading what was given",
  denoise: "Making it",
  decode: "Drawing the frames",
  write: "Saving",
  "wait for room on the disk": "Made; waiting for room on the disk",
};

/** One line about a video that has not ended well or has not ended. */
export function stateText(video) {
  const { state, ahead, live, cancelling } = video.cogvideox;
  if (cancelling) return "Cancelling";
  if (state === "queued") return ahead > 0 ? `Waiting, ${ahead} before it` : "Waiting, next in line";
  if (state === "running") {
    const stage = (live && STAGES[live.stage]) || "Loading the model";
    const isStep = live && live.stage === "denoise" && live.total > 1;
    const left = live && live.seconds_left ? `, ${duration(live.seconds_left)} left` : "";
    return (isStep ? `Step ${live.done} of ${live.total}` : stage) + left;
  }
  if (state === "cancelled") return "Cancelled";
  if (state === "failed") return (video.error && video.error.message) || "Failed";
  return "";
}

export function sizeOf(video) {
  const found = /^(\d+)x(\d+)$/.exec(video.size || "");
  return found ? { width: Number(found[1]), height: Number(found[2]) } : null;
}

export function framesOf(video) {
  const size = video.cogvideox.result && video.cogvideox.result.size;
  return size ? { frames: size.frames, fps: size.fps } : { frames: 1, fps: 8 };
}
