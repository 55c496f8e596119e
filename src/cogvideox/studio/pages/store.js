// The videos that this page knows, newest first; whoever shows them is told of changes.

import { get, listen, send, post } from "./api.js";

const PAGE = 24;
const videos = new Map();
let order = [];
let watchers = [];
let query = { search: "", favourite: false };
let more = false;
let asked = 0;

export const find = (id) => videos.get(id);
export const all = () => order.map((id) => videos.get(id));
export const hasMore = () => more;
export const isSearched = () => Boolean(query.search);
export const isFiltered = () => Boolean(query.search || query.favourite);

export function watch(watcher) {
  watchers.push(watcher);
}

function tell(change) {
  for (const each of watchers) each(change);
}

function address(after) {
  const values = new URLSearchParams({ limit: String(PAGE) });
  if (query.search) values.set("search", query.search);
  if (query.favourite) values.set("favourite", "true");
  if (after) values.set("after", after);
  return `/v1/videos?${values}`;
}

/** Show the videos that match, from the newest on. */
export async function load(changed = {}) {
  query = { ...query, ...changed };
  const number = ++asked;
  const page = await get(address());
  if (number !== asked) return;
  videos.clear();
  for (const each of page.data) videos.set(each.id, each);
  order = page.data.map((each) => each.id);
  more = page.has_more;
  tell({ kind: "all" });
}

export async function loadOlder() {
  const page = await get(address(order[order.length - 1]));
  for (const each of page.data) {
    if (!videos.has(each.id)) order.push(each.id);
    videos.set(each.id, each);
  }
  more = page.has_more;
  tell({ kind: "all" });
}

function matches(video) {
  if (query.favourite && !video.cogvideox.favourite) return false;
  return !query.search || video.prompt.toLowerCase().includes(query.search.toLowerCase());
}

/** A video as the server now tells it. */
export function put(video) {
  const before = videos.get(video.id);
  if (before) {
    videos.set(video.id, video);
    if (query.favourite && !video.cogvideox.favourite) return remove(video.id, false);
    return tell({ kind: "changed", video, before });
  }
  if (!matches(video)) return undefined;
  let place = order.findIndex((id) => videos.get(id).created_at <= video.created_at);
  if (place < 0) {
    if (more) return undefined; // it comes with the older ones
    place = order.length;
  }
  videos.set(video.id, video);
  order.splice(place, 0, video.id);
  return tell({ kind: "added", video, place });
}

/** It is shown no longer: it was deleted, or does not match any more. */
export function remove(id, isDeleted = true) {
  if (!videos.delete(id)) return;
  const place = order.indexOf(id);
  order.splice(place, 1);
  tell({ kind: "removed", id, place, isDeleted });
}

export function begin(state) {
  listen({ video: put, deleted: remove, state });
}

export const cancel = async (id) => put(await post(`/v1/videos/${id}/cancel`));
export const favourite = async (id, value) => put(await post(`/v1/videos/${id}/favourite?value=${value}`));
export const restore = async (id) => put(await post(`/v1/videos/${id}/restore`));

export async function erase(id) {
  await send("DELETE", `/v1/videos/${id}`);
  remove(id);
}
