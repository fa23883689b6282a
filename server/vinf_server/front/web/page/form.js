// The form for a new video. What is typed goes to the server as it is: the server says what is wrong, and with what.

import { ApiError, call } from "./api.js";
import { make, setText } from "./dom.js";

const NO_ANSWER = "The server's answer did not come. Trying again without changes does not make a second video.";

let fieldCount = 0;

const numberInput = () => make("input", { type: "text", inputMode: "numeric", autocomplete: "off" });
const textInput = () => make("input", { type: "text", autocomplete: "off" });
const option = (name) => make("option", { value: name }, name);

/** A labelled input with a hint and room for what is wrong with it. */
function field(label, path, { hint = "", input = numberInput() } = {}) {
  const id = `field-${(fieldCount += 1)}`;
  Object.assign(input, { id });
  input.dataset.field = path;
  input.setAttribute("aria-describedby", `${id}-hint ${id}-error`);
  return make(
    "div",
    { className: "field" },
    make("label", { htmlFor: id }, label),
    input,
    make("span", { id: `${id}-hint`, className: "hint" }, hint),
    make("span", { id: `${id}-error`, className: "error" }),
  );
}

/** A random UUID of version 4; `crypto.randomUUID` is missing where a page came over plain HTTP. */
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

const setHint = (box, text, placeholder = "") => {
  setText(box.querySelector(".hint"), text);
  box.querySelector("input, textarea").placeholder = placeholder;
};

export class NewVideo {
  /** @param form the empty form. @param onCreated called with the generation that the server has taken. */
  constructor(form, onCreated) {
    this.form = form;
    this.onCreated = onCreated;
    this.unanswered = null;
    this.rate = 24;
    const area = () => make("textarea", { rows: 2, autocomplete: "off", spellcheck: false });
    this.prompt = field("Prompt", "spec.prompt", { input: area() });
    this.negative = field("Not to be seen", "spec.negative_prompt", { input: textInput() });
    this.words = make("details", { className: "words", hidden: true });
    this.length = field("Length", "spec.frame_count");
    this.unit = make("select", { onchange: () => this.hintLength() }, option("frames"), option("seconds"));
    this.unit.setAttribute("aria-label", "Unit of the length");
    const joined = make("span", { className: "joined" });
    const length = this.length.querySelector("input");
    length.replaceWith(joined);
    joined.append(length, this.unit);
    this.steps = field("Steps", "spec.inference_step_count");
    this.width = field("Width", "spec.width");
    this.height = field("Height", "spec.height");
    this.guidance = field("Guidance", "spec.guidance_scale");
    this.seed = field("Seed", "spec.seed", { hint: "empty: any" });
    this.interval = field("Preview every", "preview_interval_steps", { hint: "steps; 0: never" });
    this.interval.querySelector("input").value = "2";
    this.priority = field("Priority", "priority", { hint: "0 to 9, 5 if empty" });
    this.segments = make("div", { className: "segments" });
    this.problem = make("p", { className: "problem", role: "alert", hidden: true });
    this.send = make("button", { type: "submit", className: "main" }, "Make it");
    this.later = make("button", { type: "button", className: "quiet", onclick: () => this.addSegment() });
    this.later.textContent = "Add a later prompt";
    form.append(
      this.prompt,
      this.words,
      make("div", { className: "row" }, this.length, this.steps),
      make(
        "details",
        { className: "more" },
        make("summary", {}, "More settings"),
        this.negative,
        make("div", { className: "row" }, this.width, this.height),
        make("div", { className: "row" }, this.guidance, this.seed),
        make("div", { className: "row" }, this.interval, this.priority),
      ),
      this.segments,
      make("div", { className: "actions" }, this.later, this.send),
      this.problem,
    );
    this.more = form.querySelector(".more");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    form.addEventListener("input", (event) => this.complain(event.target, ""));
    this.prompt.querySelector("textarea").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.submit();
    });
  }

  /** Show a model's limits and defaults. */
  describe(model, limits) {
    const key = JSON.stringify([model, limits]);
    if (key === this.known) return;
    this.known = key;
    this.model = model;
    this.rate = model.default_frame_rate.num / model.default_frame_rate.den;
    const { max_prompt_words: words, max_prompt_chars: characters } = model;
    setHint(this.prompt, words ? `up to ${words} words` : `up to ${characters} characters`);
    this.showWords(model.vocabulary);
    setHint(this.steps, `1 to ${limits.max_step_count}`, String(model.default_step_count));
    const size = (low, high) => `${low} to ${high}, a multiple of ${model.size_multiple}`;
    setHint(this.width, size(model.min_width, model.max_width), String(model.default_width));
    setHint(this.height, size(model.min_height, model.max_height), String(model.default_height));
    this.later.hidden = this.segments.hidden = Boolean(model.single_prompt);
    setHint(this.guidance, `1 to ${limits.max_guidance_scale}`, String(model.default_guidance_scale));
    this.hintLength();
  }

  hintLength() {
    if (!this.model) return;
    const scale = this.unit.value === "seconds" ? this.rate : 1;
    const most = Number(this.model.max_frame_count_at_default_size) || Number(this.model.max_frame_count);
    const shown = (frames) => String(Number((frames / scale).toFixed(2)));
    const limit = Number(shown(most)).toLocaleString("en");
    const step = Number(this.model.frame_count_step ?? 1);
    const form = step > 1 && scale === 1 ? `, a multiple of ${step} plus 1` : "";
    setText(this.length.querySelector(".hint"), `up to ${limit}${form} (${this.rate} frames/s)`);
    this.length.querySelector("input").placeholder = shown(Number(this.model.default_frame_count));
  }

  showWords(words) {
    this.words.hidden = !words.length;
    const add = (word) => {
      const area = this.prompt.querySelector("textarea");
      area.value = `${area.value.trimEnd()} ${word}`.trimStart();
      this.complain(area, "");
    };
    const buttons = words.map((word) => make("button", { type: "button", onclick: () => add(word) }, word));
    this.words.replaceChildren(
      make("summary", {}, `The ${words.length} words it knows`),
      make("p", { className: "word-list" }, ...buttons),
    );
  }

  addSegment() {
    const index = this.segments.children.length;
    const path = `spec.prompt_segments[${index}]`;
    const cut = make("input", { type: "checkbox", id: `cut-${(fieldCount += 1)}` });
    const box = make(
      "fieldset",
      {},
      make("legend", {}, `Prompt ${index + 2}`),
      field("Prompt", `${path}.prompt`, { input: textInput() }),
      make(
        "div",
        { className: "row" },
        field("From frame", `${path}.start_frame_index`),
        field("Transition", `${path}.transition_frame_count`, { hint: "frames" }),
      ),
      make("p", { className: "check" }, cut, make("label", { htmlFor: cut.id }, "Cut: a new scene starts")),
    );
    box.append(make("button", { type: "button", className: "quiet", onclick: () => this.dropLast() }, "Remove"));
    this.segments.append(box);
    this.showRemove();
    box.querySelector("input").focus();
  }

  dropLast() {
    this.segments.lastElementChild.remove();
    this.showRemove();
    (this.segments.lastElementChild?.querySelector("input") ?? this.prompt.querySelector("textarea")).focus();
  }

  /** Only the last one can be removed: the others keep their numbers. */
  showRemove() {
    const boxes = [...this.segments.children];
    boxes.forEach((box, index) => (box.querySelector("button").hidden = index < boxes.length - 1));
  }

  request() {
    const spec = {};
    const put = (target, name, box) => {
      const text = box.querySelector("input, textarea").value.trim();
      if (text) target[name] = text;
    };
    put(spec, "prompt", this.prompt);
    put(spec, "negative_prompt", this.negative);
    put(spec, "inference_step_count", this.steps);
    put(spec, "width", this.width);
    put(spec, "height", this.height);
    put(spec, "guidance_scale", this.guidance);
    put(spec, "seed", this.seed);
    put(spec, "frame_count", this.length);
    if (spec.frame_count && this.unit.value === "seconds" && Number.isFinite(Number(spec.frame_count))) {
      // The nearest length that the model can make.
      const step = Number(this.model?.frame_count_step ?? 1);
      const steps = Math.round((Number(spec.frame_count) * this.rate - 1) / step);
      spec.frame_count = String(step * Math.max(0, steps) + 1);
    }
    const segments = this.model?.single_prompt ? [] : [...this.segments.children];
    spec.prompt_segments = segments.map((box) => {
      const segment = { cut: box.querySelector("input[type=checkbox]").checked };
      for (const input of box.querySelectorAll("[data-field]")) {
        if (input.value.trim()) segment[input.dataset.field.split(".").at(-1)] = input.value.trim();
      }
      return segment;
    });
    const request = { spec, detached: true };
    put(request, "preview_interval_steps", this.interval);
    put(request, "priority", this.priority);
    return this.named(request);
  }

  /** A request keeps its id until the server has answered: it may have arrived, and is to make one video only. */
  named(request) {
    const key = JSON.stringify(request);
    if (this.unanswered?.key !== key) this.unanswered = { key, id: randomId() };
    return { ...request, request_id: this.unanswered.id };
  }

  async submit() {
    if (this.send.disabled) return;
    this.clear();
    if (this.hasZeros()) return;
    this.send.disabled = true;
    try {
      const reply = await (await call("/api/generations", { method: "POST", body: this.request() })).json();
      this.unanswered = null;
      this.onCreated(reply.generation);
    } catch (error) {
      if (error.reason) this.unanswered = null; // without one it is a proxy that answered
      this.explain(error);
    } finally {
      this.send.disabled = false;
    }
  }

  /** For the server 0 is the default, which is not what somebody means who types it. */
  hasZeros() {
    const zeros = [this.length, this.steps, this.width, this.height]
      .map((box) => box.querySelector("input"))
      .filter((input) => /^[+-]?0+(\.0*)?$/.test(input.value.trim()));
    for (const input of zeros) this.complain(input, "must be more than 0; empty means the default");
    zeros[0]?.focus();
    return zeros.length > 0;
  }

  clear() {
    this.problem.hidden = true;
    for (const input of this.form.querySelectorAll("[aria-invalid=true]")) this.complain(input, "");
  }

  /** Show what the server says, each violation beside its field. */
  explain(error) {
    const told = new Map((error.violations ?? []).map(({ field: path, description }) => [path, description]));
    let first = null;
    for (const input of this.form.querySelectorAll("[data-field]")) {
      if (!told.has(input.dataset.field)) continue;
      this.complain(input, told.get(input.dataset.field));
      told.delete(input.dataset.field);
      if (this.more.contains(input)) this.more.open = true;
      first ??= input;
    }
    const left = [...told].map(([path, description]) => `${path}: ${description}`);
    if (!(error instanceof ApiError)) left.push(NO_ANSWER);
    else if (!error.violations.length) left.push(error.message);
    setText(this.problem, left.join("; "));
    this.problem.hidden = !left.length;
    (first ?? this.send).focus();
  }

  complain(input, text) {
    const room = input.dataset.field && document.getElementById(`${input.id}-error`);
    if (!room) return;
    setText(room, text);
    if (text) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  }
}
