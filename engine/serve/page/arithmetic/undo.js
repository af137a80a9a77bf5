// @ts-check
/**
 * Undo and redo by strokes, whichever map they were on. Of each stroke only the tiles that it
 * changed are kept; the oldest go when all of them together need more than the memory that they may
 * have.
 */

/** @typedef {import("./levels.js").LevelMap} LevelMap */
/** @typedef {import("./levels.js").Rect} Rect */

/**
 * Something that was done, and can be swapped with what was before it.
 * @typedef {object} Done
 * @property {LevelMap | null} map that it changed; null is none
 * @property {number} bytes that it keeps
 * @property {() => Rect[]} swap there and back; what of the map changed
 */

export class Undo {
  /** @param {number} [limit] bytes */
  constructor(limit = 256 * 2 ** 20) {
    this.limit = limit;
    /** @type {Done[]} */
    this.done = [];
    /** @type {Done[]} */
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
    if (before.size) this.note({ map, bytes: size(before), swap: () => swap(map, before) });
    return changed;
  }

  /** Remember what was done just now. @param {Done} done */
  note(done) {
    for (const entry of this.undone) this.bytes -= entry.bytes;
    this.undone = [];
    this.done.push(done);
    this.bytes += done.bytes;
    while (this.bytes > this.limit && this.done.length > 1) {
      this.bytes -= /** @type {Done} */ (this.done.shift()).bytes;
    }
  }

  /** @returns {{map: LevelMap | null, rects: Rect[]} | null} what changed; null is nothing to undo */
  undo() {
    return turn(this.done, this.undone);
  }

  /** @returns {{map: LevelMap | null, rects: Rect[]} | null} */
  redo() {
    return turn(this.undone, this.done);
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
 * @param {Done[]} from
 * @param {Done[]} to
 * @returns {{map: LevelMap | null, rects: Rect[]} | null}
 */
function turn(from, to) {
  const entry = from.pop();
  if (!entry) return null;
  const rects = entry.swap();
  to.push(entry);
  return { map: entry.map, rects };
}

/** @param {LevelMap} map @param {Map<number, Uint16Array>} tiles @returns {Rect[]} */
function swap(map, tiles) {
  const changed = [];
  for (const [tile, levels] of tiles) {
    const rect = map.tile(tile);
    tiles.set(tile, map.cut(rect));
    map.put(rect, levels);
    changed.push(rect);
  }
  return changed;
}

/** @param {Map<number, Uint16Array>} entry @returns {number} bytes */
function size(entry) {
  let bytes = 0;
  for (const levels of entry.values()) bytes += levels.byteLength;
  return bytes;
}
