// @ts-check
/**
 * A brush: stamps along a path, their greatest cover within a stroke, laid over the map once.
 *
 * A stamp's cover is hardness falloff x pressure. Where a stroke crosses itself the greater cover
 * counts, so that no place is stronger for having been passed twice. On an empty map "set" and
 * "add" give strength x falloff x pressure.
 */

import { ONE, TILE, clipped, smootherstep } from "./levels.js";
import { blurred } from "./tools.js";

/** @typedef {import("./levels.js").LevelMap} LevelMap */
/** @typedef {import("./levels.js").Rect} Rect */
/** @typedef {"set" | "add" | "subtract" | "smooth"} Mode */
/** @typedef {"none" | "strength" | "size" | "both"} Pressure */
/**
 * @typedef {object} Brush
 * @property {number} size diameter in px
 * @property {number} strength from 0 to 1
 * @property {number} hardness share of the radius that is covered wholly, from 0 to 1
 * @property {number} spacing from stamp to stamp, as a share of the diameter
 * @property {Mode} mode
 * @property {Pressure} pressure what a pen's pressure changes
 */

/**
 * Cover of a stamp at a distance from its centre. At least the outermost px is a ramp, so that a
 * hard brush has no stairs.
 * @param {number} distance px
 * @param {number} radius px
 * @param {number} hardness
 * @returns {number} from 0 to 1
 */
export function cover(distance, radius, hardness) {
  const solid = solidRadius(radius, hardness);
  if (distance <= solid) return 1;
  return smootherstep((radius - distance) / (radius - solid));
}

/** @param {number} radius @param {number} hardness @returns {number} of what is covered wholly */
function solidRadius(radius, hardness) {
  return Math.max(0, Math.min(hardness * radius, radius - 1));
}

/** One stroke, from pen-down to pen-up. */
export class Stroke {
  /**
   * @param {LevelMap} map not changed before `commit`
   * @param {Brush} brush
   * @param {Uint16Array} [cover_] a buffer of the map's length to use again, all zeros
   */
  constructor(map, brush, cover_ = new Uint16Array(map.levels.length)) {
    this.map = map;
    this.brush = brush;
    this.cover = cover_;
    /** @type {Set<number>} */
    this.tiles = new Set();
    /** Those touched since the last `takeFresh`. @type {Set<number>} */
    this.fresh = new Set();
    /** @type {Map<number, Uint16Array>} */
    this.smoothed = new Map();
    /** @type {{x: number, y: number, pressure: number} | null} */
    this.last = null;
    this.travelled = 0;
  }

  /** Sigma of the smoothing brush in px. */
  get sigma() {
    return Math.min(Math.max(this.brush.size / 8, 1), 12);
  }

  /**
   * Move to a point; the first one stamps at once, later ones every `spacing` along the way.
   * @param {number} x px
   * @param {number} y px
   * @param {number} [pressure] from 0 to 1
   */
  to(x, y, pressure = 1) {
    const last = this.last;
    this.last = { x, y, pressure };
    const length = last ? Math.hypot(x - last.x, y - last.y) : 0;
    if (!last || length === 0) {
      this.stamp(x, y, pressure);
      return;
    }
    const gap = Math.max(0.5, this.brush.spacing * this.brush.size);
    let along = gap - this.travelled;
    for (; along <= length; along += gap) {
      const share = along / length;
      this.stamp(
        last.x + share * (x - last.x),
        last.y + share * (y - last.y),
        last.pressure + share * (pressure - last.pressure),
      );
    }
    this.travelled = length - (along - gap);
  }

  /**
   * @param {number} x
   * @param {number} y
   * @param {number} pressure
   */
  stamp(x, y, pressure) {
    const { size, hardness } = this.brush;
    const scaled = this.brush.pressure === "size" || this.brush.pressure === "both";
    const pressed = this.brush.pressure === "strength" || this.brush.pressure === "both";
    const radius = Math.max(0.5, (size / 2) * (scaled ? pressure : 1));
    const peak = ONE * (pressed ? pressure : 1);
    const rect = clipped(x - radius, y - radius, x + radius, y + radius, this.map);
    if (rect.width <= 0 || rect.height <= 0) return;
    const solid = solidRadius(radius, hardness);
    const inner = solid * solid;
    const outer = radius * radius;
    const ramp = 1 / (radius - solid);
    const whole = Math.round(peak);
    const { cover: covers } = this;
    for (let row = rect.y; row < rect.y + rect.height; row++) {
      const dy = row + 0.5 - y;
      let at = row * this.map.width + rect.x;
      for (let column = rect.x; column < rect.x + rect.width; column++, at++) {
        const dx = column + 0.5 - x;
        const square = dx * dx + dy * dy;
        if (square >= outer || covers[at] >= whole) continue;
        let level = whole;
        if (square > inner) {
          const t = (radius - Math.sqrt(square)) * ramp; // `cover`, without a call a pixel
          level = (peak * t * t * t * (t * (t * 6 - 15) + 10) + 0.5) | 0;
        }
        if (level > covers[at]) covers[at] = level;
      }
    }
    for (const tile of this.map.tiles(rect)) {
      this.tiles.add(tile);
      this.fresh.add(tile);
    }
  }

  /** @returns {number[]} tiles touched since this was last asked */
  takeFresh() {
    const fresh = [...this.fresh];
    this.fresh.clear();
    return fresh;
  }

  /**
   * The level that a pixel has after the stroke.
   * @param {number} at its index
   * @param {number} smooth level of the smoothed map there
   * @returns {number}
   */
  level(at, smooth = 0) {
    const before = this.map.levels[at];
    const share = this.cover[at] / ONE;
    if (share === 0) return before;
    const { strength, mode } = this.brush;
    if (mode === "set") return Math.round(before + (strength * ONE - before) * share);
    if (mode === "add") return Math.min(ONE, Math.round(before + strength * ONE * share));
    if (mode === "subtract") return Math.max(0, Math.round(before - strength * ONE * share));
    return Math.round(before + (smooth - before) * share * strength);
  }

  /**
   * What a rectangle of the map is after the stroke, row by row.
   * @param {Rect} rect
   * @returns {Uint16Array}
   */
  result(rect) {
    const levels = new Uint16Array(rect.width * rect.height);
    const smooth = this.brush.mode === "smooth";
    for (let row = 0, out = 0; row < rect.height; row++) {
      let at = (rect.y + row) * this.map.width + rect.x;
      for (let column = 0; column < rect.width; column++, at++, out++) {
        levels[out] = this.level(at, smooth ? this.#smoothed(rect.x + column, rect.y + row) : 0);
      }
    }
    return levels;
  }

  /** @param {number} x @param {number} y @returns {number} level of the smoothed map */
  #smoothed(x, y) {
    const tile = Math.floor(y / TILE) * this.map.columns + Math.floor(x / TILE);
    const rect = this.map.tile(tile);
    let levels = this.smoothed.get(tile);
    if (!levels) this.smoothed.set(tile, (levels = blurred(this.map, this.sigma, rect)));
    return levels[(y - rect.y) * rect.width + x - rect.x];
  }

  /**
   * The end: what each touched tile is after the stroke. The buffer of covers is cleared.
   * @returns {Map<number, Uint16Array>}
   */
  finish() {
    /** @type {Map<number, Uint16Array>} */
    const changed = new Map();
    for (const tile of this.tiles) changed.set(tile, this.result(this.map.tile(tile)));
    this.clear();
    return changed;
  }

  /** Forget what was painted. */
  clear() {
    for (const tile of this.tiles) {
      const rect = this.map.tile(tile);
      for (let row = rect.y; row < rect.y + rect.height; row++) {
        const start = row * this.map.width + rect.x;
        this.cover.fill(0, start, start + rect.width);
      }
    }
    this.tiles.clear();
  }
}
