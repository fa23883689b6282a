// The page: what the server says goes to the parts that show it, what people do goes to the server.

import { call, pathOf, wordsOf } from "./api.js";
import { confirmed } from "./dialogs.js";
import { byId, make, setAttribute, setText, showFacts } from "./dom.js";
import { NewVideo } from "./form.js";
import { Lanes } from "./lanes.js";
import { List } from "./list.js";
import { Updates } from "./updates.js";
import { Viewer } from "./viewer.js";
import { isOver, plural } from "./words.js";

const generations = new Map();
const older = new Set(); // shown because somebody asked for them
let olderToken = ""; // of their next page; empty: there is none
let server = null;
let facts = null;
let isConnected = false;

const viewer = new Viewer();
const lanes = new Lanes(byId("lanes"), byId("legend"));
const list = new List(byId("list"), { onChoose: choose, onCancel: cancel, onDelete: remove });
const form = new NewVideo(byId("new"), (generation) => {
  generations.set(generation.generation_id, generation);
  choose(generation.generation_id);
});
const updates = new Updates({ onMessage: take, onConnection: setConnection });

function choose(id) {
  history.replaceState(null, "", `#${id}`);
  viewer.show(generations.get(id) ?? null);
  updates.choose(id);
  draw();
}

function take(message) {
  if (message.facts) {
    facts = message.facts;
    lanes.setFacts(facts);
    if (!older.size) olderToken = facts.older_page_token;
    for (const id of generations.keys()) if (!older.has(id)) generations.delete(id);
  }
  if (message.server) server = message.server;
  if (message.ranks) lanes.setRanks(message.ranks);
  for (const generation of message.generations ?? []) generations.set(generation.generation_id, generation);
  for (const id of message.gone ?? []) forget(id);
  if (message.previews?.generation_id === viewer.id) viewer.takePreviews(message.previews.pictures);
  lanes.take(message.lanes ?? [], message.now_ms);
  const wanted = viewer.id || location.hash.slice(1);
  const shown = generations.get(wanted);
  if (shown && viewer.id) viewer.update(shown);
  else if (shown) choose(wanted);
  else if (viewer.id && message.facts) viewer.show(null);
  draw();
}

function forget(id) {
  generations.delete(id);
  older.delete(id);
  if (viewer.id === id) {
    history.replaceState(null, "", "#");
    viewer.show(null);
    updates.choose("");
  }
}

function setConnection(isThere) {
  isConnected = isThere;
  const banner = byId("connection");
  banner.hidden = isThere;
  setText(banner, isThere ? "" : "Connection lost, trying again");
  drawServer();
}

function draw() {
  list.show(generations.values(), viewer.id, Date.now() + lanes.skew);
  byId("list-empty").hidden = generations.size > 0;
  byId("older").hidden = !olderToken;
  drawServer();
}

function drawServer() {
  const state = byId("server-state");
  const [word, tone] = !isConnected
    ? ["No connection", "bad"]
    : !server
      ? ["Connecting", "idle"]
      : server.stopping
        ? ["Stopping", "wait"]
        : server.ready
          ? ["Ready", "good"]
          : ["Not ready", "bad"];
  setText(state, word);
  setAttribute(state, "data-tone", tone);
  if (!server) return;
  const model = server.models[0];
  if (model) form.describe(model, server.limits);
  // An address that means every one of the machine's is found where this page was.
  const address = facts?.metrics.replace(/\/\/(0\.0\.0\.0|\[::\])/, `//${location.hostname}`);
  const metrics = address ? make("a", { href: address, rel: "noreferrer" }, "for Prometheus") : null;
  showFacts(byId("server-facts"), [
    ["Model", model?.name ?? "not known yet"],
    ["Queue", plural(server.waiting_generation_count, "video")],
    ["Version", server.version],
    ["Metrics", metrics],
  ]);
  document.title = viewer.generation ? `${viewer.generation.resolved_spec.prompt} · vinf` : "vinf";
}

async function cancel(generation) {
  const yes = await confirmed({
    title: "Cancel this video?",
    text: `“${generation.resolved_spec.prompt}” stops after the step in work. Frames that were made stay.`,
    yes: "Cancel it",
  });
  if (yes) await act(() => call(`${pathOf(generation.generation_id)}/cancel`, { method: "POST", body: {} }));
  list.focus(generation.generation_id);
}

async function remove(generation) {
  const yes = await confirmed({
    title: "Delete this video?",
    text: `“${generation.resolved_spec.prompt}” and its frames are removed from the server.`,
    yes: "Delete it",
  });
  if (yes && (await act(() => call(pathOf(generation.generation_id), { method: "DELETE" })))) {
    forget(generation.generation_id);
    draw();
  }
  list.focus(generation.generation_id);
}

/** Do something, and say so where the server does not let it; true when it was done. */
async function act(request) {
  try {
    await request();
    return true;
  } catch (error) {
    viewer.complain(wordsOf(error));
    return false;
  }
}

byId("older").addEventListener("click", () =>
  act(async () => {
    const reply = await (await call(`/api/generations?page_token=${encodeURIComponent(olderToken)}`)).json();
    olderToken = reply.next_page_token;
    for (const generation of reply.generations.filter(isOver)) {
      generations.set(generation.generation_id, generation);
      older.add(generation.generation_id);
    }
    draw();
  }),
);
