// The video's timeline: frames that are there, seams between the ranks' clips, prompts and cuts, and the place shown.

import { make, setAttribute, setText } from "./dom.js";
import { clock, rateOf } from "./words.js";

const MOST_LABELS = 8;

const startOf = (part) => Number(part.start_frame_index ?? 0);

export class Scrubber {
  /** @param onSeek called with a frame. @param onToggle when the space bar is pressed. */
  constructor(element, { onSeek, onToggle }) {
    this.onSeek = onSeek;
    this.made = make("div", { className: "made" });
    this.ready = make("div", { className: "ready" });
    this.marks = make("div", { className: "marks" });
    this.head = make("div", { className: "head" });
    this.track = make("div", { className: "track" }, this.made, this.ready, this.marks, this.head);
    const names = { role: "slider", "aria-label": "Frame", "aria-valuemin": 0, "aria-describedby": "seams-text" };
    this.slider = make("div", { className: "slider", tabIndex: 0, ...names }, this.track);
    this.prompts = make("div", { className: "bands prompts", "aria-hidden": "true" });
    this.clips = make("div", { className: "bands clips", "aria-hidden": "true" });
    this.words = make("p", { className: "unseen", id: "seams-text" });
    element.append(this.prompts, this.slider, this.clips, this.words);
    this.count = 1;
    this.frame = 0;
    this.slider.addEventListener("keydown", (event) => this.key(event, onToggle));
    this.slider.addEventListener("pointerdown", (event) => {
      this.slider.setPointerCapture(event.pointerId);
      this.point(event);
    });
    this.slider.addEventListener("pointermove", (event) => {
      if (this.slider.hasPointerCapture(event.pointerId)) this.point(event);
    });
  }

  /** First frames of all clips but the first: the seams. */
  get seams() {
    return (this.generation?.clips ?? [])
      .map(startOf)
      .filter((start, index, all) => start > 0 && start < this.count && all.indexOf(start) === index);
  }

  show(generation, { frame, readyFrames }) {
    const { progress } = generation;
    this.generation = generation;
    this.count = Math.max(1, Number(progress.frame_count));
    this.rate = rateOf(generation);
    this.frame = frame;
    this.newest = Math.max(0, Math.max(readyFrames, Number(generation.next_frame_index)) - 1);
    const first = Number(generation.first_available_frame_index);
    place(this.made, first / this.count, Number(generation.next_frame_index) / this.count);
    place(this.ready, Math.min(first, readyFrames) / this.count, readyFrames / this.count);
    this.head.style.left = `${(100 * (frame + 0.5)) / this.count}%`;
    setAttribute(this.slider, "aria-valuemax", this.count - 1);
    setAttribute(this.slider, "aria-valuenow", frame);
    const clip = generation.clips.findLastIndex((each) => startOf(each) <= frame && Number(each.frame_count) > 0);
    const whose = clip >= 0 ? `, clip of rank ${clip}` : "";
    setAttribute(this.slider, "aria-valuetext", `frame ${frame} of ${this.count}, ${clock(frame / this.rate)}${whose}`);
    this.mark();
  }

  /** Draw what does not move; only when it has changed. */
  mark() {
    const { clips, resolved_spec: spec } = this.generation;
    const key = JSON.stringify([clips, spec.prompt_segments, this.count]);
    if (key === this.marked) return;
    this.marked = key;
    const segments = spec.prompt_segments.map(({ prompt, cut, ...each }) => ({ start: startOf(each), prompt, cut }));
    this.marks.replaceChildren(
      ...this.seams.map((start) => {
        const rank = clips.findLastIndex((each) => startOf(each) === start);
        return this.line(start, "seam", `Seam: the clip of rank ${rank} begins with frame ${start}`);
      }),
      ...segments.map(({ start, cut, prompt }) => {
        const title = `${cut ? "Cut" : "Prompt"} at frame ${start}: ${prompt}`;
        return this.line(start, cut ? "cut" : "segment", title);
      }),
    );
    const whose = clips
      .map((clip, rank) => [startOf(clip), Number(clip.frame_count), rank])
      .filter(([, count]) => count > 0)
      .map(([start, count, rank]) => [start, `rank ${rank} · ${start}–${start + count - 1}`]);
    this.bands(this.clips, whose.length <= MOST_LABELS ? whose : []);
    const later = segments.map(({ start, prompt, cut }) => [start, cut ? `✂ ${prompt}` : prompt]);
    this.bands(this.prompts, later.length ? [[0, spec.prompt], ...later] : []);
    const told = [
      this.seams.length ? `Seams before frames ${this.seams.join(", ")}.` : "",
      ...segments.map(({ start, cut, prompt }) => `From frame ${start}${cut ? ", after a cut" : ""}: ${prompt}.`),
    ];
    setText(this.words, told.filter(Boolean).join(" "));
  }

  line(start, kind, title) {
    const line = make("i", { className: kind, title });
    line.dataset.frame = start;
    line.style.left = `${(100 * start) / this.count}%`;
    return line;
  }

  bands(element, parts) {
    element.hidden = !parts.length;
    element.replaceChildren(
      ...parts.map(([start, text], index) => {
        const band = make("span", { title: text }, text);
        const stop = parts[index + 1]?.[0] ?? this.count;
        place(band, start / this.count, stop / this.count);
        return band;
      }),
    );
  }

  point(event) {
    const { left, width } = this.track.getBoundingClientRect();
    this.onSeek(Math.min(this.newest, Math.floor(((event.clientX - left) / width) * this.count)));
  }

  key(event, onToggle) {
    const second = Math.max(1, Math.round(this.rate));
    const target = {
      ArrowRight: this.frame + 1,
      ArrowUp: this.frame + 1,
      ArrowLeft: this.frame - 1,
      ArrowDown: this.frame - 1,
      PageUp: this.frame + second,
      PageDown: this.frame - second,
      Home: 0,
      End: this.newest,
    }[event.key];
    if (event.key === " ") onToggle();
    else if (target === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    else this.onSeek(Math.max(0, Math.min(this.newest, target)));
    event.preventDefault();
  }
}

function place(element, from, to) {
  element.style.left = `${100 * from}%`;
  element.style.width = `${100 * Math.max(0, to - from)}%`;
}
