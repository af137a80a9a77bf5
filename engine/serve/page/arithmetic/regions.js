// @ts-check
/** Regions of an edit: the colours that tell them apart, and what they cover together. */

import { ONE } from "./levels.js";

/** @typedef {import("./levels.js").LevelMap} LevelMap */
/** @typedef {[number, number, number]} Rgb */

/** Seen on light and dark pictures, and apart from each other without red and green too. */
export const COLOURS = /** @type {Rgb[]} */ ([
  [0, 114, 255], [255, 176, 0], [0, 158, 115], [220, 38, 127],
  [120, 94, 240], [254, 97, 0], [86, 200, 233], [170, 200, 40],
]);

/** @param {number} colour number of a region's @returns {Rgb} */
export function rgbOf(colour) {
  return COLOURS[colour % COLOURS.length];
}

/** @param {number[]} taken @returns {number} the first colour that is not, or that fewest have */
export function freeColour(taken) {
  const uses = COLOURS.map((_, at) => taken.filter((one) => one % COLOURS.length === at).length);
  return uses.indexOf(Math.min(...uses));
}

/**
 * A map in one colour: the stronger, the less is seen through it.
 * @param {Uint16Array} levels
 * @param {Uint32Array} out RGBA words; nothing where the level is 0
 * @param {Rgb} rgb
 * @param {number} low opacity of the weakest, 0 to 255
 * @param {number} high of the strongest
 */
export function tint(levels, out, [red, green, blue], low, high) {
  const colour = (blue << 16) | (green << 8) | red;
  for (let at = 0; at < levels.length; at++) {
    const level = levels[at];
    out[at] = level ? ((Math.round(low + ((high - low) * level) / ONE) << 24) | colour) >>> 0 : 0;
  }
}

/**
 * Every `step`th level of a map.
 * @param {LevelMap} map
 * @param {number} step px
 * @returns {{width: number, height: number, levels: Uint16Array}}
 */
export function thinned(map, step) {
  const [width, height] = [Math.ceil(map.width / step), Math.ceil(map.height / step)];
  const levels = new Uint16Array(width * height);
  for (let y = 0, out = 0; y < map.height; y += step) {
    for (let x = 0; x < map.width; x += step, out++) levels[out] = map.levels[y * map.width + x];
  }
  return { width, height, levels };
}

/**
 * A list with one of its entries elsewhere.
 * @template T
 * @param {T[]} list
 * @param {number} from
 * @param {number} to
 * @returns {T[]}
 */
export function moved(list, from, to) {
  const other = [...list];
  const [one] = other.splice(from, 1);
  other.splice(to, 0, one);
  return other;
}

/** @param {string[]} taken @returns {string} "Region 1", or the first such that is not */
export function freeName(taken) {
  for (let number = 1; ; number++) {
    if (!taken.includes(`Region ${number}`)) return `Region ${number}`;
  }
}
