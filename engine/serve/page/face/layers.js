// @ts-check
/** Canvases made of others: differences, masks, words put into them. */

import { rgbOf, thinned, tint } from "../arithmetic/regions.js";
import { context } from "../work/pictures.js";
import { make } from "./dom.js";

/** @typedef {import("../arithmetic/levels.js").LevelMap} LevelMap */

/** Side in px of the largest mask of a preview, and of regions that are not in hand. */
const MASK = 1024;

/** @param {LevelMap} map @returns {number} px from one level to the next that is looked at */
function stepOf(map) {
  return Math.max(1, Math.ceil(Math.max(map.width, map.height) / MASK));
}

/**
 * Where one of several maps is above 0, opaque.
 * @param {LevelMap[]} maps of one size
 * @returns {HTMLCanvasElement} of their size or smaller
 */
export function maskOf(maps) {
  const mask = make("canvas", { width: 1, height: 1 });
  for (const map of maps) {
    const { width, height, levels } = thinned(map, stepOf(map));
    if (mask.width !== width || mask.height !== height) Object.assign(mask, { width, height });
    const words = new Uint32Array(levels.length);
    tint(levels, words, [0, 0, 0], 255, 255);
    lay(mask, words, width, height);
  }
  return mask;
}

/**
 * Regions in their colours.
 * @param {HTMLCanvasElement} target of any size: it is drawn at that of the maps, or smaller
 * @param {import("../work/desk.js").Layer[]} layers
 */
export function drawRegions(target, layers) {
  context(target).clearRect(0, 0, target.width, target.height);
  for (const { map, colour } of layers) {
    const { width, height, levels } = thinned(map, stepOf(map));
    if (target.width !== width || target.height !== height) Object.assign(target, { width, height });
    const words = new Uint32Array(levels.length);
    tint(levels, words, rgbOf(colour), 45, 120);
    lay(target, words, width, height);
  }
}

/** Over what is there. @param {HTMLCanvasElement} target @param {Uint32Array<ArrayBuffer>} words @param {number} width @param {number} height */
function lay(target, words, width, height) {
  const one = make("canvas", { width, height });
  put(one, words, 0, 0, width, height);
  context(target).drawImage(one, 0, 0);
}

/**
 * How much each channel differs, times four.
 * @param {HTMLCanvasElement} target
 * @param {HTMLCanvasElement} base
 * @param {{canvas: HTMLCanvasElement, x: number, y: number} | null} shown and where it lies
 */
export function subtract(target, base, shown) {
  target.width = base.width;
  target.height = base.height;
  const draw = context(target);
  draw.drawImage(base, 0, 0);
  draw.globalCompositeOperation = "difference";
  draw.drawImage(shown?.canvas ?? base, shown?.x ?? 0, shown?.y ?? 0);
  draw.globalCompositeOperation = "lighter";
  for (let twice = 0; twice < 2; twice++) draw.drawImage(target, 0, 0);
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Uint32Array<ArrayBuffer>} words RGBA
 * @param {number} x @param {number} y @param {number} width @param {number} height
 */
export function put(canvas, words, x, y, width, height) {
  context(canvas).putImageData(new ImageData(new Uint8ClampedArray(words.buffer), width, height), x, y);
}
