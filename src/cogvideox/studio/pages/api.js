// The server: requests with the token of this page, errors as sentences, news as they come.

let token = "";
let begun = null;

export class Failure extends Error {
  constructor(status, error = {}) {
    super(error.message || (status ? `The server answered ${status}` : "The server does not answer. Is it still running?"));
    this.status = status;
    this.code = error.code || "";
    this.param = error.param || "";
  }
}

async function answered(response) {
  if (response.ok) return response.json();
  let content = {};
  try {
    content = await response.json();
  } catch {
    // an answer without a reason: its status says what there is to say
  }
  const failure = new Failure(response.status, content.error);
  if (response.status === 401) document.dispatchEvent(new CustomEvent("key-needed"));
  throw failure;
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new Failure(0);
  }
}

/** A file of the server. */
export async function download(path) {
  const response = await reach(path, {});
  return response.ok ? response.blob() : answered(response);
}

export async function get(path) {
  return answered(await reach(path, { headers: { accept: "application/json" } }));
}

/** Who one is here; asked once, and again when the server was started anew. */
export function session(again = false) {
  if (begun === null || again) {
    begun = get("/v1/session").then((found) => {
      token = found.token;
      return found;
    });
    begun.catch(() => {
      begun = null;
    });
  }
  return begun;
}

export async function send(method, path, body, headers = {}) {
  await session();
  const isForm = body instanceof FormData;
  const request = () => ({
    method,
    headers: { "x-cogvideox-token": token, ...(body && !isForm ? { "content-type": "application/json" } : {}), ...headers },
    body: body && !isForm ? JSON.stringify(body) : body,
  });
  const response = await reach(path, request());
  if (response.status === 403) {
    const reason = await response.clone().json().catch(() => ({}));
    if (reason.error && reason.error.code === "wrong_token") {
      await session(true);
      return answered(await reach(path, request()));
    }
  }
  return answered(response);
}

export const post = (path, body, headers) => send("POST", path, body, headers);

export async function logIn(key) {
  const response = await reach("/v1/session", {
    method: "POST",
    headers: { "content-type": "application/json", "x-cogvideox-token": token },
    body: JSON.stringify({ key }),
  });
  if (!response.ok) throw new Failure(response.status, (await response.json()).error);
  return session(true);
}

export function upload(blob, name = "file") {
  const form = new FormData();
  form.append("file", blob, name);
  return post("/v1/inputs", form);
}

/** Ask for one video. The same key never makes two, so it may be sent again. */
export async function create(body) {
  const headers = { "idempotency-key": uniqueKey() };
  try {
    return await post("/v1/videos", body, headers);
  } catch (failure) {
    if (failure.status !== 0) throw failure;
    await new Promise((done) => setTimeout(done, 1000));
    return post("/v1/videos", body, headers);
  }
}

function uniqueKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (each) => each.toString(16).padStart(2, "0")).join("");
}

export function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
}

/** What the server answers: 200, 401 where it wants a key and asks for it, 0 for nothing. */
async function answers() {
  try {
    await answered(await reach("/v1/session", { signal: AbortSignal.timeout(5000) }));
    return 200;
  } catch (failure) {
    return failure.status;
  }
}

/** News of all videos. Closed while the page is hidden: browsers allow few open connections to one server. */
export function listen({ video, deleted, state }) {
  let source = null;
  let timer = 0;
  const close = () => {
    clearTimeout(timer);
    if (source) source.close();
    source = null;
  };
  const open = () => {
    close();
    source = new EventSource("/v1/events");
    source.addEventListener("open", () => state(true));
    source.addEventListener("video", (event) => video(JSON.parse(event.data)));
    source.addEventListener("deleted", (event) => deleted(JSON.parse(event.data).id));
    source.addEventListener("error", async () => {
      close();
      const status = await answers();
      state(status !== 0);
      if (status !== 401 && !source && !document.hidden) timer = setTimeout(open, 1500); // with a key the page is loaded again
    });
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  if (!document.hidden) open();
}
