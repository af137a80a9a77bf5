// @ts-check
/** What is under the pen: place and level in words, and the brush as a ring. */

import { colour } from "../arithmetic/heat.js";
import { ONE } from "../arithmetic/levels.js";
import { percent } from "../work/live.js";
import { byId } from "./dom.js";

/** @typedef {{x: number, y: number}} Point of the picture, in px */

export class Readout {
  /**
   * @param {import("../work/desk.js").Desk} desk
   * @param {import("./stage.js").Stage} stage
   * @param {import("./tools.js").Tools} tools
   */
  constructor(desk, stage, tools) {
    this.desk = desk;
    this.stage = stage;
    this.tools = tools;
    /** @type {Point | null} */
    this.place = null;
  }

  /** @param {Point | null} [place] under the pen; where it was, if none is given */
  show(place = this.place) {
    this.place = place;
    const { map, picture } = this.desk;
    const inside = place && place.x >= 0 && place.y >= 0 && place.x < map.width && place.y < map.height;
    byId("readout").textContent = inside
      ? `${Math.floor(place.x)}, ${Math.floor(place.y)} · ${percent(map.at(place.x, place.y))}`
      : picture ? `${map.width} × ${map.height}` : "";
    this.#ring();
  }

  #ring() {
    const { place } = this;
    const { tool, brush } = this.tools;
    const cursor = byId("cursor");
    cursor.hidden = !place || !this.desk.picture || !tool.options.includes("size");
    if (cursor.hidden || !place) return;
    const at = this.stage.view.toScreen(place);
    const side = Math.max(4, brush.size * this.stage.view.scale);
    cursor.style.width = cursor.style.height = `${side}px`;
    cursor.style.transform = `translate(${at.x - side / 2}px, ${at.y - side / 2}px)`;
    cursor.style.borderColor = colour(Math.round(brush.strength * ONE));
  }
}
