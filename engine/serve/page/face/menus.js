// @ts-check
/** The menus: what is done with the whole map, and what is shown. */

import { LevelMap } from "../arithmetic/levels.js";
import { download, holeOf, mapOf } from "../work/pictures.js";
import { byId, check, make, segments, slider } from "./dom.js";

/** @typedef {import("../work/desk.js").Desk} Desk */
/** @typedef {"grow" | "shrink" | "feather" | "falloff" | "invert"} Change */

/** @type {{name: Change, text: string, title: string}[]} */
const CHANGES = [
  { name: "grow", text: "Grow", title: "Spread every strength outward" },
  { name: "shrink", text: "Shrink", title: "Take off every edge" },
  { name: "feather", text: "Feather", title: "Soften the edges" },
  { name: "falloff", text: "Fall off", title: "All inside, fading from the edges outward" },
];

export class Menus {
  /**
   * @param {Desk} desk
   * @param {import("./stage.js").Stage} stage
   * @param {import("../work/helper.js").Helper} helper
   * @param {import("../work/live.js").Live} live
   */
  constructor(desk, stage, helper, live) {
    this.desk = desk;
    this.live = live;
    this.stage = stage;
    this.helper = helper;
    this.amount = 16;
    this.onstroke = () => {};
    this.onerror = (/** @type {string} */ _message) => {};
    this.file = /** @type {HTMLInputElement} */ (byId("map-file"));
    this.file.addEventListener("change", () => {
      const [file] = this.file.files ?? [];
      this.file.value = "";
      if (file) void this.import(file);
    });
    this.#map();
    this.#view();
    for (const name of ["map", "view"]) this.#place(byId(`${name}-menu`), byId(`${name}-panel`));
  }

  /** A menu opens under its button. @param {HTMLElement} button @param {HTMLElement} panel */
  #place(button, panel) {
    panel.addEventListener("beforetoggle", () => {
      panel.style.setProperty("--at", `${button.getBoundingClientRect().left}px`);
    });
  }

  #map() {
    const button = (/** @type {string} */ text, /** @type {() => void} */ act, title = "") =>
      make("button", { type: "button", className: "plain", title, onclick: act }, text);
    byId("map-panel").replaceChildren(
      make("h3", {}, "Edges"),
      slider({ label: "By", value: this.amount, low: 1, high: 256, unit: "px", curved: true, change: (px) => (this.amount = px) }),
      make("div", { className: "row" }, ...CHANGES.map(({ name, text, title }) => button(text, () => void this.change(name), title))),
      make("h3", {}, "All of it"),
      make("div", { className: "row" },
        button("Invert", () => void this.change("invert"), "I"),
        button("Clear", () => this.clear()),
        button("From transparency", () => this.fromHole(), "What is transparent in the picture is repainted")),
      make("h3", {}, "Files"),
      make("div", { className: "row" },
        button("Import…", () => this.file.click()),
        button("Export 8 bit", () => void this.export(8)),
        button("Export 16 bit", () => void this.export(16))),
    );
  }

  #view() {
    const levels = make("input", {
      type: "text", id: "levels", value: this.stage.levels.map((level) => 100 * level).join(", "), autocomplete: "off",
      onchange: () => {
        const read = levels.value.split(/[\s,;%]+/).map(Number).filter((level) => level > 0 && level <= 100);
        this.stage.setOverlay({ levels: read.map((level) => level / 100) });
      },
    });
    this.look = segments({
      label: "Way to look",
      choices: [
        { name: "result", text: "Result" },
        { name: "slider", text: "Slider", title: "Before and after (S)" },
        { name: "side", text: "Side", title: "Side by side (P)" },
        { name: "difference", text: "Diff.", title: "Difference, times four (D)" },
      ],
      value: "result",
      change: (name) => this.stage.setLook(/** @type {import("./stage.js").Look} */ (name)),
    });
    this.heat = segments({
      label: "Heat: how strongly",
      choices: [
        { name: "painting", text: "Painting", title: "Until the exact picture is there (H)" },
        { name: "always", text: "Always" },
        { name: "never", text: "Never" },
      ],
      value: "painting",
      change: (when) => this.stage.setOverlay({ heat: /** @type {"painting" | "always" | "never"} */ (when) }),
    });
    this.lines = check("Contours", true, (on) => this.stage.setOverlay({ contours: on }));
    byId("view-panel").replaceChildren(
      make("h3", {}, "Look at"), this.look,
      make("h3", {}, "Heat over the picture"), this.heat, this.lines,
      make("div", { className: "field" }, make("label", { htmlFor: "levels" }, "Contours at, in %"), levels),
      make("h3", {}, "While it renders"),
      check("Instant answer under the brush", this.live.instant, (on) => this.live.useInstant(on)),
    );
  }

  /** @param {import("./stage.js").Look} name */
  setLook(name) {
    const look = this.stage.look === name ? "result" : name;
    this.look?.show(look);
    this.stage.setLook(look);
  }

  /** Heat always, never, while painting, in turn. */
  nextHeat() {
    const when = /** @type {const} */ ({ painting: "always", always: "never", never: "painting" });
    const next = when[this.stage.heatWhen];
    this.heat?.show(next);
    this.stage.setOverlay({ heat: next });
  }

  toggleContours() {
    this.lines?.querySelector("input")?.click();
  }

  /** @param {Change} name */
  async change(name) {
    const { map } = this.desk;
    const levels = await this.helper.change(name, map, this.amount);
    if (this.desk.map !== map) return;
    this.desk.changeAll(new LevelMap(map.width, map.height, levels));
    this.onstroke();
  }

  clear() {
    this.desk.changeAll(new LevelMap(this.desk.map.width, this.desk.map.height));
    this.onstroke();
  }

  fromHole() {
    const hole = this.desk.picture && holeOf(this.desk.picture.canvas);
    if (!hole) {
      this.onerror("This picture has no transparency.");
      return;
    }
    this.desk.changeAll(hole);
    this.onstroke();
  }

  /** @param {Blob} file */
  async import(file) {
    try {
      this.desk.changeAll(await mapOf(file, this.desk.map));
      this.onstroke();
    } catch (error) {
      this.onerror(error instanceof Error ? error.message : String(error));
    }
  }

  /** @param {8 | 16} bits */
  async export(bits) {
    const name = (this.desk.picture?.name ?? "map").replace(/\.\w+$/, "");
    download(await this.helper.png(this.desk.map, bits), `${name}-map.png`);
  }
}
