// Requests to the server, with the token where one is needed, and the server's own words when one is refused.

import { askForToken } from "./dialogs.js";

const STORED = "vinf-token";

/** What the server answers to a request that it does not take. */
export class ApiError extends Error {
  constructor(body) {
    super(body.message);
    this.reason = body.reason;
    this.violations = body.violations ?? [];
  }
}

/** What to say of a request that failed. */
export const wordsOf = (error) => (error instanceof ApiError ? error.message : "The server cannot be reached.");

let asking = null;

async function newToken(problem) {
  asking ??= askForToken(problem).then((token) => {
    sessionStorage.setItem(STORED, token);
    asking = null;
  });
  await asking;
}

/** Send a request; waits for a token when the server wants one. Throws ApiError, or TypeError without a connection. */
export async function call(path, { method = "GET", body = undefined, signal = undefined } = {}) {
  for (;;) {
    const token = sessionStorage.getItem(STORED);
    const headers = {};
    if (method !== "GET") headers["Content-Type"] = "application/json";
    if (token) headers.Authorization = `Bearer ${token}`;
    const text = body === undefined ? undefined : JSON.stringify(body);
    const response = await fetch(path, { method, headers, body: text, signal, cache: "no-store" });
    if (response.ok) return response;
    const told = await response.json().catch(() => ({ message: `The server answered ${response.status}.` }));
    if (response.status !== 401) throw new ApiError(told);
    if (token === sessionStorage.getItem(STORED)) await newToken(told.reason === "TOKEN_MISSING" ? "" : told.message);
  }
}

/** Whether requests carry a token: then a plain link cannot fetch a file. */
export const hasToken = () => Boolean(sessionStorage.getItem(STORED));

/** The address of one generation. */
export const pathOf = (id) => `/api/generations/${encodeURIComponent(id)}`;

/** The lines of a stream, read as JSON. */
export async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}
