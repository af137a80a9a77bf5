// @ts-check
/** The strip of results: every one can be gone back to, with its picture, map and settings. */

import { canvasOf } from "../work/pictures.js";
import { byId, icon, make, thumbnail } from "./dom.js";

/** @typedef {import("../work/keep.js").Entry} Entry */

export class History {
  /**
   * @param {import("../work/desk.js").Desk} desk
   * @param {import("../work/keep.js").Keep} keep
   */
  constructor(desk, keep) {
    this.desk = desk;
    this.keep = keep;
    this.strip = byId("strip");
    this.ongo = (/** @type {Entry} */ _entry) => {};
    desk.addEventListener("shown", () => this.mark());
  }

  async load() {
    const entries = await this.keep.entries();
    this.strip.replaceChildren(...entries.map((entry) => this.#item(entry)));
    this.mark();
  }

  /** @param {Entry} entry @returns {Promise<void>} when it is kept */
  async add(entry) {
    entry.id = await this.keep.add(entry);
    const item = this.#item(entry);
    this.strip.append(item);
    item.scrollIntoView({ block: "nearest", inline: "end" });
  }

  /** @param {Entry} entry */
  #item(entry) {
    const when = new Date(entry.when).toLocaleTimeString();
    const what = entry.settings.prompt || entry.name;
    const shot = make("button", {
      type: "button", className: "shot", value: String(entry.id), title: `${what} (${when})`,
      ariaLabel: `${what}, ${when}`,
      onclick: () => this.ongo(entry),
      onkeydown: (/** @type {KeyboardEvent} */ event) => event.key === "Delete" && this.#drop(entry, item),
    });
    const item = make("li", {}, shot, make("button", {
      type: "button", className: "drop-one", ariaLabel: `Remove ${what}, ${when}`, title: "Remove",
      onclick: () => this.#drop(entry, item),
    }, icon("close")));
    void canvasOf(entry.result).then((canvas) => shot.append(thumbnail(canvas, 128)));
    return item;
  }

  /** @param {Entry} entry @param {HTMLElement} item */
  async #drop(entry, item) {
    const next = /** @type {HTMLElement | null} */ (item.nextElementSibling ?? item.previousElementSibling);
    item.remove();
    /** @type {HTMLElement | null | undefined} */ (next?.querySelector(".shot"))?.focus();
    await this.keep.drop(Number(entry.id));
  }

  /** Show which of them is on the stage. */
  mark() {
    for (const shot of this.strip.querySelectorAll(".shot")) {
      const here = /** @type {HTMLButtonElement} */ (shot).value === String(this.desk.shown?.id);
      shot.setAttribute("aria-current", String(here));
    }
  }
}
