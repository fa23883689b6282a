// The queue and everything that was made: one entry a generation, newest first.

import { make, setAttribute, setText } from "./dom.js";
import { ago, isOver, duration, plural, rateOf, shareDone, shortWords, stateOf, stateWords } from "./words.js";

/** Those at work first, then those that wait by their place, then the others, newest first. */
function order(a, b) {
  const rank = (each) => (isOver(each) ? 2 : stateOf(each) === "PENDING" || stateOf(each) === "SUSPENDED" ? 1 : 0);
  if (rank(a) !== rank(b)) return rank(a) - rank(b);
  if (rank(a) === 1) return a.progress.queue_position - b.progress.queue_position;
  return a.generation_id < b.generation_id ? 1 : -1;
}

export class List {
  /** @param onChoose called with an id. @param onCancel and @param onDelete with a generation. */
  constructor(element, { onChoose, onCancel, onDelete }) {
    this.element = element;
    this.handlers = { onChoose, onCancel, onDelete };
    this.entries = new Map();
  }

  show(generations, chosen, now) {
    const focused = document.activeElement;
    const [focusedId] = [...this.entries].find(([, { item }]) => item.contains(focused)) ?? [];
    const sorted = [...generations].sort(order);
    for (const [id, entry] of this.entries) {
      if (!sorted.some((each) => each.generation_id === id)) {
        entry.item.remove();
        this.entries.delete(id);
      }
    }
    sorted.forEach((generation, index) => {
      const entry = this.entries.get(generation.generation_id) ?? this.add(generation.generation_id);
      const there = this.element.children[index] ?? null;
      if (there !== entry.item) this.element.insertBefore(entry.item, there);
      this.fill(entry, generation, chosen === generation.generation_id, now);
    });
    if (focusedId) this.keepFocus(focused, focusedId);
  }

  /** What is moved, hidden or disabled loses the focus, and the keyboard would start again at the top of the page. */
  keepFocus(focused, id) {
    const isLost = !focused.isConnected || focused.hidden || focused.disabled;
    const target = isLost ? this.entryNear(id)?.open : focused;
    if (target !== document.activeElement) target?.focus({ preventScroll: true });
  }

  /** Put the focus on an entry, or on the first one. */
  focus(id) {
    this.entryNear(id)?.open.focus();
  }

  entryNear(id) {
    return this.entries.get(id) ?? this.entries.values().next().value;
  }

  add(id) {
    const button = (text, onclick) => make("button", { type: "button", className: "quiet small", onclick }, text);
    const entry = {
      title: make("span", { className: "title" }),
      chip: make("span", { className: "chip" }),
      words: make("span", { className: "muted" }),
      facts: make("span", { className: "muted facts-line" }),
      bar: make("progress", { max: 1 }),
      cancel: button("Cancel", () => this.handlers.onCancel(entry.generation)),
      remove: button("Delete", () => this.handlers.onDelete(entry.generation)),
    };
    entry.open = make(
      "button",
      { type: "button", className: "open", onclick: () => this.handlers.onChoose(id) },
      entry.title,
      make("span", { className: "line" }, entry.chip, entry.words),
      entry.facts,
    );
    entry.item = make("li", {}, entry.open, make("div", { className: "aside" }, entry.bar, entry.cancel, entry.remove));
    this.entries.set(id, entry);
    return entry;
  }

  fill(entry, generation, isChosen, now) {
    const spec = generation.resolved_spec;
    const [word, tone] = stateWords(generation);
    const over = isOver(generation);
    entry.generation = generation;
    setText(entry.title, spec.prompt);
    setText(entry.chip, word);
    setAttribute(entry.chip, "data-tone", tone);
    setText(entry.words, shortWords(generation));
    const frames = Number(spec.frame_count);
    const length = [plural(frames, "frame"), duration(frames / rateOf(generation))];
    setText(entry.facts, [...length, `${spec.width}×${spec.height}`, ago(generation.create_time, now)].join(" · "));
    setAttribute(entry.open, "aria-current", isChosen ? "true" : null);
    setAttribute(entry.bar, "aria-label", `Progress of ${spec.prompt}`);
    entry.bar.hidden = over;
    entry.bar.value = shareDone(generation);
    entry.cancel.hidden = over;
    entry.cancel.disabled = stateOf(generation) === "CANCELLING";
    entry.remove.hidden = !over;
    setAttribute(entry.cancel, "aria-label", `Cancel ${spec.prompt}`);
    setAttribute(entry.remove, "aria-label", `Delete ${spec.prompt}`);
  }
}
