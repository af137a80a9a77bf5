// @ts-check
/** Pictures come in: a file, a drop, the clipboard, a sample. */

import { canvasOf, holeOf, mapOf } from "../work/pictures.js";
import { byId, icon, make, thumbnail } from "./dom.js";

/** @typedef {import("../types.js").Sample} Sample */

export class Opening {
  /**
   * @param {object} given
   * @param {import("../work/api.js").Api} given.api
   * @param {import("../work/desk.js").Desk} given.desk
   * @param {import("../work/keep.js").Keep} given.keep
   * @param {(text: string) => void} given.notice
   */
  constructor({ api, desk, keep, notice }) {
    this.api = api;
    this.desk = desk;
    this.keep = keep;
    this.notice = notice;
    this.onopened = (/** @type {boolean} */ _render) => {};
    this.input = /** @type {HTMLInputElement} */ (byId("file"));
    this.input.addEventListener("change", () => {
      const [file] = this.input.files ?? [];
      this.input.value = "";
      if (file) void this.open(file, file.name);
    });
    document.addEventListener("paste", (event) => this.#take(event.clipboardData, event));
    this.#drops();
  }

  ask() {
    this.input.click();
  }

  #drops() {
    const sign = byId("drop");
    let depth = 0;
    const files = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files") ?? false;
    document.addEventListener("dragenter", (event) => {
      if (files(event)) sign.hidden = ++depth < 1;
    });
    document.addEventListener("dragleave", (event) => {
      if (files(event)) sign.hidden = --depth < 1;
    });
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      depth = 0;
      sign.hidden = true;
      this.#take(event.dataTransfer, event);
    });
  }

  /** @param {DataTransfer | null} data @param {Event} event */
  #take(data, event) {
    const file = [...(data?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (file) {
      event.preventDefault();
      void this.open(file, file.name);
    } else if (data?.files.length) {
      this.notice("That file is no picture.");
    }
  }

  /** @param {Blob} blob @param {string} name */
  async open(blob, name) {
    try {
      delete this.desk.settings.expand;
      await this.show(blob, name);
      const hole = this.desk.picture && holeOf(this.desk.picture.canvas);
      if (hole) this.desk.changeAll(hole); // what is transparent is repainted
      this.onopened(Boolean(hole));
    } catch (error) {
      this.notice(error instanceof Error ? error.message : String(error));
    }
  }

  /** @param {Sample} sample */
  async openSample(sample) {
    try {
      const blob = await this.api.blob(sample.url);
      const map = sample.map ? await this.api.blob(sample.map) : undefined;
      this.desk.settings = { ...(sample.settings ?? {}), prompt: sample.prompt };
      await this.show(blob, `${sample.name}.png`, { map });
      this.onopened(Boolean(map));
    } catch (error) {
      this.notice(error instanceof Error ? error.message : String(error));
    }
  }

  /**
   * Put a picture on the desk.
   * @param {Blob} blob
   * @param {string} name
   * @param {{key?: string, map?: Blob, kept?: boolean}} [how]
   */
  async show(blob, name, { key = newKey(), map, kept = false } = {}) {
    const canvas = await canvasOf(blob);
    const levels = map && (await mapOf(map, canvas));
    if (!kept) await this.keep.keepPicture(key, blob);
    this.desk.open({ key, name, blob, canvas, width: canvas.width, height: canvas.height }, levels);
  }

  // --- the empty page --------------------------------------------------------------------------

  /** @param {Sample[]} samples */
  welcome(samples) {
    const cards = samples.map((sample) => {
      const button = make("button", { type: "button", onclick: () => void this.openSample(sample) }, sample.name);
      void this.api.blob(sample.url).then(canvasOf).then((canvas) => button.prepend(thumbnail(canvas, 260)));
      return button;
    });
    byId("welcome").replaceChildren(
      make("h2", {}, "Paint what may change"),
      make("p", {}, "Open a picture, brush over it as strongly as it may change, and the edit follows your hand."),
      make("button", { type: "button", className: "primary", onclick: () => this.ask() }, icon("open"), "Open a picture"),
      make("p", { className: "hint" }, "or drop one here, paste one, or begin with a sample"),
      make("div", { className: "samples" }, ...cards),
    );
  }
}

/** @returns {string} a key that no other picture has */
function newKey() {
  // crypto.randomUUID is missing on plain http addresses off the loopback.
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
