// @ts-check
/**
 * What a strength map is to the page: one 16-bit level a pixel, 0 = keep, ONE = repaint wholly.
 *
 * The page owns the levels. They are never read back from a canvas: some browsers falsify that.
 */

export const ONE = 65535;

/** Side of the squares in which changes are noted, in px. */
export const TILE = 64;

/**
 * A rectangle of whole pixels.
 * @typedef {{x: number, y: number, width: number, height: number}} Rect
 */

/** A map of levels and its size. */
export class LevelMap {
  /**
   * @param {number} width px
   * @param {number} height px
   * @param {Uint16Array} [levels] row by row; zeros where none are given
   */
  constructor(width, height, levels = new Uint16Array(width * height)) {
    if (levels.length !== width * height) throw new RangeError("levels do not fit the size");
    this.width = width;
    this.height = height;
    this.levels = levels;
    this.columns = Math.ceil(width / TILE);
    this.rows = Math.ceil(height / TILE);
  }

  /** @param {number} x @param {number} y @returns {number} level, 0 outside the map */
  at(x, y) {
    const column = Math.floor(x);
    const row = Math.floor(y);
    if (column < 0 || row < 0 || column >= this.width || row >= this.height) return 0;
    return this.levels[row * this.width + column];
  }

  /** @returns {LevelMap} */
  copy() {
    return new LevelMap(this.width, this.height, this.levels.slice());
  }

  /** @returns {boolean} whether anything is to be repainted */
  get empty() {
    return this.levels.every((level) => level === 0);
  }

  /** @param {number} tile its number, row by row @returns {Rect} */
  tile(tile) {
    const x = (tile % this.columns) * TILE;
    const y = Math.floor(tile / this.columns) * TILE;
    return {
      x,
      y,
      width: Math.min(TILE, this.width - x),
      height: Math.min(TILE, this.height - y),
    };
  }

  /** @param {Rect} rect inside the map @returns {Generator<number>} numbers of its tiles */
  *tiles(rect) {
    if (rect.width <= 0 || rect.height <= 0) return;
    const right = Math.floor((rect.x + rect.width - 1) / TILE);
    const bottom = Math.floor((rect.y + rect.height - 1) / TILE);
    for (let row = Math.floor(rect.y / TILE); row <= bottom; row++) {
      for (let column = Math.floor(rect.x / TILE); column <= right; column++) {
        yield row * this.columns + column;
      }
    }
  }

  /** @param {Rect} rect @returns {Uint16Array} its levels, row by row */
  cut(rect) {
    const cut = new Uint16Array(rect.width * rect.height);
    for (let row = 0; row < rect.height; row++) {
      const start = (rect.y + row) * this.width + rect.x;
      cut.set(this.levels.subarray(start, start + rect.width), row * rect.width);
    }
    return cut;
  }

  /** @param {Rect} rect @param {Uint16Array} levels */
  put(rect, levels) {
    for (let row = 0; row < rect.height; row++) {
      const from = row * rect.width;
      this.levels.set(
        levels.subarray(from, from + rect.width),
        (rect.y + row) * this.width + rect.x,
      );
    }
  }

  /** @returns {Rect} */
  get bounds() {
    return { x: 0, y: 0, width: this.width, height: this.height };
  }

  /** @returns {Rect | null} the smallest rectangle that holds all levels above 0 */
  get support() {
    let left = this.width;
    let right = -1;
    let top = -1;
    let bottom = -1;
    for (let y = 0, at = 0; y < this.height; y++) {
      for (let x = 0; x < this.width; x++, at++) {
        if (this.levels[at] === 0) continue;
        if (top < 0) top = y;
        bottom = y;
        if (x < left) left = x;
        if (x > right) right = x;
      }
    }
    if (right < 0) return null;
    return { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
  }
}

/**
 * What two rectangles span; null is nothing.
 * @param {Rect | null} one
 * @param {Rect | null} two
 * @returns {Rect | null}
 */
export function span(one, two) {
  if (!one || !two) return one ?? two;
  const x = Math.min(one.x, two.x);
  const y = Math.min(one.y, two.y);
  return {
    x,
    y,
    width: Math.max(one.x + one.width, two.x + two.width) - x,
    height: Math.max(one.y + one.height, two.y + two.height) - y,
  };
}

/**
 * The whole pixels that a box of any corners touches inside a map.
 * @param {number} left
 * @param {number} top
 * @param {number} right
 * @param {number} bottom
 * @param {{width: number, height: number}} size
 * @returns {Rect}
 */
export function clipped(left, top, right, bottom, size) {
  const x = Math.max(0, Math.floor(left));
  const y = Math.max(0, Math.floor(top));
  return {
    x,
    y,
    width: Math.max(0, Math.min(size.width, Math.ceil(right)) - x),
    height: Math.max(0, Math.min(size.height, Math.ceil(bottom)) - y),
  };
}

/**
 * `6 t^5 - 15 t^4 + 10 t^3`, as engine.picture.masks has it.
 * @param {number} t from 0 to 1
 */
export function smootherstep(t) {
  return t >= 1 ? 1 : t <= 0 ? 0 : t * t * t * (t * (t * 6 - 15) + 10);
}
