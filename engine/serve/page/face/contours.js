// @ts-check
/** The contours of the map over the picture, at chosen levels. */

import { contours } from "../arithmetic/heat.js";
import { span } from "../arithmetic/levels.js";
import { context } from "../work/pictures.js";

/** @typedef {import("../arithmetic/levels.js").Rect} Rect */
/** @typedef {import("../arithmetic/levels.js").LevelMap} LevelMap */
/** @typedef {import("../arithmetic/view.js").View} View */

/** Squares of at most so many a side are looked at. */
const GRID = 640;

/**
 * Lines at some levels, over what is in sight.
 * @param {HTMLCanvasElement} canvas as large as the pane, in the screen's own pixels
 * @param {View} view
 * @param {LevelMap} map
 * @param {number[]} levels from 0 to 1
 */
export function drawContours(canvas, view, map, levels) {
  const draw = context(canvas);
  draw.setTransform(1, 0, 0, 1, 0, 0);
  draw.clearRect(0, 0, canvas.width, canvas.height);
  const seen = inSight(canvas, view, map);
  if (!seen) return;
  const step = Math.max(1, Math.ceil(Math.max(seen.width, seen.height) / GRID));
  seen.x -= seen.x % step;
  seen.y -= seen.y % step;
  const ratio = window.devicePixelRatio || 1;
  const { angle, scale, x, y } = view;
  const [cos, sin] = [Math.cos(angle) * scale * ratio, Math.sin(angle) * scale * ratio];
  for (const level of levels) {
    const lines = contours(map, seen, level, step);
    draw.setTransform(cos, sin, -sin, cos, x * ratio, y * ratio);
    draw.beginPath();
    for (let at = 0; at < lines.length; at += 4) {
      draw.moveTo(lines[at], lines[at + 1]);
      draw.lineTo(lines[at + 2], lines[at + 3]);
    }
    draw.setTransform(1, 0, 0, 1, 0, 0);
    draw.lineWidth = 2.5 * ratio;
    draw.strokeStyle = "#0007";
    draw.stroke();
    draw.lineWidth = 1.2 * ratio;
    draw.strokeStyle = "#fff";
    draw.stroke();
  }
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {View} view
 * @param {LevelMap} map
 * @returns {Rect | null} what of the map is in the window
 */
function inSight({ clientWidth, clientHeight }, view, map) {
  /** @type {Rect | null} */
  let all = null;
  for (const [x, y] of [[0, 0], [clientWidth, 0], [0, clientHeight], [clientWidth, clientHeight]]) {
    const corner = view.toPicture({ x, y });
    all = span(all, { x: Math.floor(corner.x), y: Math.floor(corner.y), width: 1, height: 1 });
  }
  if (!all) return null;
  const [left, top] = [Math.max(0, all.x), Math.max(0, all.y)];
  const right = Math.min(map.width, all.x + all.width);
  const bottom = Math.min(map.height, all.y + all.height);
  if (right <= left || bottom <= top) return null;
  return { x: left, y: top, width: right - left, height: bottom - top };
}
