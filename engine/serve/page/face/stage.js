// @ts-check
/** The picture and what lies over it: result, preview, instant answer, heat, contours. */

import { heat } from "../arithmetic/heat.js";
import { rgbOf, tint } from "../arithmetic/regions.js";
import { View } from "../arithmetic/view.js";
import { context } from "../work/pictures.js";
import { drawContours } from "./contours.js";
import { byId, make } from "./dom.js";
import { drawRegions, maskOf, put, subtract } from "./layers.js";

/** @typedef {import("../arithmetic/levels.js").Rect} Rect */
/** @typedef {import("../arithmetic/levels.js").LevelMap} LevelMap */
/** @typedef {"result" | "slider" | "side" | "difference" | "before"} Look */
/** @typedef {[number, number, number, number]} Box */

const LAYERS = /** @type {const} */ (["shown", "preview", "instant"]);

export class Stage {
  /**
   * @param {import("../work/desk.js").Desk} desk
   * @param {import("../work/live.js").Live} live
   */
  constructor(desk, live) {
    this.desk = desk;
    this.live = live;
    this.view = new View();
    this.box = byId("stage");
    this.pane = byId("pane");
    this.world = byId("world");
    this.second = byId("second");
    this.secondWorld = byId("second-world");
    this.contours = /** @type {HTMLCanvasElement} */ (byId("contours"));
    this.hud = /** @type {HTMLCanvasElement} */ (byId("hud"));
    this.cut = make("div", { className: "cut" });
    this.seam = make("div", { className: "seam", hidden: true });
    this.base = make("canvas", { className: "base" });
    this.heat = make("canvas", { className: "heat" });
    this.others = make("canvas", { className: "others" });
    this.shown = make("canvas", { className: "shown" });
    this.preview = make("canvas", { className: "preview fading" });
    this.instant = make("canvas", { className: "instant" });
    this.difference = make("canvas", { hidden: true });
    this.cut.append(this.shown, this.preview, this.instant, this.difference);
    this.world.append(this.base, this.cut, this.others, this.heat, this.seam);
    this.before = make("canvas", { className: "base" });
    this.secondWorld.append(this.before);
    /** @type {Look} */
    this.look = "result";
    /** @type {"painting" | "always" | "never"} when the heat is seen */
    this.heatWhen = "painting";
    this.contoursOn = true;
    this.levels = [0.25, 0.5, 0.75];
    /** The map that the shown picture was made with. @type {LevelMap | null} */
    this.rendered = null;
    /** @type {HTMLCanvasElement | null} */
    this.mask = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.glance = undefined;
    this.onview = () => {};
    new ResizeObserver(() => this.#resized()).observe(this.pane);
    desk.addEventListener("picture", () => this.#opened());
    desk.addEventListener("map", (event) => {
      clearTimeout(this.glance);
      this.draw(/** @type {CustomEvent<Rect>} */ (event).detail);
      this.#soon();
    });
    desk.addEventListener("layers", () => this.#listed());
    live.addEventListener("stack", () => this.#stackChanged());
    const divider = byId("divider").querySelector("input");
    divider?.addEventListener("input", () => this.#divide(Number(divider.value)));
  }

  // --- what is seen ----------------------------------------------------------------------------

  #opened() {
    const picture = this.desk.picture;
    if (!picture) return;
    const { width, height } = picture;
    for (const world of [this.world, this.secondWorld]) {
      world.style.width = `${width}px`;
      world.style.height = `${height}px`;
    }
    for (const canvas of [this.base, this.heat, this.instant, this.before]) {
      canvas.width = width;
      canvas.height = height;
    }
    for (const canvas of [this.base, this.before]) context(canvas).drawImage(picture.canvas, 0, 0);
    this.rendered = null;
    for (const layer of LAYERS) this[layer].hidden = true;
    this.#drawMaps();
    this.fit();
    this.setLook("result");
  }

  /**
   * Show a result over the picture.
   * @param {HTMLCanvasElement | null} canvas null is the picture alone
   * @param {LevelMap | null} map that it was made with
   * @param {[number, number, number, number] | null} [grown] left, top, right, bottom
   */
  showResult(canvas, map, grown = null) {
    this.rendered = map;
    this.#settle(canvas !== null);
    this.preview.hidden = true;
    this.#clearInstant();
    this.shown.hidden = !canvas;
    if (canvas) {
      this.#place(this.shown, canvas.width, canvas.height, grown);
      context(this.shown).drawImage(canvas, 0, 0);
    }
    if (this.look === "difference") this.#subtract();
  }

  /** Whether a picture answers the map: then it is looked at, and not the map. @param {boolean} settled */
  #settle(settled) {
    // What the stack answers at once is seen through the heat.
    this.heat.classList.toggle("faint", this.heatWhen === "painting" && this.live.instant && this.live.stack !== null);
    for (const canvas of [this.heat, this.others]) {
      canvas.classList.toggle("settled", settled && this.heatWhen === "painting");
    }
    this.contours.classList.toggle("settled", settled);
    this.settled = settled;
  }

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {number} width
   * @param {number} height
   * @param {number[] | null} grown
   */
  #place(canvas, width, height, grown) {
    canvas.width = width;
    canvas.height = height;
    canvas.style.transform = grown ? `translate(${-grown[0]}px, ${-grown[1]}px)` : "";
  }

  /**
   * A preview of what runs fades in over the last picture, where something is repainted.
   * @param {ImageBitmap} bitmap
   * @param {Box | null} box what it shows, left, top, right, bottom
   * @param {[number, number, number, number] | null} grown
   */
  showPreview(bitmap, box, grown) {
    const { width, height } = this.desk.map;
    const [left, top, right, bottom] = grown ?? [0, 0, 0, 0];
    const [wide, high] = [width + left + right, height + top + bottom];
    const first = this.preview.hidden;
    this.#place(this.preview, wide, high, grown);
    const draw = context(this.preview);
    const [x, y, x2, y2] = box ?? [0, 0, wide, high];
    draw.drawImage(bitmap, x, y, x2 - x, y2 - y);
    this.#settle(true);
    if (!grown && this.mask) {
      draw.globalCompositeOperation = "destination-in";
      draw.drawImage(this.mask, 0, 0, wide, high);
    }
    if (!first) return;
    this.preview.hidden = false;
    this.preview.style.opacity = "0";
    requestAnimationFrame(() => (this.preview.style.opacity = "1"));
  }

  /** A run begins: previews of it are cut to what is repainted now. */
  began() {
    this.mask = maskOf(this.desk.parts.map(({ map }) => map));
  }

  /** A run is over without a picture. */
  endPreview() {
    this.preview.hidden = true;
  }

  /** Whether something is shown that is not the exact picture. */
  get approximate() {
    return !this.instant.hidden || !this.preview.hidden;
  }

  /**
   * Draw a rectangle of the map, or what it is about to become.
   * @param {Rect} rect
   * @param {Uint16Array} [levels] row by row; the map's own where none are given
   */
  draw(rect, levels = this.desk.map.cut(rect)) {
    if (!rect.width || !rect.height) return;
    this.#settle(false);
    const words = new Uint32Array(levels.length);
    this.#coloured(levels, words);
    put(this.heat, words, rect.x, rect.y, rect.width, rect.height);
    const stack = this.live.instant ? this.live.stack : null;
    if (!stack || this.desk.regions.length || stack.width !== this.desk.map.width || stack.height !== this.desk.map.height) return;
    stack.mix(levels, rect, words);
    this.#onlyChanged(levels, rect, words);
    put(this.instant, words, rect.x, rect.y, rect.width, rect.height);
    this.instant.hidden = false;
  }

  /** Colours of the map in hand. @param {Uint16Array} levels @param {Uint32Array} words */
  #coloured(levels, words) {
    const { layer, layers } = this.desk;
    if (layer === layers[0]) heat(levels, words);
    else tint(levels, words, rgbOf(layer.colour), 70, 190);
  }

  /** Another region is in hand, or takes part: all are shown, and for a while only if nothing is painted. */
  #listed() {
    if (!this.desk.picture) return;
    const settled = this.settled;
    this.#drawMaps();
    this.#soon();
    clearTimeout(this.glance);
    if (settled) this.glance = setTimeout(() => this.#settle(true), 1500);
  }

  /** All maps that take part: the one in hand over the others. */
  #drawMaps() {
    const { desk } = this;
    this.others.style.width = `${desk.map.width}px`;
    this.others.style.height = `${desk.map.height}px`;
    drawRegions(this.others, desk.regions.filter((one) => !one.hidden && one !== desk.layer));
    this.draw(desk.map.bounds);
    this.heat.classList.toggle("away", desk.layer.hidden);
  }

  /** Where a level is as in the shown picture, that picture stays. @param {Uint16Array} levels @param {Rect} rect @param {Uint32Array} words */
  #onlyChanged(levels, rect, words) {
    const made = this.rendered;
    for (let row = 0, at = 0; row < rect.height; row++) {
      let from = (rect.y + row) * this.desk.map.width + rect.x;
      for (let column = 0; column < rect.width; column++, at++, from++) {
        if (levels[at] === (made ? made.levels[from] : 0)) words[at] = 0;
      }
    }
  }

  #clearInstant() {
    this.instant.hidden = true;
    context(this.instant).clearRect(0, 0, this.instant.width, this.instant.height);
  }

  #stackChanged() {
    this.box.dataset.stack = this.live.stack ? "there" : "none";
    if (!this.live.stack) this.#clearInstant();
  }

  // --- ways to look ----------------------------------------------------------------------------

  /** @param {Look} look */
  setLook(look) {
    this.look = look;
    this.box.dataset.look = look;
    this.cut.hidden = look === "before";
    this.second.hidden = look !== "side";
    byId("divider").hidden = look !== "slider";
    this.seam.hidden = look !== "slider";
    this.difference.hidden = look !== "difference";
    for (const layer of LAYERS) this[layer].style.visibility = look === "difference" ? "hidden" : "";
    if (look === "difference") this.#subtract();
    const divider = byId("divider").querySelector("input");
    this.#divide(look === "slider" ? Number(divider?.value) : null);
    this.#heatShown();
    this.#apply();
  }

  #heatShown() {
    // Judging wants the pictures alone.
    const plain = this.look === "difference" || this.look === "before";
    this.heat.hidden = this.others.hidden = this.heatWhen === "never" || plain;
    this.contours.hidden = !this.contoursOn || plain;
  }

  /** @param {number | null} place of the seam in percent; null is no seam */
  #divide(place) {
    // A result on grown canvas may lie beyond the picture.
    this.cut.style.clipPath = place === null ? "" : `inset(-9999px -9999px -9999px ${place}%)`;
    this.seam.style.left = `${place ?? 0}%`;
    this.#thin();
  }

  /** The seam is as wide on the screen at every zoom. */
  #thin() {
    const px = 1 / this.view.scale;
    this.seam.style.borderLeftWidth = `${2 * px}px`;
    this.seam.style.boxShadow = `0 0 ${3 * px}px ${px}px #0006`;
  }

  /** How much each channel differs, times four. */
  #subtract() {
    const moved = new DOMMatrix(this.shown.style.transform);
    const shown = this.shown.hidden ? null : { canvas: this.shown, x: moved.e, y: moved.f };
    subtract(this.difference, this.base, shown);
  }

  /** @param {{heat?: "painting" | "always" | "never", contours?: boolean, levels?: number[]}} overlay */
  setOverlay({ heat: when, contours: lines, levels }) {
    if (when) this.heatWhen = when;
    this.#settle(this.settled ?? false);
    if (lines !== undefined) this.contoursOn = lines;
    if (levels) this.levels = levels;
    this.#heatShown();
    this.#soon();
  }

  // --- where it lies ---------------------------------------------------------------------------

  #resized() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.pane;
    const grown = this.contours.width === 0 || this.contours.width === 300;
    for (const canvas of [this.contours, this.hud]) {
      canvas.width = Math.round(clientWidth * ratio);
      canvas.height = Math.round(clientHeight * ratio);
    }
    if (grown || this.fitted) this.fit();
    else this.#apply();
  }

  fit() {
    if (!this.desk.picture) return;
    const screen = { width: this.pane.clientWidth, height: this.pane.clientHeight };
    this.view.fit(this.desk.map, screen, this.desk.settings.expand);
    this.fitted = true;
    this.#apply();
  }

  /** Show the view as a hand has left it. */
  apply() {
    this.fitted = false;
    this.#apply();
  }

  #apply() {
    for (const world of [this.world, this.secondWorld]) {
      world.style.transform = this.view.css;
      world.classList.toggle("crisp", this.view.scale >= 8);
    }
    this.#thin();
    this.onview();
    this.#soon();
  }

  /** Enlarge and turn about the middle. @param {number} factor @param {number} [angle] radians */
  turn(factor, angle = 0) {
    this.view.change({ x: this.pane.clientWidth / 2, y: this.pane.clientHeight / 2 }, factor, angle);
    this.apply();
  }

  /** @param {{clientX: number, clientY: number}} event @returns {{x: number, y: number}} px of the stage */
  onScreen(event) {
    const { left, top } = this.pane.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  }

  /** Draw the contours within the next frame. */
  #soon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.#drawContours();
    });
  }

  #drawContours() {
    const shown = this.contoursOn && !this.contours.hidden && this.desk.picture !== null;
    drawContours(this.contours, this.view, this.desk.map, shown ? this.levels : []);
  }
}
