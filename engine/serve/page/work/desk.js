// @ts-check
/** What is worked on: a picture, its map, the settings, and what came of it. */

import { LevelMap, span } from "../arithmetic/levels.js";
import { Undo, tilesOf } from "../arithmetic/undo.js";

/** @typedef {import("../arithmetic/levels.js").Rect} Rect */
/** @typedef {import("./keep.js").Entry} Entry */

/**
 * @typedef {object} Picture
 * @property {string} key under which it is kept
 * @property {string} name of its file
 * @property {Blob} blob as it was opened
 * @property {HTMLCanvasElement} canvas to look at
 * @property {number} width
 * @property {number} height
 */

/**
 * Events: `picture` (another one), `map` (detail: changed rectangle), `settings`, `shown`.
 */
export class Desk extends EventTarget {
  constructor() {
    super();
    /** @type {Picture | null} */
    this.picture = null;
    this.map = new LevelMap(1, 1);
    this.undo = new Undo();
    /** @type {Record<string, any>} settings that differ from their defaults */
    this.settings = {};
    /** @type {Entry | null} the result that is shown */
    this.shown = null;
    /** What of the map changed since the last `takeChanged`. @type {Rect | null} */
    this.changed = null;
  }

  /**
   * @param {Picture} picture
   * @param {LevelMap} [map] of its size
   */
  open(picture, map = new LevelMap(picture.width, picture.height)) {
    this.picture = picture;
    this.map = map;
    this.undo.clear();
    this.changed = map.bounds;
    this.shown = null;
    this.dispatchEvent(new Event("picture"));
    this.dispatchEvent(new Event("shown"));
  }

  /** @param {Map<number, Uint16Array>} tiles what they are from now on */
  change(tiles) {
    this.#tell(this.undo.change(this.map, tiles));
  }

  /** @param {Rect} rect @param {Uint16Array} levels row by row */
  changeRect(rect, levels) {
    this.change(tilesOf(this.map, rect, levels));
  }

  /** @param {LevelMap} map of the same size */
  changeAll(map) {
    this.changeRect(map.bounds, map.levels);
  }

  undoOne() {
    this.#tell(this.undo.undo(this.map));
  }

  redoOne() {
    this.#tell(this.undo.redo(this.map));
  }

  /** @param {Rect[]} rects */
  #tell(rects) {
    if (!rects.length) return;
    const rect = rects.reduce(
      (all, one) => /** @type {Rect} */ (span(all, one)),
    );
    this.changed = span(this.changed, rect);
    this.dispatchEvent(new CustomEvent("map", { detail: rect }));
  }

  /** @returns {Rect | null} what of the map changed since this was last asked */
  takeChanged() {
    const changed = this.changed;
    this.changed = null;
    return changed;
  }

  /**
   * @param {string} name
   * @param {any} value undefined is the default
   */
  set(name, value) {
    if (value === undefined) delete this.settings[name];
    else this.settings[name] = value;
    this.dispatchEvent(new CustomEvent("settings", { detail: name }));
  }

  /** @param {Entry | null} entry */
  show(entry) {
    this.shown = entry;
    this.dispatchEvent(new Event("shown"));
  }
}
