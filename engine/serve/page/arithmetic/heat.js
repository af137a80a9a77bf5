// @ts-check
/** The map as colours over the picture, and its contours. */

import { ONE } from "./levels.js";

/** @typedef {import("./levels.js").LevelMap} LevelMap */
/** @typedef {import("./levels.js").Rect} Rect */

// Anchors from weak to strong: lightness falls and hue turns, so that it reads without colour too.
const ANCHORS = [
  [255, 236, 140],
  [255, 190, 84],
  [247, 124, 72],
  [214, 62, 98],
  [128, 36, 128],
];

/** RGBA words by a level's high byte. */
const COLOURS = Uint32Array.from({ length: 256 }, (_, high) => {
  const place = (high / 255) * (ANCHORS.length - 1);
  const at = Math.min(ANCHORS.length - 2, Math.floor(place));
  const [red, green, blue] = ANCHORS[at].map((value, channel) =>
    Math.round(value + (place - at) * (ANCHORS[at + 1][channel] - value)),
  );
  const alpha = Math.round(45 + 135 * (high / 255));
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
});

/** @param {number} level @returns {string} its colour, as CSS */
export function colour(level) {
  const word = COLOURS[level >> 8];
  return `rgb(${word & 255} ${(word >> 8) & 255} ${(word >> 16) & 255})`;
}

/**
 * @param {Uint16Array} levels
 * @param {Uint32Array} out RGBA words; nothing where the level is 0
 */
export function heat(levels, out) {
  for (let at = 0; at < levels.length; at++) {
    // The weakest levels are seen too: what is above 0 will change.
    out[at] = levels[at] === 0 ? 0 : COLOURS[levels[at] >> 8];
  }
}

/**
 * Lines along which a map crosses a level (marching squares over the pixels' centres).
 * @param {LevelMap} map
 * @param {Rect} rect squares whose first corner lies in it
 * @param {number} level from 0 to 1
 * @param {number} [step] px from corner to corner
 * @returns {number[]} x1, y1, x2, y2 of each piece
 */
export function contours(map, rect, level, step = 1) {
  const wanted = level * ONE - 0.5; // so that a level reached exactly counts as inside
  const { width, height, levels } = map;
  /** @type {number[]} */
  const lines = [];
  const right = Math.min(rect.x + rect.width, width - step);
  const bottom = Math.min(rect.y + rect.height, height - step);
  for (let y = rect.y; y < bottom; y += step) {
    for (let x = rect.x; x < right; x += step) {
      const at = y * width + x;
      const [a, b] = [levels[at], levels[at + step]];
      const [d, c] = [levels[at + step * width], levels[at + step * width + step]];
      const kind =
        (a > wanted ? 1 : 0) | (b > wanted ? 2 : 0) | (c > wanted ? 4 : 0) | (d > wanted ? 8 : 0);
      if (kind === 0 || kind === 15) continue;
      square(lines, kind, x + 0.5, y + 0.5, step, [a, b, c, d], wanted);
    }
  }
  return lines;
}

/** Which sides (0 top, 1 right, 2 bottom, 3 left) each kind of square joins. */
const JOINS = [
  [], [3, 0], [0, 1], [3, 1], [1, 2], [3, 0, 1, 2], [0, 2], [3, 2],
  [2, 3], [2, 0], [0, 1, 2, 3], [2, 1], [1, 3], [1, 0], [0, 3], [],
];

/**
 * @param {number[]} lines
 * @param {number} kind
 * @param {number} x
 * @param {number} y
 * @param {number} step
 * @param {[number, number, number, number]} corners clockwise from the top left
 * @param {number} wanted
 */
function square(lines, kind, x, y, step, [a, b, c, d], wanted) {
  /** @param {number} one @param {number} two */
  const part = (one, two) => (step * (wanted - one)) / (two - one);
  for (const side of JOINS[kind]) {
    if (side === 0) lines.push(x + part(a, b), y);
    else if (side === 1) lines.push(x + step, y + part(b, c));
    else if (side === 2) lines.push(x + part(d, c), y + step);
    else lines.push(x, y + part(a, d));
  }
}
