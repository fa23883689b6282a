// The chosen generation: previews, then the video, its timeline, and what it was made of.

import { call, hasToken, pathOf, wordsOf } from "./api.js";
import { byId, icon, make, setAttribute, setText, showFacts } from "./dom.js";
import { Player } from "./player.js";
import { Previews } from "./previews.js";
import { Scrubber } from "./scrubber.js";
import { bytes, clock, duration, isOver, plural, progressWords, rateOf, secondsBetween } from "./words.js";
import { solverWords, stateOf, stateWords } from "./words.js";

export class Viewer {
  constructor() {
    this.generation = null;
    this.video = byId("video");
    this.previews = new Previews(byId("previews"));
    this.player = new Player(this.video, {
      onChange: () => this.draw(),
      onProblem: (text) => this.complain(text),
    });
    this.progress = make("progress", { max: 1, id: "viewer-progress" });
    byId("viewer-state").after(this.progress);
    this.progress.setAttribute("aria-label", "Progress of this video");
    this.buildControls();
    this.download = make("a", { className: "button", href: "#", onclick: (event) => this.save(event) }, "Download");
    byId("viewer-actions").append(this.download);
    this.show(null);
  }

  buildControls() {
    const button = (id, label, onclick, ...content) => {
      const names = { id, title: label, "aria-label": label };
      return make("button", { ...names, type: "button", className: "quiet", onclick }, ...content);
    };
    const controls = byId("controls");
    const timeline = make("div", { className: "timeline" });
    this.playButton = button("play", "Play", () => this.player.toggle(), icon("play"), icon("pause"));
    this.back = button("seam-back", "Previous seam", () => this.jump(-1), icon("back"), "Seam");
    this.next = button("seam-next", "Next seam", () => this.jump(1), "Seam", icon("next"));
    this.edge = button("newest", "Newest frame", () => this.player.seek(this.player.readyFrames - 1), "Newest");
    this.full = button("full", "Full screen", () => byId("stage").requestFullscreen?.(), icon("full"));
    this.place = make("span", { className: "place" });
    const buttons = [this.playButton, this.place, this.back, this.next, this.edge, this.full];
    controls.append(timeline, make("div", { className: "buttons" }, ...buttons));
    this.scrubber = new Scrubber(timeline, {
      onSeek: (frame) => this.player.seek(frame),
      onToggle: () => this.player.toggle(),
    });
  }

  get id() {
    return this.generation?.generation_id ?? "";
  }

  /** Show another one; null: none. */
  show(generation) {
    this.generation = generation;
    this.previews.clear();
    this.player.show(generation);
    if (generation) this.update(generation);
    else this.draw();
  }

  /** The one that is shown has changed. */
  update(generation) {
    this.generation = generation;
    this.player.update(generation);
    this.draw();
  }

  takePreviews(pictures) {
    this.previews.take(pictures);
    this.draw();
  }

  draw() {
    const { generation } = this;
    byId("viewer-actions").hidden = !generation;
    this.progress.hidden = !generation || isOver(generation) || stateOf(generation) === "PENDING";
    if (!generation) {
      setText(byId("viewer-title"), "No video chosen");
      setText(byId("viewer-state"), "");
      showFacts(byId("viewer-facts"), []);
      this.drawStage(false, false);
      return;
    }
    const { resolved_spec: spec, progress } = generation;
    setText(byId("viewer-title"), spec.prompt);
    this.drawState();
    const made = Number(progress.completed_frame_count);
    const steps = progress.step_count ? progress.completed_step_count / progress.step_count : 0;
    this.progress.value = made ? made / Number(progress.frame_count) : steps;
    this.previews.lay(generation.clips);
    const plays = this.video.readyState >= 2;
    this.drawStage(plays, !plays && !this.previews.isEmpty && !isOver(generation));
    this.drawControls(plays);
    this.drawFacts();
    this.download.hidden = !isOver(generation) || made === 0;
    setAttribute(this.download, "href", `${pathOf(this.id)}/video.mp4`);
    setAttribute(this.download, "download", `vinf-${this.id}.mp4`);
  }

  drawState() {
    const [word, tone] = stateWords(this.generation);
    const line = byId("viewer-state");
    line.firstElementChild ?? line.append(make("span", { className: "chip", role: "status" }), make("span", {}));
    const [chip, words] = line.children;
    setText(chip, word);
    setAttribute(chip, "data-tone", tone);
    setText(words, progressWords(this.generation));
  }

  drawStage(plays, shows) {
    const { generation } = this;
    this.video.hidden = !plays;
    byId("previews").hidden = !shows;
    const hint = byId("stage-hint");
    hint.hidden = plays || shows;
    if (!hint.hidden) setText(hint, this.hint());
    if (generation) {
      const { width, height } = generation.resolved_spec;
      byId("stage").style.setProperty("--ratio", `${width} / ${height}`);
    }
    setAttribute(byId("stage"), "data-shows", plays ? "video" : shows ? "previews" : "nothing");
    const making = byId("making");
    const waits = plays && !isOver(generation) && this.player.isAtEdge;
    making.hidden = !waits;
    if (!waits) return;
    const count = Number(generation.progress.frame_count);
    setText(making, `making frame ${Math.min(this.player.readyFrames + 1, count)} of ${count}`);
  }

  hint() {
    const { generation } = this;
    if (!generation) return "Describe a video, or choose one that was made.";
    if (isOver(generation) && !Number(generation.progress.completed_frame_count)) return "No frame of it was made.";
    if (Number(generation.progress.completed_frame_count)) return "Getting the video ready";
    const hints = { PENDING: "It has not begun yet.", RUNNING: "Pictures come after the first steps." };
    return hints[stateOf(generation)] ?? "";
  }

  drawControls(plays) {
    const { generation, player } = this;
    byId("controls").hidden = !generation.clips.length;
    this.scrubber.show(generation, player);
    const runs = !this.video.paused && !this.video.ended;
    setAttribute(this.playButton, "data-runs", runs ? "yes" : "no");
    setAttribute(this.playButton, "aria-label", runs ? "Pause" : "Play");
    this.playButton.title = runs ? "Pause" : "Play";
    for (const button of [this.playButton, this.full]) button.disabled = !plays;
    this.edge.hidden = isOver(generation);
    this.edge.disabled = !plays || player.isAtEdge;
    const { seams } = this.scrubber;
    this.back.disabled = !plays || !seams.some((start) => start < player.frame);
    this.next.disabled = !plays || !seams.some((start) => start > player.frame && start < player.readyFrames);
    this.back.hidden = this.next.hidden = !seams.length;
    const total = Number(generation.progress.frame_count);
    const whole = `${plural(total, "frame")} · ${duration(total / player.rate)}`;
    setText(this.place, plays ? `frame ${player.frame} of ${total} · ${clock(player.frame / player.rate)}` : whole);
  }

  jump(direction) {
    const { seams } = this.scrubber;
    const { frame } = this.player;
    const target = direction > 0 ? seams.find((start) => start > frame) : seams.findLast((start) => start < frame);
    if (target !== undefined) this.player.seek(target);
  }

  drawFacts() {
    const { resolved_spec: spec, ...generation } = this.generation;
    const rate = rateOf(this.generation);
    const took = secondsBetween(generation.start_time, generation.end_time);
    const first = secondsBetween(generation.create_time, generation.first_frame_time);
    const memory = generation.peak_rank_memory_bytes.map(Number);
    const frames = Number(spec.frame_count);
    showFacts(byId("viewer-facts"), [
      ["Size", `${spec.width} × ${spec.height}`],
      ["Length", `${plural(frames, "frame")}, ${duration(frames / rate)} at ${Number(rate.toFixed(2))}/s`],
      ["Steps", `${spec.inference_step_count}, ${solverWords(spec.solver)}`],
      ["Guidance", String(spec.guidance_scale)],
      ["Seed", spec.seed],
      ["Not to be seen", spec.negative_prompt],
      ["First frame", first ? `after ${duration(first)}` : ""],
      ["Made in", took ? duration(took) : ""],
      ["Memory of a rank", memory.length ? `up to ${bytes(Math.max(...memory))}` : ""],
      ["Id", generation.generation_id],
    ]);
  }

  /** Say what went wrong; "": nothing. */
  complain(text) {
    setText(byId("video-problem"), text);
    byId("video-problem").hidden = !text;
  }

  /** A plain link carries no token: fetch the file, then hand it over. */
  async save(event) {
    if (!hasToken()) return;
    event.preventDefault();
    const { id } = this; // another one may be shown when the file has come
    try {
      const response = await call(`${pathOf(id)}/video.mp4`);
      const url = URL.createObjectURL(await response.blob());
      make("a", { href: url, download: `vinf-${id}.mp4` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) {
      this.complain(wordsOf(error));
    }
  }
}
