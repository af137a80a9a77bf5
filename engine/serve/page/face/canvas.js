// @ts-check
/** Outpainting: the canvas grows where its edge is dragged, or by numbers. */

import { context } from "../work/pictures.js";
import { make, newId } from "./dom.js";

const SIDES = ["Left", "Top", "Right", "Bottom"];

export class Canvas {
  /**
   * @param {import("../work/desk.js").Desk} desk
   * @param {import("./stage.js").Stage} stage
   */
  constructor(desk, stage) {
    this.desk = desk;
    this.stage = stage;
    this.multiple = 8;
    this.most = 16384;
    /** Side being dragged. @type {number | null} */
    this.side = null;
    this.active = false;
    /** @type {HTMLInputElement[]} */
    this.inputs = [];
    desk.addEventListener("picture", () => this.#tell());
    const { pane } = stage;
    pane.addEventListener("pointerdown", (event) => this.#press(event));
    pane.addEventListener("pointermove", (event) => this.#drag(event));
    pane.addEventListener("pointerup", () => this.#release());
    pane.addEventListener("pointercancel", () => this.#release());
  }

  /** @returns {[number, number, number, number]} left, top, right, bottom */
  get grown() {
    return /** @type {[number, number, number, number]} */ ([...(this.desk.settings.expand ?? [0, 0, 0, 0])]);
  }

  /** @param {number[]} grown */
  #set(grown) {
    this.desk.set("expand", grown.some((px) => px > 0) ? grown : undefined);
    this.#tell();
    this.draw();
  }

  /** How far it grows, in the numbers that are not being typed. */
  #tell() {
    this.inputs.forEach((input, side) => {
      if (input !== document.activeElement) input.value = String(this.grown[side]);
    });
  }

  /** The numbers, for the strip above the stage. @returns {HTMLElement} */
  options() {
    this.inputs = SIDES.map((_, side) => make("input", {
      type: "number", id: newId(), min: "0", max: String(this.most), step: String(this.multiple), value: String(this.grown[side]),
      oninput: () => {
        const grown = this.grown;
        grown[side] = Math.max(0, Math.min(this.most, Math.round(Number(this.inputs[side].value) || 0)));
        this.#set(grown);
      },
    }));
    return make("div", { className: "grow" },
      make("p", { className: "hint" }, "Drag an edge outward, or type px:"),
      make("div", { className: "four" }, ...SIDES.map((name, side) =>
        make("div", {}, make("label", { htmlFor: this.inputs[side].id }, name), this.inputs[side]))));
  }

  /** @param {PointerEvent} event */
  #press(event) {
    if (!this.active || event.button !== 0 || !this.desk.picture) return;
    const { x, y } = this.stage.view.toPicture(this.stage.onScreen(event));
    const [left, top, right, bottom] = this.grown;
    const { width, height } = this.desk.map;
    const away = [x + left, y + top, width + right - x, height + bottom - y].map(Math.abs);
    this.side = away.indexOf(Math.min(...away));
  }

  /** @param {PointerEvent} event */
  #drag(event) {
    if (this.side === null) return;
    const { x, y } = this.stage.view.toPicture(this.stage.onScreen(event));
    const { width, height } = this.desk.map;
    const out = [-x, -y, x - width, y - height][this.side];
    const grown = this.grown;
    grown[this.side] = Math.min(this.most, Math.max(0, Math.round(out / this.multiple) * this.multiple));
    this.#set(grown);
  }

  #release() {
    this.side = null;
  }

  /** The frame of the grown canvas, as long as there is one. */
  draw() {
    const { hud, view } = this.stage;
    const [left, top, right, bottom] = this.grown;
    const any = left + top + right + bottom > 0;
    if (!this.active && !any) return;
    const draw = context(hud);
    const ratio = window.devicePixelRatio || 1;
    draw.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw.clearRect(0, 0, hud.width, hud.height);
    if (!any && !this.active) return;
    const { width, height } = this.desk.map;
    const corners = [[-left, -top], [width + right, -top], [width + right, height + bottom], [-left, height + bottom]]
      .map(([x, y]) => view.toScreen({ x, y }));
    draw.beginPath();
    for (const { x, y } of [...corners, corners[0]]) draw.lineTo(x, y);
    draw.lineWidth = 3;
    draw.strokeStyle = "#000a";
    draw.stroke();
    draw.setLineDash([8, 5]);
    draw.lineWidth = 1.5;
    draw.strokeStyle = "#fff";
    draw.stroke();
    draw.setLineDash([]);
    if (!this.active) return;
    corners.forEach((corner, at) => {
      const next = corners[(at + 1) % 4];
      draw.beginPath();
      draw.arc((corner.x + next.x) / 2, (corner.y + next.y) / 2, 8, 0, 2 * Math.PI);
      draw.fillStyle = "#fff";
      draw.fill();
      draw.lineWidth = 2;
      draw.strokeStyle = "#000b";
      draw.stroke();
    });
  }

  /** Without a frame any more. */
  clear() {
    const { hud } = this.stage;
    context(hud).setTransform(1, 0, 0, 1, 0, 0);
    context(hud).clearRect(0, 0, hud.width, hud.height);
    this.draw();
  }
}
