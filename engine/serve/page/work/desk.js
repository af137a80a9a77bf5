// @ts-check
/** What is worked on: a picture, its map, the settings, and what came of it. */

import { LevelMap, span } from "../arithmetic/levels.js";
import { freeColour, freeName, moved } from "../arithmetic/regions.js";
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
 * A region: a map of its own, and settings in place of the edit's.
 * @typedef {object} Layer
 * @property {string} name
 * @property {number} colour its number
 * @property {boolean} hidden it takes no part, and is not seen
 * @property {LevelMap} map
 * @property {Record<string, any>} settings its own
 * @property {number} version of the map: one more for each change
 */

/**
 * Events: `picture` (another one), `map` (detail: changed rectangle of the map in hand), `layers`
 * (their list, or which is in hand), `settings`, `shown`.
 */
export class Desk extends EventTarget {
  constructor() {
    super();
    /** @type {Picture | null} */
    this.picture = null;
    /** The first is the edit's own map, the others are its regions. @type {Layer[]} */
    this.layers = [layer(new LevelMap(1, 1))];
    /** Which of them is painted on. */
    this.at = 0;
    this.undo = new Undo();
    /** @type {Record<string, any>} settings that differ from their defaults */
    this.settings = {};
    /** @type {Entry | null} the result that is shown */
    this.shown = null;
    /** What of the edit's own map changed since the last `takeChanged`. @type {Rect | null} */
    this.changed = null;
    /** Something was painted that was not sent yet. */
    this.unsent = false;
  }

  // --- maps ------------------------------------------------------------------------------------

  /** @returns {Layer} in hand */
  get layer() {
    return this.layers[this.at];
  }

  /** @returns {LevelMap} in hand */
  get map() {
    return this.layer.map;
  }

  /** @returns {LevelMap} the edit's own */
  get base() {
    return this.layers[0].map;
  }

  /** @returns {Layer[]} */
  get regions() {
    return this.layers.slice(1);
  }

  /** @returns {Layer[]} those that take part */
  get parts() {
    return this.layers.filter(({ hidden, map }) => !hidden && !map.empty);
  }

  /** @returns {Layer[]} those of them that are regions, in the order in which the server numbers them, from 1 */
  get numbered() {
    return this.parts.filter((one) => one !== this.layers[0]);
  }

  /** @returns {boolean} whether nothing is to be repainted */
  get empty() {
    return !this.parts.length;
  }

  /**
   * @param {Picture} picture
   * @param {LevelMap} [map] of its size
   * @param {Layer[]} [regions]
   */
  open(picture, map = new LevelMap(picture.width, picture.height), regions = []) {
    this.picture = picture;
    this.layers = [layer(map), ...regions];
    this.at = 0;
    this.undo.clear();
    this.changed = map.bounds;
    this.unsent = true;
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
    this.#turned(this.undo.undo());
  }

  redoOne() {
    this.#turned(this.undo.redo());
  }

  /** @param {{map: LevelMap | null, rects: Rect[]} | null} turned */
  #turned(turned) {
    if (!turned) return;
    const { map, rects } = turned;
    const at = this.layers.findIndex((one) => one.map === map);
    if (at >= 0 && at !== this.at) this.choose(at); // what changes is to be seen
    if (at >= 0) this.#tell(rects);
    else this.#listed();
  }

  /** @param {Rect[]} rects of the map in hand */
  #tell(rects) {
    if (!rects.length) return;
    const rect = rects.reduce(
      (all, one) => /** @type {Rect} */ (span(all, one)),
    );
    this.layer.version++;
    if (this.at === 0) this.changed = span(this.changed, rect);
    this.unsent = true;
    this.dispatchEvent(new CustomEvent("map", { detail: rect }));
  }

  /** @returns {Rect | null} what of the edit's own map changed since this was last asked */
  takeChanged() {
    const changed = this.changed;
    this.changed = null;
    this.unsent = false;
    return changed;
  }

  // --- the list of regions ---------------------------------------------------------------------

  /** @param {number} at */
  choose(at) {
    this.at = Math.max(0, Math.min(this.layers.length - 1, at));
    this.dispatchEvent(new Event("layers"));
  }

  /** A region of its own, and painted on from now. */
  add() {
    const { width, height } = this.map;
    const { layers } = this;
    const region = layer(new LevelMap(width, height), {
      name: freeName(layers.map(({ name }) => name)), colour: freeColour(this.regions.map(({ colour }) => colour)),
    });
    this.list([...layers, region], layers.length);
  }

  /** @param {number} at */
  drop(at) {
    this.list(this.layers.filter((_, one) => one !== at), Math.min(this.at, this.layers.length - 2));
  }

  /** @param {number} from @param {number} to */
  move(from, to) {
    if (to < 1 || to >= this.layers.length) return;
    this.list(moved(this.layers, from, to), to);
  }

  /**
   * Other layers, so that it can be undone.
   * @param {Layer[]} layers
   * @param {number} at in hand
   */
  list(layers, at) {
    let other = { layers: this.layers, at: this.at };
    const [from, to] = [this.layers, layers];
    const gone = [...from, ...to].filter((one) => !(from.includes(one) && to.includes(one)));
    this.undo.note({
      map: null,
      bytes: gone.reduce((sum, { map }) => sum + map.levels.byteLength, 0),
      swap: () => {
        const now = { layers: this.layers, at: this.at };
        [this.layers, this.at] = [other.layers, other.at];
        if (now.layers[0] !== other.layers[0]) this.changed = this.base.bounds;
        other = now;
        return [];
      },
    });
    if (layers[0] !== this.layers[0]) this.changed = layers[0].map.bounds;
    this.layers = layers;
    this.at = at;
    this.#listed();
  }

  /** Something about a region that is no map. */
  retell() {
    this.#listed();
  }

  #listed() {
    this.unsent = true;
    this.dispatchEvent(new Event("layers"));
  }

  // --- settings --------------------------------------------------------------------------------

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

/**
 * @param {LevelMap} map
 * @param {Partial<Layer>} [told]
 * @returns {Layer}
 */
export function layer(map, told = {}) {
  return { name: "", colour: 0, hidden: false, settings: {}, ...told, map, version: 0 };
}

/** As it is now, whatever is painted later. @param {Layer} one @returns {Layer} */
export function copied(one) {
  return { ...one, settings: { ...one.settings }, map: one.map.copy() };
}
