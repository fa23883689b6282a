// The stream that says what has changed, opened again whenever it breaks.

import { ApiError, call, lines } from "./api.js";

const SILENT_MS = 5000; // the server says something once a second
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 4000;

/** Follows the server; `choose` says whose previews are wanted. */
export class Updates {
  /** @param onMessage called with every line. @param onConnection called with true and false as it comes and goes. */
  constructor({ onMessage, onConnection }) {
    this.onMessage = onMessage;
    this.onConnection = onConnection;
    this.chosen = "";
    this.abort = new AbortController();
    this.pause = FIRST_PAUSE_MS;
    // Hidden pages give this connection back: a browser opens six to one server.
    document.addEventListener("visibilitychange", () => this.restart());
    addEventListener("online", () => this.restart());
    this.run();
  }

  choose(id) {
    if (id === this.chosen) return;
    this.chosen = id;
    this.restart();
  }

  restart() {
    this.pause = FIRST_PAUSE_MS;
    this.abort.abort();
    this.wake?.();
  }

  async run() {
    for (;;) {
      if (document.hidden) {
        await this.sleep(2 ** 30);
        continue;
      }
      this.abort = new AbortController();
      const mine = this.abort;
      try {
        await this.follow(mine);
      } catch (error) {
        const isExpected = error instanceof ApiError || error instanceof TypeError || error.name === "AbortError";
        if (!isExpected) console.error(error);
      }
      if (mine.signal.aborted && !mine.isSilent) continue;
      this.onConnection(false);
      await this.sleep(this.pause);
      this.pause = Math.min(2 * this.pause, LONGEST_PAUSE_MS);
    }
  }

  async follow(abort) {
    let timer;
    const silence = () => {
      abort.isSilent = true;
      abort.abort();
    };
    const listen = () => {
      clearTimeout(timer);
      timer = setTimeout(silence, SILENT_MS);
    };
    try {
      // Not bounded: it may be waiting for somebody to type a token.
      const path = `/api/updates?generation=${encodeURIComponent(this.chosen)}`;
      const response = await call(path, { signal: abort.signal });
      listen();
      for await (const message of lines(response)) {
        listen();
        this.pause = FIRST_PAUSE_MS;
        this.onConnection(true);
        this.onMessage(message);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  sleep(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
