// @ts-check
/**
 * Server-sent events out of pieces of text (WHATWG, "Server-sent events"). The browser's own
 * EventSource can send no bearer token, so the page reads the stream itself.
 */

/** @typedef {{id: string, event: string, data: string}} ServerEvent */

export class EventReader {
  constructor() {
    this.rest = "";
    this.last = "";
  }

  /**
   * @param {string} text the next piece of the stream
   * @returns {ServerEvent[]} the events that it completes
   */
  read(text) {
    this.rest += text;
    const events = [];
    for (;;) {
      const end = /\r?\n\r?\n/.exec(this.rest);
      if (!end) return events;
      const block = this.rest.slice(0, end.index);
      this.rest = this.rest.slice(end.index + end[0].length);
      const event = this.#event(block);
      if (event) events.push(event);
    }
  }

  /** @param {string} block @returns {ServerEvent | null} */
  #event(block) {
    let event = "message";
    /** @type {string[]} */
    const data = [];
    for (const line of block.split(/\r?\n/)) {
      const colon = line.indexOf(":");
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (name === "id") this.last = value;
      else if (name === "event") event = value;
      else if (name === "data") data.push(value);
    }
    return data.length ? { id: this.last, event, data: data.join("\n") } : null;
  }
}
