// @ts-check
/** The result: its figures, its seeds, its settings; taking it along. */

import { canvasOf, download } from "../work/pictures.js";
import { candidatesOf, usedFor } from "./candidates.js";
import { byId, icon, make, newId, number, thumbnail } from "./dom.js";
import { words } from "./fields.js";
import { nameOf } from "./regions.js";

/** @typedef {import("../work/keep.js").Entry} Entry */

const FORMATS = ["png", "jpg", "webp", "tiff"];

export class Judge {
  /**
   * @param {import("../work/desk.js").Desk} desk
   * @param {import("../work/api.js").Api} api
   */
  constructor(desk, api) {
    this.desk = desk;
    this.api = api;
    this.box = byId("judge");
    /** Results that came together. @type {Entry[]} */
    this.batch = [];
    this.sorted = "";
    /** Everybody who was tried for them. @type {import("../types.js").Candidate[]} */
    this.candidates = [];
    this.onagain = (/** @type {import("../types.js").Candidate} */ _candidate) => {};
    this.onnext = () => {};
    this.onpick = (/** @type {Entry} */ _entry) => {};
    this.onerror = (/** @type {string} */ _message) => {};
    desk.addEventListener("shown", () => this.fill());
  }

  fill() {
    const entry = this.desk.shown;
    this.box.hidden = !entry;
    if (!entry) return;
    this.box.replaceChildren(
      make("header", {},
        make("h2", {}, entry.label || "Result"),
        make("button", { type: "button", className: "plain", title: "Go on from this result (N)", onclick: () => this.onnext() },
          icon("next"), "Use as start")),
      ...(entry.warnings ?? []).map((text) => make("p", { className: "told" }, capital(text))),
      ...this.#seeds(entry),
      figures(entry.figures, entry.seconds),
      make("div", { className: "downloads", role: "group", ariaLabel: "Download" },
        ...FORMATS.map((format) => make("button", {
          type: "button", className: "plain", ariaLabel: `Download ${format.toUpperCase()}`,
          title: format === "png" ? "With the recipe of the edit in it" : "",
          onclick: () => void this.#download(entry, format),
        }, format === "png" ? icon("download") : null, format === "jpg" ? "JPEG" : format === "webp" ? "WebP" : format.toUpperCase()))),
      this.#used(entry),
    );
  }

  /** @param {Entry} entry @returns {HTMLElement[]} */
  #seeds(entry) {
    if (!this.batch.some(({ id }) => id === entry.id)) return [];
    if (this.candidates.length) {
      const { candidates, api, desk } = this;
      const named = (/** @type {number} */ region) => nameOf(region ? desk.numbered[region - 1] : desk.layers[0]);
      return candidatesOf({ candidates, api, named, shown: (one) => has(entry, one), pick: (one) => this.#pick(one) });
    }
    if (this.batch.length < 2) return [];
    const names = [...new Set(this.batch.flatMap(({ figures }) => Object.keys(figures)))];
    const id = newId();
    const select = make("select", {
      id, onchange: () => { this.sorted = select.value; this.fill(); },
    }, make("option", { value: "" }, "in their order"),
    ...names.map((name) => make("option", { value: name, selected: name === this.sorted }, `by ${words(name).toLowerCase()}`)));
    const sorted = [...this.batch];
    if (this.sorted) {
      const rank = (/** @type {Entry} */ one) => one.figures[this.sorted] ?? Infinity;
      sorted.sort((one, two) => rank(one) - rank(two));
    }
    return [
      make("div", { className: "pick" }, make("label", { htmlFor: id }, "Seeds"), select),
      make("div", { className: "thumbs" }, ...sorted.map((one) => {
        const button = make("button", {
          type: "button", "aria-pressed": String(one.id === entry.id), onclick: () => this.onpick(one),
        });
        void canvasOf(one.result).then((canvas) => button.prepend(thumbnail(canvas)));
        const told = this.sorted ? ` · ${number(one.figures[this.sorted])}` : "";
        button.append(`${one.seed ?? ""}${told}`);
        return button;
      })),
    ];
  }

  /** Look at a candidate that was kept, or finish one that was not. @param {import("../types.js").Candidate} one */
  #pick(one) {
    const made = this.batch.find((entry) => has(entry, one));
    if (made) this.onpick(made);
    else this.onagain(one);
  }

  /** @param {Entry} entry */
  #used(entry) {
    const told = Object.entries(entry.used).filter(([, value]) => value !== null && value !== "");
    return make("details", {}, make("summary", {}, "Settings used"),
      make("dl", { className: "figures" }, ...told.flatMap(([name, value]) => [
        make("dt", {}, words(name)),
        make("dd", {}, typeof value === "object" ? JSON.stringify(value) : String(value)),
      ])));
  }

  /** @param {Entry} entry @param {string} format */
  async #download(entry, format) {
    const name = `${entry.name.replace(/\.\w+$/, "") || "softpaint"}-${entry.seed ?? entry.id}.${format}`;
    if (format === "png") {
      download(entry.result, name);
      return;
    }
    try {
      download(await this.api.blob(entry.url.replace(/\.png$/, `.${format}`)), name);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.onerror(`${format.toUpperCase()} is made by the server. ${why} The PNG is kept here.`);
    }
  }
}

/**
 * @param {Record<string, number>} told
 * @param {number} [seconds]
 * @returns {HTMLElement}
 */
export function figures(told, seconds) {
  const all = Object.entries(told).filter(([, value]) => typeof value === "number");
  return make("dl", { className: "figures" },
    ...all.flatMap(([name, value]) => [make("dt", {}, words(name)), make("dd", {}, number(value))]),
    ...(seconds ? [make("dt", {}, "Time"), make("dd", {}, `${seconds.toFixed(2)} s`)] : []));
}

/** @param {string} text */
function capital(text) {
  return text && text[0].toUpperCase() + text.slice(1);
}

/** Whether a result was made of a candidate. @param {Entry} entry @param {import("../types.js").Candidate} one */
function has(entry, one) {
  const { seed, strategy } = usedFor(entry, one);
  return one.left_at === null && seed === one.seed && strategy === one.strategy;
}
