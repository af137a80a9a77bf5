// @ts-check
/**
 * Fill by colour. Likeness is Delta-E 2000 (Sharma, Wu and Dalal, "The CIEDE2000 Color-Difference
 * Formula", 2005): all up to the tolerance, falling to nothing at one and a half times it, as
 * engine.picture.map_tools.select_colours has it.
 */

import { ONE } from "./levels.js";

/** @typedef {{rect: import("./levels.js").Rect, cover: Uint16Array}} Shape */

/** sRGB's bytes as linear light. */
const LINEAR = Float64Array.from({ length: 256 }, (_, byte) => {
  const value = byte / 255;
  return value > 0.04045 ? ((value + 0.055) / 1.055) ** 2.4 : value / 12.92;
});

/**
 * CIELAB under D65, two degrees, as scikit-image has it.
 * @param {number} red @param {number} green @param {number} blue bytes
 * @returns {[number, number, number]}
 */
export function lab(red, green, blue) {
  const [r, g, b] = [LINEAR[red], LINEAR[green], LINEAR[blue]];
  const x = root((0.412453 * r + 0.35758 * g + 0.180423 * b) / 0.95047);
  const y = root(0.212671 * r + 0.71516 * g + 0.072169 * b);
  const z = root((0.019334 * r + 0.119193 * g + 0.950227 * b) / 1.08883);
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

/** @param {number} t */
function root(t) {
  return t > 0.008856 ? Math.cbrt(t) : 7.787 * t + 16 / 116;
}

/**
 * @param {[number, number, number]} one CIELAB
 * @param {[number, number, number]} two CIELAB
 * @returns {number} Delta-E 2000
 */
export function difference([l1, a1, b1], [l2, a2, b2]) {
  const degrees = Math.PI / 180;
  const mean7 = ((Math.hypot(a1, b1) + Math.hypot(a2, b2)) / 2) ** 7;
  const scale = 1 + 0.5 * (1 - Math.sqrt(mean7 / (mean7 + 25 ** 7)));
  const [c1, c2] = [Math.hypot(a1 * scale, b1), Math.hypot(a2 * scale, b2)];
  const [h1, h2] = [hue(a1 * scale, b1), hue(a2 * scale, b2)];
  const chromatic = c1 * c2 !== 0;
  let turn = chromatic ? h2 - h1 : 0;
  if (turn > Math.PI) turn -= 2 * Math.PI;
  if (turn < -Math.PI) turn += 2 * Math.PI;
  let middle = h1 + h2;
  if (chromatic) {
    if (Math.abs(h1 - h2) > Math.PI) middle += middle < 2 * Math.PI ? 2 * Math.PI : -2 * Math.PI;
    middle /= 2;
  }
  const light = (l1 + l2) / 2;
  const chroma = (c1 + c2) / 2;
  const weight =
    1 -
    0.17 * Math.cos(middle - 30 * degrees) +
    0.24 * Math.cos(2 * middle) +
    0.32 * Math.cos(3 * middle + 6 * degrees) -
    0.2 * Math.cos(4 * middle - 63 * degrees);
  const sl = 1 + (0.015 * (light - 50) ** 2) / Math.sqrt(20 + (light - 50) ** 2);
  const dl = (l2 - l1) / sl;
  const dc = (c2 - c1) / (1 + 0.045 * chroma);
  const dh = (2 * Math.sqrt(c1 * c2) * Math.sin(turn / 2)) / (1 + 0.015 * chroma * weight);
  const blue = 60 * degrees * Math.exp(-(((middle / degrees - 275) / 25) ** 2));
  const rotation = -Math.sin(blue) * 2 * Math.sqrt(chroma ** 7 / (chroma ** 7 + 25 ** 7));
  return Math.sqrt(Math.max(0, dl * dl + dc * dc + dh * dh + rotation * dc * dh));
}

/** @param {number} a @param {number} b @returns {number} from 0 to 2 pi */
function hue(a, b) {
  const angle = Math.atan2(b, a);
  return angle < 0 ? angle + 2 * Math.PI : angle;
}

/**
 * Where a picture is like the pixel at a point.
 * @param {Uint8ClampedArray} rgba
 * @param {number} width
 * @param {number} height
 * @param {{x: number, y: number}} point whole pixels, inside
 * @param {number} tolerance above 0
 * @param {boolean} connected only what hangs together with the point
 * @returns {Shape}
 */
export function wand(rgba, width, height, point, tolerance, connected) {
  const cover = new Uint16Array(width * height);
  const seed = 4 * (point.y * width + point.x);
  const wanted = lab(rgba[seed], rgba[seed + 1], rgba[seed + 2]);
  /** @type {Map<number, number>} */
  const known = new Map();
  /** @param {number} at */
  const likeness = (at) => {
    const byte = 4 * at;
    const colour = (rgba[byte] << 16) | (rgba[byte + 1] << 8) | rgba[byte + 2];
    let level = known.get(colour);
    if (level === undefined) {
      const away = difference(lab(rgba[byte], rgba[byte + 1], rgba[byte + 2]), wanted);
      level = Math.round(ONE * Math.min(1, Math.max(0, 3 - (2 * away) / tolerance)));
      known.set(colour, level);
    }
    return level;
  };
  const rect = { x: 0, y: 0, width, height };
  if (!connected) {
    for (let at = 0; at < cover.length; at++) cover[at] = likeness(at);
    return { rect, cover };
  }
  const waiting = [point.y * width + point.x];
  cover[waiting[0]] = ONE;
  for (let at = waiting.pop(); at !== undefined; at = waiting.pop()) {
    const x = at % width;
    for (const next of [x > 0 ? at - 1 : -1, x < width - 1 ? at + 1 : -1, at - width, at + width]) {
      if (next < 0 || next >= cover.length || cover[next]) continue;
      const level = likeness(next);
      if (!level) continue;
      cover[next] = level;
      waiting.push(next);
    }
  }
  return { rect, cover };
}
