// Elements, made and changed without a word of HTML in strings.

/** The element with an id. */
export const byId = (id) => document.getElementById(id);

/** Make an element: attributes and properties by name, `on…` as listeners, then its children. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && !key.startsWith("aria")) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set text only where it differs, so that nothing is announced or drawn twice. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set or remove an attribute, only where it differs. */
export function setAttribute(element, name, value) {
  if (value === null || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) {
    element.setAttribute(name, String(value));
  }
}

/** Show a list of [term, value] pairs; a value may be an element, or null to leave the pair out. */
export function showFacts(list, pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== "");
  const key = JSON.stringify(shown.map(([term, value]) => [term, value.outerHTML ?? value]));
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...shown.map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value))));
}

const ICONS = {
  play: "M5 3.5v9l8-4.5z",
  pause: "M4 3h3v10H4zM9 3h3v10H9z",
  full: "M3 6V3h3M10 3h3v3M13 10v3h-3M6 13H3v-3",
  back: "M13 3.5v9L6 8zM3.5 3.5v9",
  next: "M3 3.5v9L10 8zM12.5 3.5v9",
};

/** A small picture for a button that has a name of its own. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const size = { viewBox: "0 0 16 16", width: 16, height: 16 };
  for (const [key, value] of Object.entries({ ...size, class: `icon icon-${name}`, "aria-hidden": "true" })) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}
