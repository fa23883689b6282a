// A video that plays while it is made: the server's fragments go into a MediaSource as they come.

import { ApiError, call, pathOf } from "./api.js";
import { isOver, rateOf } from "./words.js";

const MOST_AHEAD_S = 120; // kept ready beyond the place that is shown
const KEPT_BEHIND_S = 20; // when the browser has no more room
const PAUSE_MS = 1000;

const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Player {
  /** @param onChange called when there is something new to show. @param onProblem with why there is no video, or "". */
  constructor(video, { onChange, onProblem }) {
    this.video = video;
    this.onChange = onChange;
    this.onProblem = onProblem;
    this.generation = null;
    this.wantsToPlay = true;
    for (const name of ["timeupdate", "play", "pause", "seeked", "waiting", "playing", "ended", "loadeddata"]) {
      video.addEventListener(name, () => onChange());
    }
  }

  /** The frame that is shown. */
  get frame() {
    if (!this.generation) return 0;
    const last = Math.max(0, Number(this.generation.progress.frame_count) - 1);
    return Math.min(last, Math.max(0, Math.floor(this.video.currentTime * this.rate + 0.01)));
  }

  get rate() {
    return rateOf(this.generation);
  }

  /** How many frames can be shown: the first one that cannot, counted from 0. */
  get readyFrames() {
    const { buffered } = this.video;
    return buffered.length ? Math.round(buffered.end(buffered.length - 1) * this.rate) : 0;
  }

  get isAtEdge() {
    return this.readyFrames > 0 && this.frame >= this.readyFrames - 1;
  }

  /** Show another generation, or none. */
  show(generation) {
    this.abort?.abort();
    this.video.removeAttribute("src");
    this.video.load();
    this.generation = generation;
    this.isComplete = false;
    this.isLoading = false;
    this.wantsToPlay = !calm.matches;
    this.onProblem("");
  }

  /** The same generation has changed. */
  update(generation) {
    this.generation = generation;
    if (!this.isLoading && Number(generation.progress.completed_frame_count) > 0) {
      this.isLoading = true;
      this.load(0);
    }
  }

  toggle() {
    this.wantsToPlay = this.video.paused || this.video.ended;
    if (this.video.ended || (this.isComplete && this.isAtEdge)) this.video.currentTime = 0;
    if (this.wantsToPlay) this.play();
    else this.video.pause();
  }

  play() {
    this.video.play().catch(() => this.onChange());
  }

  /** Go to a frame and stay there; one that is not there yet: to the newest. */
  seek(frame) {
    this.wantsToPlay = false;
    this.video.pause();
    const wanted = Math.max(0, Math.min(frame, Number(this.generation.progress.frame_count) - 1));
    const time = (wanted + 0.5) / this.rate;
    const { buffered } = this.video;
    if (!buffered.length) return;
    const start = buffered.start(0);
    const end = buffered.end(buffered.length - 1);
    const ranges = Array.from({ length: buffered.length }, (_, each) => [buffered.start(each), buffered.end(each)]);
    const isMade = wanted < Number(this.generation.next_frame_index);
    const isFar = time < start || time > end + MOST_AHEAD_S / 4;
    if (ranges.some(([from, to]) => from <= time && time < to)) this.video.currentTime = time;
    else if (isMade && isFar) this.load(wanted);
    else this.video.currentTime = time < start ? start : end - 0.5 / this.rate;
    this.onChange();
  }

  // ---- inside ----

  /** Read the video from a frame on until it is over; a broken stream is read on where it broke. */
  async load(first) {
    this.abort?.abort();
    const abort = (this.abort = new AbortController());
    const { signal } = abort;
    let from = first;
    let source = null;
    while (!signal.aborted) {
      try {
        const response = await call(`${pathOf(this.generation.generation_id)}/video?frame=${from}`, { signal });
        source ??= await this.open(response.headers.get("Content-Type"), first);
        if (!source || signal.aborted) return;
        await this.pump(response, source, signal);
        if (isOver(this.generation) && !signal.aborted) {
          if (source.media.readyState === "open") source.media.endOfStream();
          this.isComplete = true;
          this.onChange();
          return;
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof ApiError && error.reason !== "SERVER_DRAINING") {
          this.onProblem(`No video here: ${error.message}.`);
          return;
        }
        if (error.name === "InvalidStateError") return; // another video has taken the element
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      if (source && source.buffer.updating === false && source.media.readyState === "open") source.buffer.abort();
      from = this.readyFrames;
    }
  }

  async open(type, first) {
    if (!("MediaSource" in window) || !MediaSource.isTypeSupported(type)) {
      this.onProblem(`This browser does not play ${type}. The file can be downloaded when it is done.`);
      return null;
    }
    const media = new MediaSource();
    this.video.src = URL.createObjectURL(media);
    await once(media, "sourceopen");
    URL.revokeObjectURL(this.video.src);
    const buffer = media.addSourceBuffer(type);
    media.duration = Number(this.generation.progress.frame_count) / this.rate;
    this.video.currentTime = (first + 0.5 * Boolean(first)) / this.rate;
    return { media, buffer };
  }

  async pump(response, { buffer }, signal) {
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done || signal.aborted) return;
      await this.append(buffer, value, signal);
      const { video } = this;
      const first = video.buffered.length ? video.buffered.start(0) : 0;
      if (video.currentTime < first) video.currentTime = first;
      if (this.wantsToPlay && video.paused && video.buffered.length) this.play();
      this.onChange();
      while (!signal.aborted && this.readyFrames / this.rate - video.currentTime > MOST_AHEAD_S) {
        await once(video, "timeupdate");
      }
    }
  }

  async append(buffer, data, signal) {
    while (!signal.aborted) {
      try {
        buffer.appendBuffer(data);
        await once(buffer, "updateend");
        return;
      } catch (error) {
        if (error.name !== "QuotaExceededError") throw error;
        const behind = this.video.currentTime - KEPT_BEHIND_S;
        if (behind > 0 && this.video.buffered.length && this.video.buffered.start(0) < behind - 1) {
          buffer.remove(0, behind);
          await once(buffer, "updateend");
        } else {
          await once(this.video, "timeupdate");
        }
      }
    }
  }
}

const once = (target, name) => new Promise((resolve) => target.addEventListener(name, resolve, { once: true }));
