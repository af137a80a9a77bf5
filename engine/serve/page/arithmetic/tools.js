// @ts-check
/**
 * What changes a whole map. Each means what the tool of that name in engine/picture/map_tools.py
 * means, and takes and returns maps without changing one in place. Lengths are in px.
 */

import { LevelMap, ONE, smootherstep } from "./levels.js";

/** @typedef {import("./levels.js").Rect} Rect */

/** @param {LevelMap} map @returns {LevelMap} */
export function invert(map) {
  return new LevelMap(map.width, map.height, map.levels.map((level) => ONE - level));
}

/** Spread every level outward: a disc's maximum. @param {LevelMap} map @param {number} radius */
export function grow(map, radius) {
  return extremes(map, radius, false);
}

/**
 * Take so much off every edge: a disc's minimum. The picture's border is no edge.
 * @param {LevelMap} map
 * @param {number} radius
 */
export function shrink(map, radius) {
  return invert(extremes(invert(map), radius, true));
}

/**
 * A disc's maximum, as the maximum over its rows; of each row by van Herk's running maximum.
 * @param {LevelMap} map
 * @param {number} radius
 * @param {boolean} everywhere whether levels above 0 may be anywhere (they are, where inverted)
 * @returns {LevelMap}
 */
function extremes(map, radius, everywhere) {
  const reach = Math.ceil(radius);
  if (reach <= 0) return map.copy();
  const { width, height } = map;
  const out = new Uint16Array(width * height);
  const support = everywhere ? map.bounds : map.support;
  if (!support) return new LevelMap(width, height, out);
  const first = Math.max(0, support.y - reach);
  const last = Math.min(height - 1, support.y + support.height - 1 + reach);
  const line = new Uint16Array(width);
  const prefix = new Uint16Array(width + 2 * reach + 1);
  const suffix = new Uint16Array(width + 2 * reach + 1);
  for (let half = -1, dy = reach; dy >= 0; dy--) {
    const square = radius * radius - dy * dy;
    if (square < 0) continue;
    half = Math.floor(Math.sqrt(square));
    for (let y = support.y; y < support.y + support.height; y++) {
      rowMaximum(map.levels, y * width, width, half, prefix, suffix, line);
      for (const target of dy ? [y - dy, y + dy] : [y]) {
        if (target < first || target > last) continue;
        for (let x = 0, at = target * width; x < width; x++, at++) {
          if (line[x] > out[at]) out[at] = line[x];
        }
      }
    }
  }
  return new LevelMap(width, height, out);
}

/**
 * @param {Uint16Array} levels
 * @param {number} start of the row
 * @param {number} width
 * @param {number} half of the window, which is 2 half + 1 wide
 * @param {Uint16Array} prefix
 * @param {Uint16Array} suffix
 * @param {Uint16Array} out
 */
function rowMaximum(levels, start, width, half, prefix, suffix, out) {
  const window = 2 * half + 1;
  const length = width + 2 * half;
  for (let at = 0; at < length; at++) {
    const inside = at >= half && at < half + width;
    const value = inside ? levels[start + at - half] : 0;
    prefix[at] = at % window === 0 ? value : Math.max(prefix[at - 1], value);
  }
  for (let at = length - 1; at >= 0; at--) {
    const inside = at >= half && at < half + width;
    const value = inside ? levels[start + at - half] : 0;
    const ends = at === length - 1 || (at + 1) % window === 0;
    suffix[at] = ends ? value : Math.max(suffix[at + 1], value);
  }
  for (let x = 0; x < width; x++) out[x] = Math.max(suffix[x], prefix[x + window - 1]);
}

/**
 * Soften edges over `width` px: a Gaussian whose ramp from 2% to 98% is that wide.
 * @param {LevelMap} map
 * @param {number} width
 * @returns {LevelMap}
 */
export function feather(map, width) {
  if (width <= 0) return map.copy();
  const sigma = Math.max(width / 4.1, 1e-3); // as the engine: 2% lie below -2.05 sigma
  return new LevelMap(map.width, map.height, blurred(map, sigma, map.bounds));
}

/**
 * A rectangle of the map under a Gaussian; beyond the border its outermost levels go on. The
 * kernel ends where OpenCV's does for floats.
 * @param {LevelMap} map
 * @param {number} sigma
 * @param {Rect} rect
 * @returns {Uint16Array}
 */
export function blurred(map, sigma, rect) {
  const reach = Math.max(1, Math.floor((Math.round(sigma * 8 + 1) | 1) / 2));
  const kernel = new Float64Array(reach + 1);
  let sum = 0;
  for (let at = 0; at <= reach; at++) {
    kernel[at] = Math.exp(-(at * at) / (2 * sigma * sigma));
    sum += at ? 2 * kernel[at] : kernel[at];
  }
  for (let at = 0; at <= reach; at++) kernel[at] /= sum;
  const { width, height } = map;
  const rows = rect.height + 2 * reach;
  const across = new Float32Array(rect.width * rows);
  const line = new Float32Array(rect.width + 2 * reach);
  for (let row = 0; row < rows; row++) {
    const y = Math.min(Math.max(rect.y - reach + row, 0), height - 1);
    for (let at = 0; at < line.length; at++) {
      const x = Math.min(Math.max(rect.x - reach + at, 0), width - 1);
      line[at] = map.levels[y * width + x];
    }
    for (let x = 0; x < rect.width; x++) {
      let total = kernel[0] * line[x + reach];
      for (let at = 1; at <= reach; at++) {
        total += kernel[at] * (line[x + reach - at] + line[x + reach + at]);
      }
      across[row * rect.width + x] = total;
    }
  }
  const out = new Uint16Array(rect.width * rect.height);
  const column = new Float64Array(rect.width);
  for (let y = 0; y < rect.height; y++) {
    column.fill(0);
    for (let at = -reach; at <= reach; at++) {
      const weight = kernel[Math.abs(at)];
      const start = (y + reach + at) * rect.width;
      for (let x = 0; x < rect.width; x++) column[x] += weight * across[start + x];
    }
    for (let x = 0; x < rect.width; x++) {
      out[y * rect.width + x] = Math.min(ONE, Math.max(0, Math.round(column[x])));
    }
  }
  return out;
}

/**
 * ONE where the map is above 0, falling to 0 over exactly `width` px around it, by a smootherstep
 * of the distance: an edit that fades from the edges outward.
 * @param {LevelMap} map
 * @param {number} width
 * @returns {LevelMap}
 */
export function falloff(map, width) {
  const out = new Uint16Array(map.levels.length);
  const support = map.support;
  if (support && width > 0) {
    const squares = squaredDistance(map);
    for (let at = 0; at < out.length; at++) {
      out[at] = Math.round(ONE * smootherstep(1 - Math.sqrt(squares[at]) / width));
    }
  } else {
    for (let at = 0; at < out.length; at++) out[at] = map.levels[at] > 0 ? ONE : 0;
  }
  return new LevelMap(map.width, map.height, out);
}

/**
 * The squared distance of every pixel to the nearest one above 0 (Felzenszwalb and Huttenlocher,
 * "Distance Transforms of Sampled Functions", 2012).
 * @param {LevelMap} map with some level above 0
 * @returns {Float64Array}
 */
export function squaredDistance(map) {
  const { width, height, levels } = map;
  const far = (width + height) ** 2;
  const squares = new Float64Array(width * height);
  const longest = Math.max(width, height);
  const line = new Float64Array(longest);
  const hull = new Int32Array(longest);
  const ends = new Float64Array(longest + 1);
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) line[y] = levels[y * width + x] > 0 ? 0 : far;
    lowerEnvelope(line, height, hull, ends, (y, value) => (squares[y * width + x] = value));
  }
  for (let y = 0; y < height; y++) {
    const start = y * width;
    for (let x = 0; x < width; x++) line[x] = squares[start + x];
    lowerEnvelope(line, width, hull, ends, (x, value) => (squares[start + x] = value));
  }
  return squares;
}

/**
 * @param {Float64Array} line
 * @param {number} length
 * @param {Int32Array} hull
 * @param {Float64Array} ends
 * @param {(at: number, value: number) => void} put
 */
function lowerEnvelope(line, length, hull, ends, put) {
  let last = 0;
  hull[0] = 0;
  ends[0] = -Infinity;
  ends[1] = Infinity;
  for (let at = 1; at < length; at++) {
    let cross = 0;
    for (;;) {
      const before = hull[last];
      cross = (line[at] + at * at - line[before] - before * before) / (2 * (at - before));
      if (cross > ends[last]) break;
      last--;
    }
    last++;
    hull[last] = at;
    ends[last] = cross;
    ends[last + 1] = Infinity;
  }
  for (let at = 0, piece = 0; at < length; at++) {
    while (ends[piece + 1] < at) piece++;
    const away = at - hull[piece];
    put(at, away * away + line[hull[piece]]);
  }
}
