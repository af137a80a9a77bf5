// @ts-check
/** The page's side of `worker.js`. */

/** @typedef {import("../arithmetic/levels.js").LevelMap} LevelMap */
/** @typedef {import("../arithmetic/levels.js").Rect} Rect */

export class Helper {
  constructor() {
    this.worker = new Worker(new URL("../worker.js", import.meta.url), { type: "module" });
    /** @type {Map<number, {resolve: (made: any) => void, reject: (error: Error) => void}>} */
    this.waiting = new Map();
    this.count = 0;
    this.worker.onmessage = ({ data: { id, made, error } }) => {
      const asked = this.waiting.get(id);
      this.waiting.delete(id);
      if (error) asked?.reject(new Error(error));
      else asked?.resolve(made);
    };
  }

  /**
   * @param {string} task
   * @param {any[]} given
   * @returns {Promise<any>}
   */
  #ask(task, ...given) {
    return new Promise((resolve, reject) => {
      const id = ++this.count;
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, task, given });
    });
  }

  /**
   * @param {"grow" | "shrink" | "feather" | "falloff" | "invert"} name
   * @param {LevelMap} map
   * @param {number} amount px
   * @returns {Promise<Uint16Array>}
   */
  change(name, map, amount) {
    return this.#ask("change", name, plain(map), amount);
  }

  /**
   * @param {LevelMap} map
   * @param {8 | 16} [bits]
   * @param {Rect} [rect] what of it
   * @returns {Promise<Blob>} PNG
   */
  async png(map, bits = 16, rect) {
    const cut = rect
      ? { width: rect.width, height: rect.height, levels: map.cut(rect) }
      : plain(map);
    return new Blob([await this.#ask("encode", cut, bits)], { type: "image/png" });
  }

  /**
   * @param {Uint8ClampedArray} rgba
   * @param {number} width
   * @param {number} height
   * @param {{x: number, y: number}} point
   * @param {number} tolerance
   * @param {boolean} connected
   * @returns {Promise<Uint16Array>} cover
   */
  wand(rgba, width, height, point, tolerance, connected) {
    return this.#ask("wand", rgba, width, height, point, tolerance, connected);
  }
}

/** @param {LevelMap} map */
function plain({ width, height, levels }) {
  return { width, height, levels };
}
