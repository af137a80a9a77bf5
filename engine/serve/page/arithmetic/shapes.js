// @ts-check
/**
 * Shapes painted over a map with one brush mode: rectangle, polygon (the lasso), gradient, fill.
 * Each gives the cover of every pixel; `laid` lays it over the map as a stroke is laid.
 */

import { ONE, clipped } from "./levels.js";

/** @typedef {import("./levels.js").LevelMap} LevelMap */
/** @typedef {import("./levels.js").Rect} Rect */
/** @typedef {import("./brush.js").Mode} Mode */
/** @typedef {{x: number, y: number}} Point */
/** @typedef {{rect: Rect, cover: Uint16Array}} Shape */

/**
 * Pixels whose centres lie in a box, as engine.picture.map_tools.paint has it.
 * @param {Point} one corner
 * @param {Point} two the opposite corner
 * @param {{width: number, height: number}} size
 * @returns {Shape}
 */
export function rectangle(one, two, size) {
  const [left, right] = [Math.min(one.x, two.x), Math.max(one.x, two.x)];
  const [top, bottom] = [Math.min(one.y, two.y), Math.max(one.y, two.y)];
  const rect = clipped(left - 0.5, top - 0.5, right + 0.5, bottom + 0.5, size);
  const cover = filled(rect, (x, y) => x >= left && x < right && y >= top && y < bottom);
  return { rect, cover };
}

/**
 * Pixels whose centres lie in a polygon, by the even-odd rule.
 * @param {Point[]} points its corners
 * @param {{width: number, height: number}} size
 * @returns {Shape}
 */
export function polygon(points, size) {
  const xs = points.map((point) => point.x);
  const ys = points.map((point) => point.y);
  const rect = clipped(Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys), size);
  const cover = new Uint16Array(rect.width * rect.height);
  for (let row = 0; row < rect.height; row++) {
    const y = rect.y + row + 0.5;
    /** @type {number[]} */
    const crossings = [];
    for (let at = 0; at < points.length; at++) {
      const [one, two] = [points[at], points[(at + 1) % points.length]];
      if (one.y <= y === two.y <= y) continue;
      crossings.push(one.x + ((y - one.y) / (two.y - one.y)) * (two.x - one.x));
    }
    crossings.sort((a, b) => a - b);
    for (let at = 0; at + 1 < crossings.length; at += 2) {
      const from = Math.max(0, Math.ceil(crossings[at] - 0.5) - rect.x);
      const to = Math.min(rect.width, Math.ceil(crossings[at + 1] - 0.5) - rect.x);
      if (to > from) cover.fill(ONE, row * rect.width + from, row * rect.width + to);
    }
  }
  return { rect, cover };
}

/**
 * From nothing at `start` to all at `end`, constant beyond, as engine.picture.map_tools.gradient.
 * @param {Point} start
 * @param {Point} end another point
 * @param {{width: number, height: number}} size
 * @returns {Shape}
 */
export function gradient(start, end, size) {
  const [dx, dy] = [end.x - start.x, end.y - start.y];
  const square = dx * dx + dy * dy;
  const rect = { x: 0, y: 0, width: size.width, height: size.height };
  const cover = new Uint16Array(size.width * size.height);
  for (let y = 0, at = 0; y < size.height; y++) {
    for (let x = 0; x < size.width; x++, at++) {
      const share = ((x + 0.5 - start.x) * dx + (y + 0.5 - start.y) * dy) / square;
      cover[at] = Math.round(ONE * Math.min(1, Math.max(0, share)));
    }
  }
  return { rect, cover };
}

/**
 * What a shape makes of a map.
 * @param {LevelMap} map
 * @param {Shape} shape
 * @param {number} strength from 0 to 1
 * @param {Mode} mode "smooth" is as "set": a shape has no inside to smooth
 * @returns {Uint16Array} levels of the shape's rectangle, row by row
 */
export function laid(map, { rect, cover }, strength, mode) {
  const levels = map.cut(rect);
  const peak = strength * ONE;
  for (let at = 0; at < levels.length; at++) {
    const share = cover[at] / ONE;
    if (share === 0) continue;
    const before = levels[at];
    if (mode === "add") levels[at] = Math.min(ONE, Math.round(before + peak * share));
    else if (mode === "subtract") levels[at] = Math.max(0, Math.round(before - peak * share));
    else levels[at] = Math.round(before + (peak - before) * share);
  }
  return levels;
}

/**
 * @param {Rect} rect
 * @param {(x: number, y: number) => boolean} inside of a pixel's centre
 * @returns {Uint16Array}
 */
function filled(rect, inside) {
  const cover = new Uint16Array(rect.width * rect.height);
  for (let row = 0, at = 0; row < rect.height; row++) {
    for (let column = 0; column < rect.width; column++, at++) {
      if (inside(rect.x + column + 0.5, rect.y + row + 0.5)) cover[at] = ONE;
    }
  }
  return cover;
}
