// @ts-check
/**
 * Undo and redo by strokes. Of each stroke only the tiles that it changed are kept; the oldest
 * strokes go when all of them together need more than the memory that they may have.
 */

/** @typedef {import("./levels.js").LevelMap} LevelMap */
/** @typedef {import("./levels.js").Rect} Rect */

export class Undo {
  /** @param {number} [limit] bytes */
  constructor(limit = 256 * 2 ** 20) {
    this.limit = limit;
    /** @type {Map<number, Uint16Array>[]} */
    this.done = [];
    /** @type {Map<number, Uint16Array>[]} */
    this.undone = [];
    this.bytes = 0;
  }

  /**
   * Change a map, so that it can be undone. Tiles that stay as they are are not kept.
   * @param {LevelMap} map
   * @param {Map<number, Uint16Array>} tiles their levels afterwards
   * @returns {Rect[]} what changed
   */
  change(map, tiles) {
    /** @type {Map<number, Uint16Array>} */
    const before = new Map();
    const changed = [];
    for (const [tile, levels] of tiles) {
      const rect = map.tile(tile);
      const old = map.cut(rect);
      if (old.every((level, at) => level === levels[at])) continue;
      before.set(tile, old);
      map.put(rect, levels);
      changed.push(rect);
    }
    if (!before.size) return [];
    for (const entry of this.undone) this.bytes -= size(entry);
    this.undone = [];
    this.done.push(before);
    this.bytes += size(before);
    while (this.bytes > this.limit && this.done.length > 1) {
      this.bytes -= size(/** @type {Map<number, Uint16Array>} */ (this.done.shift()));
    }
    return changed;
  }

  /** @param {LevelMap} map @returns {Rect[]} */
  undo(map) {
    return swap(map, this.done, this.undone);
  }

  /** @param {LevelMap} map @returns {Rect[]} */
  redo(map) {
    return swap(map, this.undone, this.done);
  }

  /** Forget everything. */
  clear() {
    this.done = [];
    this.undone = [];
    this.bytes = 0;
  }
}

/**
 * The tiles of a map that a rectangle of new levels touches, whole.
 * @param {LevelMap} map
 * @param {Rect} rect
 * @param {Uint16Array} levels of the rectangle, row by row
 * @returns {Map<number, Uint16Array>}
 */
export function tilesOf(map, rect, levels) {
  /** @type {Map<number, Uint16Array>} */
  const tiles = new Map();
  for (const number of map.tiles(rect)) {
    const tile = map.tile(number);
    const cut = map.cut(tile);
    const left = Math.max(tile.x, rect.x);
    const right = Math.min(tile.x + tile.width, rect.x + rect.width);
    const top = Math.max(tile.y, rect.y);
    const bottom = Math.min(tile.y + tile.height, rect.y + rect.height);
    for (let y = top; y < bottom; y++) {
      const from = (y - rect.y) * rect.width - rect.x;
      cut.set(levels.subarray(from + left, from + right), (y - tile.y) * tile.width + left - tile.x);
    }
    tiles.set(number, cut);
  }
  return tiles;
}

/**
 * @param {LevelMap} map
 * @param {Map<number, Uint16Array>[]} from
 * @param {Map<number, Uint16Array>[]} to
 * @returns {Rect[]}
 */
function swap(map, from, to) {
  const entry = from.pop();
  if (!entry) return [];
  const changed = [];
  for (const [tile, levels] of entry) {
    const rect = map.tile(tile);
    entry.set(tile, map.cut(rect));
    map.put(rect, levels);
    changed.push(rect);
  }
  to.push(entry);
  return changed;
}

/** @param {Map<number, Uint16Array>} entry @returns {number} bytes */
function size(entry) {
  let bytes = 0;
  for (const levels of entry.values()) bytes += levels.byteLength;
  return bytes;
}
