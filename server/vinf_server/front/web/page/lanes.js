// What every rank was busy with: a picture a rank, drawn whenever its beats have come.

import { make, setAttribute, setText } from "./dom.js";
import { bytes } from "./words.js";

const NAMES = { communicate: "exchange" }; // the others go by their own
const HEIGHT = 44;
const BEAT_MS = 1000;

export class Lanes {
  constructor(element, legend) {
    this.element = element;
    this.legend = legend;
    this.stages = [];
    this.seconds = 120;
    this.lanes = new Map();
    const times = ["2 min ago", "1 min ago", "now"].map((text) => make("span", {}, text));
    const axis = make("div", { className: "axis" }, ...times);
    this.scale = make("div", { className: "lane scale", "aria-hidden": "true" }, make("span", {}), axis);
    element.append(this.scale);
    this.skew = 0; // of this clock against the server's
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(element);
  }

  setFacts({ stages, lane_seconds: seconds }) {
    this.stages = stages;
    this.seconds = seconds;
    this.lanes.forEach((lane) => (lane.samples = []));
    this.legend.replaceChildren(
      ...stages.map((stage) => {
        const swatch = make("span", { className: `swatch stage-${stage}` });
        return make("li", {}, swatch, NAMES[stage] ?? stage);
      }),
    );
  }

  /** Show which ranks there are. */
  setRanks(ranks) {
    for (const rank of this.lanes.keys()) {
      if (!ranks.some((each) => each.rank === rank)) {
        this.lanes.get(rank).row.remove();
        this.lanes.delete(rank);
      }
    }
    for (const facts of ranks) {
      const lane = this.lanes.get(facts.rank) ?? this.add(facts.rank);
      setText(lane.state, facts.up ? "up" : "down");
      setAttribute(lane.state, "data-tone", facts.up ? "good" : "bad");
      setText(lane.device, facts.device);
      lane.device.title = [facts.device_name, facts.host].filter(Boolean).join(" on ");
      lane.isUp = facts.up;
    }
  }

  add(rank) {
    const lane = {
      samples: [],
      state: make("span", { className: "chip small" }),
      device: make("span", { className: "muted" }),
      canvas: make("canvas", { role: "img", height: HEIGHT }),
      speed: make("span", { className: "number" }),
      memory: make("span", { className: "muted" }),
      meter: make("meter", { min: 0, max: 1, "aria-label": `Memory of rank ${rank}` }),
    };
    lane.row = make(
      "div",
      { className: "lane" },
      make("div", { className: "who" }, make("strong", {}, `rank ${rank}`), lane.device, lane.state),
      lane.canvas,
      make("div", { className: "figures" }, lane.speed, lane.memory, lane.meter),
    );
    this.lanes.set(rank, lane);
    const after = [...this.lanes.keys()].filter((other) => other > rank).sort((a, b) => a - b)[0];
    this.element.insertBefore(lane.row, after === undefined ? this.scale : this.lanes.get(after).row);
    return lane;
  }

  /** Take new samples: [rank, end_ms, seconds, busy, frames a second, memory used, memory total]. */
  take(samples, nowMs) {
    if (nowMs) this.skew = nowMs - Date.now();
    for (const [rank, end, seconds, busy, speed, used, total] of samples) {
      const lane = this.lanes.get(rank) ?? this.add(rank);
      lane.samples.push({ end, seconds, busy: [...busy], speed, used, total });
      while (lane.samples.length && lane.samples[0].end < end - (this.seconds + 5) * 1000) lane.samples.shift();
      spreadBack(lane.samples);
    }
    this.draw();
  }

  draw() {
    const now = Date.now() + this.skew;
    for (const [rank, lane] of this.lanes) {
      this.figures(rank, lane, now);
      this.paint(lane, now);
    }
  }

  figures(rank, lane, now) {
    const last = lane.samples.at(-1);
    if (!last) return;
    const recent = lane.samples.filter((each) => each.end > now - 3000);
    const frames = sum(recent, (each) => each.speed * each.seconds);
    const speed = frames / Math.max(1, sum(recent, (each) => each.seconds));
    setText(lane.speed, `${lane.isUp ? speed.toFixed(1) : "0.0"} frames/s`);
    setText(lane.memory, last.total ? `${bytes(last.used)} of ${bytes(last.total)}` : bytes(last.used));
    lane.meter.value = last.total ? last.used / last.total : 0;
    const span = sum(lane.samples, (each) => each.seconds) || 1;
    const shares = this.stages
      .map((stage, index) => [stage, sum(lane.samples, (each) => each.busy[index]) / span])
      .filter(([, share]) => share >= 0.005)
      .map(([stage, share]) => `${NAMES[stage] ?? stage} ${Math.round(100 * share)} %`);
    setAttribute(lane.canvas, "aria-label", `Rank ${rank}, over two minutes: ${shares.join(", ") || "nothing to do"}`);
  }

  paint(lane, now) {
    const { canvas } = lane;
    const ratio = devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio);
    const height = Math.round(HEIGHT * ratio);
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    const style = getComputedStyle(canvas);
    const paper = canvas.getContext("2d");
    paper.clearRect(0, 0, width, height);
    paper.fillStyle = style.getPropertyValue("--grid");
    for (let back = 30; back < this.seconds; back += 30) {
      paper.fillRect(Math.round(width * (1 - back / this.seconds)), 0, Math.max(1, Math.floor(ratio)), height);
    }
    const colours = this.stages.map((stage) => style.getPropertyValue(`--stage-${stage}`));
    const place = (ms) => width * (1 - (now - ms) / (this.seconds * 1000));
    let before = -Infinity;
    for (const sample of lane.samples) {
      // A server that stood still for a moment leaves no gap.
      const left = place(sample.end - before < 2.5 * BEAT_MS ? before : sample.end - sample.seconds * 1000);
      before = sample.end;
      const right = place(sample.end);
      if (right < 0) continue;
      let top = height;
      sample.busy.forEach((seconds, index) => {
        const size = Math.min(top, (height * seconds) / sample.seconds);
        if (size <= 0) return;
        paper.fillStyle = colours[index];
        // Half a pixel over the neighbour: no gaps between samples.
        paper.fillRect(left, top - size, right - left + 0.5, size);
        top -= size;
      });
    }
  }
}

const sum = (items, value) => items.reduce((total, each) => total + value(each), 0);

/** Work is told when a piece of it ends; what is more than its second goes to the seconds before. */
function spreadBack(samples) {
  for (let index = samples.length - 1; index > 0; index -= 1) {
    const { busy, seconds } = samples[index];
    const told = sum(busy, (each) => each);
    if (told <= seconds * 1.001) return;
    const kept = seconds / told;
    const before = samples[index - 1];
    busy.forEach((each, stage) => {
      before.busy[stage] += each * (1 - kept);
      busy[stage] = each * kept;
    });
  }
}
