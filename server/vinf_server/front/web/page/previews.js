// What a few frames of every clip look like while they are denoised.

import { make, setText } from "./dom.js";

export class Previews {
  constructor(element) {
    this.element = element;
    this.pictures = new Map();
  }

  get isEmpty() {
    return this.pictures.size === 0;
  }

  clear() {
    for (const { image } of this.pictures.values()) URL.revokeObjectURL(image.src);
    this.pictures.clear();
    this.element.replaceChildren();
    this.laid = "";
  }

  /** Take newer pictures: the ones of a frame replace each other. */
  take(pictures) {
    for (const { frame_index: frame, completed_step_count: step, jpeg } of pictures) {
      const known = this.pictures.get(frame) ?? this.add(frame);
      if (known.image.src) URL.revokeObjectURL(known.image.src);
      const bytes = Uint8Array.from(atob(jpeg), (character) => character.charCodeAt(0));
      known.image.src = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
      known.image.alt = `Frame ${frame} after step ${step}`;
      setText(known.step, `step ${step}`);
    }
  }

  add(frame) {
    const image = make("img", {});
    const step = make("span", { className: "muted" });
    const figure = make("figure", {}, image, make("figcaption", {}, make("span", {}, `frame ${frame}`), step));
    const picture = { figure, image, step };
    this.pictures.set(frame, picture);
    return picture;
  }

  /** One row a clip. */
  lay(clips) {
    const key = JSON.stringify([clips, [...this.pictures.keys()].sort()]);
    if (key === this.laid) return;
    this.laid = key;
    const frames = [...this.pictures.keys()].sort((a, b) => a - b);
    const rows = clips.map((clip, rank) => {
      const start = Number(clip.start_frame_index);
      const own = frames.filter((frame) => frame >= start && frame < start + Number(clip.frame_count));
      if (!own.length) return null;
      const name = make("span", { className: "preview-rank" }, `rank ${rank}`);
      return make("div", { className: "preview-row" }, name, ...own.map((frame) => this.pictures.get(frame).figure));
    });
    this.element.replaceChildren(...rows.filter(Boolean));
  }
}
