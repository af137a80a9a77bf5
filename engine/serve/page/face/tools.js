// @ts-check
/** What is done with the pen: each tool a record, its options in the strip above the stage. */

import { Stroke } from "../arithmetic/brush.js";
import { gradient, laid, polygon, rectangle } from "../arithmetic/shapes.js";
import { context, pixels } from "../work/pictures.js";
import { byId, icon, make, newId, segments, slider, check } from "./dom.js";

/** @typedef {import("../arithmetic/brush.js").Mode} Mode */
/** @typedef {import("./hand.js").Place} Place */
/** @typedef {import("../arithmetic/shapes.js").Shape} Shape */

/**
 * @typedef {object} Tool
 * @property {string} name
 * @property {string} title
 * @property {string} key
 * @property {string[]} options their names in the strip
 * @property {string} [hint]
 * @property {boolean} [moves] it moves the view
 */

/** @type {Tool[]} */
export const TOOLS = [
  { name: "brush", title: "Brush", key: "b", options: ["mode", "size", "strength", "hardness", "spacing", "pressure"] },
  { name: "line", title: "Line", key: "l", options: ["mode", "size", "strength", "hardness"] },
  { name: "rectangle", title: "Rectangle", key: "r", options: ["mode", "strength"] },
  { name: "lasso", title: "Lasso", key: "o", options: ["mode", "strength"] },
  { name: "gradient", title: "Gradient", key: "g", options: ["mode", "strength"], hint: "Drag from nothing to full strength." },
  { name: "wand", title: "Wand: fill by colour", key: "w", options: ["mode", "strength", "tolerance", "connected"], hint: "Click a colour." },
  { name: "canvas", title: "Extend the canvas", key: "x", options: ["expand"] },
  { name: "hand", title: "Move the view", key: "v", options: [], moves: true, hint: "Drag to move, wheel to zoom. Two fingers move, turn and zoom with any tool." },
];

const MODES = [
  { name: "set", text: "Set", title: "Bring the map to the strength" },
  { name: "add", text: "Add", title: "Add the strength (hold Shift)" },
  { name: "subtract", text: "Subtract", title: "Take the strength away (hold Alt)" },
  { name: "smooth", text: "Smooth", title: "Even out what is there" },
];

export class Tools {
  /**
   * @param {import("../work/desk.js").Desk} desk
   * @param {import("./stage.js").Stage} stage
   * @param {import("../work/helper.js").Helper} helper
   */
  constructor(desk, stage, helper) {
    this.desk = desk;
    this.stage = stage;
    this.helper = helper;
    /** @type {import("../arithmetic/brush.js").Brush} */
    this.brush = { size: 48, strength: 1, hardness: 0.5, spacing: 0.12, mode: "set", pressure: "strength" };
    this.tolerance = 12;
    this.connected = true;
    this.tool = TOOLS[0];
    /** @type {Stroke | null} */
    this.stroke = null;
    /** A buffer for covers, used again. @type {Uint16Array | null} */
    this.buffer = null;
    /** Corners of the shape in progress. @type {Place[]} */
    this.points = [];
    /** @type {Mode} of what is being painted */
    this.mode = "set";
    this.frame = 0;
    /** @type {Record<string, any>} the strip's parts, to show what a key has changed */
    this.parts = {};
    this.onstroke = () => {};
    this.onbegin = () => {};
    /** Parts of the strip that others make. @type {Record<string, () => HTMLElement>} */
    this.made = {};
    this.rail = segments({
      label: "Tool",
      into: byId("tools"),
      choices: TOOLS.map(({ name, title, key }) => ({
        name, text: icon(name), title: `${title} (${key.toUpperCase()})`,
      })),
      value: this.tool.name,
      change: (name) => this.use(name),
    });
    desk.addEventListener("picture", () => {
      this.abandon();
      this.buffer = null;
    });
  }

  /** @param {string} name */
  use(name) {
    this.abandon();
    this.tool = TOOLS.find((tool) => tool.name === name) ?? this.tool;
    this.rail.show(this.tool.name);
    this.stage.box.dataset.tool = this.tool.name;
    this.#strip();
    this.stage.onview();
  }

  // --- the strip -------------------------------------------------------------------------------

  #strip() {
    const { brush } = this;
    /** @type {Record<string, () => HTMLElement>} */
    const makers = {
      mode: () => segments({
        label: "Mode", choices: this.tool.name === "brush" || this.tool.name === "line" ? MODES : MODES.slice(0, 3),
        value: brush.mode, change: (mode) => (brush.mode = /** @type {Mode} */ (mode)),
      }),
      size: () => slider({
        label: "Size", value: brush.size, low: 1, high: 1024, unit: "px", curved: true,
        change: (size) => { brush.size = size; this.stage.onview(); },
      }),
      strength: () => slider({
        label: "Strength", value: Math.round(100 * brush.strength), low: 0, high: 100, unit: "%",
        kind: "heat", change: (strength) => (brush.strength = strength / 100),
      }),
      hardness: () => slider({
        label: "Hardness", value: Math.round(100 * brush.hardness), low: 0, high: 100, unit: "%",
        change: (hardness) => (brush.hardness = hardness / 100),
      }),
      spacing: () => slider({
        label: "Spacing", value: Math.round(100 * brush.spacing), low: 2, high: 200, unit: "%", curved: true,
        change: (spacing) => (brush.spacing = spacing / 100),
      }),
      pressure: () => this.#pressure(),
      tolerance: () => slider({
        label: "Tolerance", value: this.tolerance, low: 1, high: 100, unit: "ΔE",
        change: (tolerance) => (this.tolerance = tolerance),
      }),
      connected: () => check("Only connected", this.connected, (value) => (this.connected = value)),
      ...this.made,
    };
    this.parts = Object.fromEntries(this.tool.options.map((name) => [name, makers[name]()]));
    for (const name of ["spacing", "pressure"]) this.parts[name]?.classList.add("extra");
    const options = byId("options");
    const more = make("button", {
      type: "button", id: "more", className: "quiet", ariaExpanded: String(options.classList.contains("more")),
      onclick: () => {
        const open = options.classList.toggle("more");
        more.ariaExpanded = String(open);
      },
    }, "More");
    if (!this.tool.options.includes("spacing")) more.hidden = true;
    const [first, ...rest] = Object.values(this.parts);
    const hint = this.tool.hint ? [make("p", { className: "hint" }, this.tool.hint)] : [];
    options.replaceChildren(...(first ? [first] : []), more, ...rest, ...hint);
  }

  #pressure() {
    const id = newId();
    const select = make("select", {
      id, onchange: () => (this.brush.pressure = /** @type {any} */ (select.value)),
    }, ...["none", "strength", "size", "both"].map((name) =>
      make("option", { value: name, selected: name === this.brush.pressure }, name[0].toUpperCase() + name.slice(1)),
    ));
    return make("div", { className: "pick" }, make("label", { htmlFor: id }, "Pressure"), select);
  }

  /** Set a number by a key. @param {"size" | "strength" | "hardness"} name @param {number} value */
  set(name, value) {
    const most = name === "size" ? 1024 : 1;
    this.brush[name] = Math.min(most, Math.max(name === "size" ? 1 : 0, value));
    this.parts[name]?.show(name === "size" ? Math.round(this.brush.size) : Math.round(100 * this.brush[name]));
    this.stage.onview();
  }

  // --- the work --------------------------------------------------------------------------------

  /** @param {Place} place @param {MouseEvent | KeyboardEvent} event */
  begin(place, event) {
    if (this.tool.name === "canvas") return;
    this.onbegin();
    this.mode = event.altKey ? "subtract" : event.shiftKey && this.tool.name !== "line" && event instanceof MouseEvent ? "add" : this.brush.mode;
    this.points = [place];
    if (this.tool.name === "brush") {
      const { levels } = this.desk.map;
      this.buffer ??= new Uint16Array(levels.length);
      this.stroke = new Stroke(this.desk.map, { ...this.brush, mode: this.mode }, this.buffer);
      this.#paint(place);
    } else if (this.tool.name === "wand") {
      void this.#wand(place);
    }
  }

  /** @param {Place} place @param {MouseEvent | KeyboardEvent} event */
  move(place, event) {
    if (!this.points.length) return;
    if (this.stroke) {
      this.#paint(place);
      return;
    }
    const [start] = this.points;
    if (this.tool.name === "lasso") this.points.push(place);
    else this.points = [start, event.shiftKey ? straight(start, place, this.tool.name) : place];
    this.#outline();
  }

  /** @param {Place} place */
  #paint({ x, y, pressure }) {
    this.stroke?.to(x, y, pressure);
    // Drawn within the next frame, however many places a pen tells of in it.
    this.frame ||= requestAnimationFrame(() => this.#flush());
  }

  #flush() {
    this.frame = 0;
    const { stroke } = this;
    for (const tile of stroke?.takeFresh() ?? []) {
      const rect = this.desk.map.tile(tile);
      this.stage.draw(rect, stroke?.result(rect));
    }
  }

  /** @param {Place} place @param {MouseEvent | KeyboardEvent | null} event */
  end(place, event) {
    if (!this.points.length) return;
    if (this.stroke) {
      this.#endStroke(this.stroke);
      return;
    }
    if (event) this.move(place, event);
    const points = this.points;
    this.points = [];
    this.#outline();
    const shape = this.#shape(points);
    if (!shape || shape.rect.width <= 0 || shape.rect.height <= 0) return;
    this.desk.changeRect(shape.rect, laid(this.desk.map, shape, this.brush.strength, this.mode));
    this.onstroke();
  }

  /** @param {Stroke} stroke */
  #endStroke(stroke) {
    cancelAnimationFrame(this.frame ?? 0);
    this.frame = 0;
    this.stroke = null;
    this.points = [];
    this.desk.change(stroke.finish());
    this.onstroke();
  }

  /** @param {Place[]} points @returns {Shape | null} */
  #shape(points) {
    const [start, end] = points;
    if (!end) return null;
    if (this.tool.name === "lasso") return points.length > 2 ? polygon(points, this.desk.map) : null;
    if (start.x === end.x && start.y === end.y) return null;
    if (this.tool.name === "gradient") return gradient(start, end, this.desk.map);
    if (this.tool.name === "rectangle") return rectangle(start, end, this.desk.map);
    if (this.tool.name !== "line") return null;
    this.buffer ??= new Uint16Array(this.desk.map.levels.length);
    const stroke = new Stroke(this.desk.map, { ...this.brush, mode: this.mode, pressure: "none" }, this.buffer);
    stroke.to(start.x, start.y);
    stroke.to(end.x, end.y);
    this.#endStroke(stroke);
    return null;
  }

  /** @param {Place} place */
  async #wand(place) {
    const { picture, map } = this.desk;
    const [x, y] = [Math.floor(place.x), Math.floor(place.y)];
    this.points = [];
    if (!picture || x < 0 || y < 0 || x >= map.width || y >= map.height) return;
    const rgba = pixels(picture.canvas);
    const { tolerance, connected, mode } = this;
    const cover = await this.helper.wand(rgba, map.width, map.height, { x, y }, tolerance, connected);
    if (this.desk.map !== map) return;
    const shape = { rect: map.bounds, cover };
    this.desk.changeRect(shape.rect, laid(map, shape, this.brush.strength, mode));
    this.onstroke();
  }

  /** Give up what is being painted. */
  abandon() {
    const { stroke } = this;
    this.stroke = null;
    this.points = [];
    this.#outline();
    if (!stroke) return;
    const tiles = [...stroke.tiles];
    stroke.clear();
    for (const tile of tiles) this.stage.draw(this.desk.map.tile(tile));
  }

  /** The shape in progress, as a line. */
  #outline() {
    const { hud, view } = this.stage;
    const draw = context(hud);
    const ratio = window.devicePixelRatio || 1;
    draw.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw.clearRect(0, 0, hud.width, hud.height);
    if (this.points.length < 2 || this.stroke) return;
    const [one, two] = this.points;
    const path = this.tool.name === "rectangle"
      ? [one, { x: two.x, y: one.y }, two, { x: one.x, y: two.y }, one]
      : this.points;
    draw.beginPath();
    for (const point of path) {
      const { x, y } = view.toScreen(point);
      draw.lineTo(x, y);
    }
    draw.setLineDash([]);
    draw.lineWidth = 3;
    draw.strokeStyle = "#000a";
    draw.stroke();
    draw.setLineDash([6, 4]);
    draw.lineWidth = 1.5;
    draw.strokeStyle = "#fff";
    draw.stroke();
  }
}

/**
 * The end of a line held to steps of 15 degrees, or the far corner of a square.
 * @param {Place} start @param {Place} end @param {string} tool @returns {Place}
 */
function straight(start, end, tool) {
  const [dx, dy] = [end.x - start.x, end.y - start.y];
  if (tool === "rectangle") {
    const side = Math.max(Math.abs(dx), Math.abs(dy));
    return { ...end, x: start.x + Math.sign(dx) * side, y: start.y + Math.sign(dy) * side };
  }
  const angle = (Math.round((Math.atan2(dy, dx) * 12) / Math.PI) * Math.PI) / 12;
  const length = Math.hypot(dx, dy);
  return { ...end, x: start.x + length * Math.cos(angle), y: start.y + length * Math.sin(angle) };
}
