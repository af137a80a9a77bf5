// @ts-check
/** What takes longer than a frame, beside the page: changes of whole maps, and PNG files. */

import { LevelMap } from "./arithmetic/levels.js";
import { encode } from "./arithmetic/png.js";
import { falloff, feather, grow, invert, shrink } from "./arithmetic/tools.js";
import { wand } from "./arithmetic/wand.js";

/** @typedef {{width: number, height: number, levels: Uint16Array<ArrayBuffer>}} Plain */

/** @type {Record<string, (map: LevelMap, amount: number) => LevelMap>} */
const CHANGES = { grow, shrink, feather, falloff, invert };

/** @type {Record<string, (...given: any[]) => any>} */
const TASKS = {
  /** @param {string} name @param {Plain} map @param {number} amount */
  change: (name, map, amount) => CHANGES[name](plain(map), amount).levels,
  /** @param {Plain} map @param {8 | 16} bits */
  encode: (map, bits) => encode(plain(map), bits),
  wand: (/** @type {Parameters<typeof wand>} */ ...given) => wand(...given).cover,
};

/** @param {Plain} map */
const plain = (map) => new LevelMap(map.width, map.height, map.levels);

self.onmessage = async ({ data: { id, task, given } }) => {
  try {
    const made = await TASKS[task](...given);
    self.postMessage({ id, made }, { transfer: [made.buffer] });
  } catch (error) {
    self.postMessage({ id, error: String(error) });
  }
};
