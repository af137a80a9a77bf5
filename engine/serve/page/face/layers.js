// @ts-check
/** Canvases made of others: differences, masks, words put into them. */

import { context } from "../work/pictures.js";
import { make } from "./dom.js";

/** Side in px of the largest mask of a preview: what it cuts is blurred anyway. */
const MASK = 1024;

/**
 * Where a map is above 0, opaque.
 * @param {import("../arithmetic/levels.js").LevelMap} map
 * @returns {HTMLCanvasElement} of the map's size or smaller
 */
export function maskOf(map) {
  const step = Math.max(1, Math.ceil(Math.max(map.width, map.height) / MASK));
  const mask = make("canvas", {
    width: Math.ceil(map.width / step), height: Math.ceil(map.height / step),
  });
  const words = new Uint32Array(mask.width * mask.height);
  for (let y = 0, out = 0; y < map.height; y += step) {
    for (let x = 0; x < map.width; x += step, out++) {
      if (map.levels[y * map.width + x]) words[out] = 0xff000000;
    }
  }
  put(mask, words, 0, 0, mask.width, mask.height);
  return mask;
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
