// @ts-check
/** The service, as the page speaks to it. */

import { EventReader } from "../arithmetic/events.js";

/** @typedef {import("../types.js").About} About */
/** @typedef {import("../types.js").Registry} Registry */
/** @typedef {import("../types.js").JobTold} JobTold */

/** What the service answered in place of what was asked for. */
export class Refused extends Error {
  /** @param {string} message @param {number} status @param {string} code @param {number} [retry] */
  constructor(message, status, code, retry) {
    super(message);
    this.status = status;
    this.code = code;
    /** Seconds after which it may be asked again, where the server is only busy. */
    this.retry = retry;
  }
}

/** The service did not answer at all. */
export class Lost extends Error {
  constructor() {
    super("The server does not answer.");
  }
}

/** The job was cancelled. */
export class Cancelled extends Error {
  constructor() {
    super("Cancelled.");
  }
}

/** @typedef {{event: string, data: any}} JobEvent */

export class Api extends EventTarget {
  constructor() {
    super();
    /** A bearer token, kept as long as the tab is. */
    this.token = sessionStorage.getItem("softpaint-token") ?? "";
    this.lost = false;
  }

  /** @param {string} token */
  useToken(token) {
    this.token = token;
    sessionStorage.setItem("softpaint-token", token);
  }

  /**
   * @param {string} url
   * @param {RequestInit} [init]
   * @returns {Promise<Response>}
   * @throws {Lost | Refused}
   */
  async fetch(url, init = {}) {
    const headers = new Headers(init.headers);
    if (this.token) headers.set("Authorization", `Bearer ${this.token}`);
    let response;
    try {
      response = await fetch(url, { ...init, headers });
    } catch (error) {
      if (init.signal?.aborted) throw new Cancelled();
      this.#mark(true);
      throw error instanceof TypeError ? new Lost() : error;
    }
    this.#mark(false);
    if (response.ok) return response;
    throw await refusal(response);
  }

  /** @param {boolean} lost */
  #mark(lost) {
    if (lost === this.lost) return;
    this.lost = lost;
    this.dispatchEvent(new Event(lost ? "lost" : "found"));
    if (lost) void this.#wait();
  }

  /** Ask until the service is there again. */
  async #wait() {
    for (let pause = 500; this.lost; pause = Math.min(5000, pause * 1.5)) {
      await new Promise((resolve) => setTimeout(resolve, pause));
      try {
        await this.fetch("/api/about");
      } catch {
        // Still gone, or asking for a token: `fetch` has marked which.
      }
    }
  }

  /** @returns {Promise<About>} */
  async about() {
    return (await this.fetch("/api/about")).json();
  }

  /** @returns {Promise<Registry>} */
  async settings() {
    return (await this.fetch("/api/settings")).json();
  }

  /** @param {string} url @returns {Promise<Blob>} */
  async blob(url) {
    return (await this.fetch(url)).blob();
  }

  /**
   * @param {string} url
   * @param {Record<string, any>} parts blobs go as files; what is no string is sent as JSON
   * @returns {Promise<any>}
   */
  async post(url, parts) {
    const body = new FormData();
    for (const [name, value] of Object.entries(parts)) {
      if (value === undefined || value === null) continue;
      if (value instanceof Blob) body.append(name, value, name);
      else body.append(name, typeof value === "string" ? value : JSON.stringify(value));
    }
    return (await this.fetch(url, { method: "POST", body })).json();
  }

  /** @param {string} url */
  async remove(url) {
    await this.fetch(url, { method: "DELETE" });
  }

  /**
   * The events of a job to its end. A connection that breaks is taken up where it was.
   * @param {string} url
   * @param {AbortSignal} [signal]
   * @returns {AsyncGenerator<JobEvent>}
   * @throws {Lost | Refused}
   */
  async *events(url, signal) {
    const reader = new EventReader();
    for (let tries = 0; tries < 3; tries++) {
      /** @type {Record<string, string>} */
      const headers = reader.last ? { "Last-Event-ID": reader.last } : {};
      const response = await this.fetch(url, { headers, signal });
      const body = response.body?.pipeThrough(new TextDecoderStream()).getReader();
      if (!body) break;
      try {
        for (let piece = await body.read(); !piece.done; piece = await body.read()) {
          for (const { event, data } of reader.read(piece.value)) {
            tries = 0;
            yield { event, data: JSON.parse(data) };
            if (["finished", "failed", "cancelled"].includes(event)) return;
          }
        }
      } catch (error) {
        if (signal?.aborted) throw new Cancelled();
        if (!(error instanceof TypeError)) throw error;
      } finally {
        body.cancel().catch(() => {});
      }
      reader.rest = "";
    }
    this.#mark(true);
    throw new Lost();
  }

  /**
   * Follow a job to its end.
   * @param {{id: string, events?: string}} job
   * @param {{signal?: AbortSignal, on?: (event: JobEvent) => void}} [how]
   * @returns {Promise<JobTold>}
   * @throws {Lost | Refused | Cancelled}
   */
  async follow(job, { signal, on } = {}) {
    const url = `/api/jobs/${job.id}`;
    const cancel = () => void this.remove(url).catch(() => {});
    signal?.addEventListener("abort", cancel, { once: true });
    if (signal?.aborted) cancel();
    try {
      for await (const { event, data } of this.events(job.events ?? `${url}/events`, signal)) {
        on?.({ event, data });
        if (event === "failed") {
          throw new Refused(data.message ?? "The edit failed.", data.status ?? 500, data.code ?? "");
        }
        if (event === "cancelled") throw new Cancelled();
        if (event === "finished") return data.results ? data : await this.job(job.id);
      }
    } finally {
      signal?.removeEventListener("abort", cancel);
    }
    throw new Lost();
  }

  /** @param {string} id @returns {Promise<JobTold>} */
  async job(id) {
    return (await this.fetch(`/api/jobs/${id}`)).json();
  }
}

/** @param {Response} response @returns {Promise<Refused>} */
async function refusal(response) {
  let [message, code] = [`The server answered ${response.status}.`, ""];
  try {
    const told = await response.json();
    const error = told.error ?? told;
    message = error.message ?? (typeof error.detail === "string" ? error.detail : message);
    code = error.code ?? "";
  } catch {
    // No JSON: the status has to do.
  }
  const retry = response.status === 429 ? Number(response.headers.get("Retry-After")) || 1 : undefined;
  return new Refused(message, response.status, code, retry);
}
