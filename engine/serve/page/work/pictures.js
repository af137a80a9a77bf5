// @ts-check
/** Pictures and maps out of files. */

import { LevelMap, ONE } from "../arithmetic/levels.js";
import { decode } from "../arithmetic/png.js";

/**
 * @param {Blob} blob
 * @returns {Promise<HTMLCanvasElement>}
 * @throws {Error} in words, for what is no picture
 */
export async function canvasOf(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    throw new Error("This file is no picture that the browser can show (PNG, JPEG and WebP are).");
  }
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  context(canvas).drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas;
}

/** @param {HTMLCanvasElement} canvas @returns {CanvasRenderingContext2D} */
export function context(canvas) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
}

/** @param {HTMLCanvasElement} canvas @returns {Uint8ClampedArray} RGBA */
export function pixels(canvas) {
  // The picture only, to look at its colours; the map is never read from a canvas.
  return context(canvas).getImageData(0, 0, canvas.width, canvas.height).data;
}

/**
 * A strength map from a picture's file: grey ones to the bit, others by their strongest channel,
 * those with transparency by their opacity.
 * @param {Blob} blob
 * @param {{width: number, height: number}} size
 * @returns {Promise<LevelMap>}
 */
export async function mapOf(blob, size) {
  const exact = await decode(new Uint8Array(await blob.arrayBuffer()));
  const map = exact ?? mapOfCanvas(await canvasOf(blob));
  if (map.width === size.width && map.height === size.height) return map;
  const wanted = `${size.width} x ${size.height}`;
  throw new Error(
    `The map has ${map.width} x ${map.height} px, the picture ${wanted}: they must be equal.`,
  );
}

/** @param {HTMLCanvasElement} canvas @returns {LevelMap} */
function mapOfCanvas(canvas) {
  const rgba = pixels(canvas);
  const map = new LevelMap(canvas.width, canvas.height);
  const clear = rgba.some((value, at) => at % 4 === 3 && value < 255);
  for (let at = 0; at < map.levels.length; at++) {
    const [red, green, blue, alpha] = rgba.subarray(4 * at, 4 * at + 4);
    map.levels[at] = 257 * (clear ? alpha : Math.max(red, green, blue));
  }
  return map;
}

/**
 * The transparency of a picture: its hole is repainted.
 * @param {HTMLCanvasElement} canvas
 * @returns {LevelMap | null} null where it has none
 */
export function holeOf(canvas) {
  const rgba = pixels(canvas);
  const map = new LevelMap(canvas.width, canvas.height);
  for (let at = 0; at < map.levels.length; at++) map.levels[at] = ONE - 257 * rgba[4 * at + 3];
  return map.empty ? null : map;
}

/** @param {Blob} blob @returns {Promise<string>} its bytes as base64 */
export function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^[^,]*,/, ""));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** @param {Blob} blob @param {string} name */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
