// The two questions that the page asks.

import { byId, setText } from "./dom.js";

/** Ask before something is lost; true when it may be. */
export function confirmed({ title, text, yes }) {
  const dialog = byId("ask");
  setText(byId("ask-title"), title);
  setText(byId("ask-text"), text);
  setText(byId("ask-yes"), yes);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Ask for a token until there is one. */
export function askForToken(problem) {
  const dialog = byId("token");
  const input = byId("token-value");
  const error = byId("token-error");
  input.value = "";
  const complain = (text) => {
    setText(error, text);
    input.setAttribute("aria-invalid", String(Boolean(text)));
  };
  complain(problem);
  dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    const stay = (event) => event.preventDefault();
    dialog.addEventListener("cancel", stay);
    byId("token-form").onsubmit = (event) => {
      event.preventDefault();
      const token = input.value.trim();
      if (!token) {
        complain("Without a token the server shows nothing.");
        return;
      }
      dialog.removeEventListener("cancel", stay);
      dialog.close();
      resolve(token);
    };
  });
}
