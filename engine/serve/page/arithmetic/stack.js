// @ts-check
/**
 * An instant answer: pictures of one edit at several uniform strengths, mixed per pixel by the map.
 * It is a preview: neighbours do not know of each other's strengths in it.
 */

import { ONE } from "./levels.js";

/** @typedef {import("./levels.js").Rect} Rect */

/** Pictures at rising strengths, the first of them the unedited one at 0. */
export class Stack {
  /**
   * @param {number} width
   * @param {number} height
   * @param {number[]} strengths rising from 0 to 1
   * @param {Uint32Array[]} pictures RGBA, a word a pixel
   */
  constructor(width, height, strengths, pictures) {
    this.width = width;
    this.height = height;
    this.pictures = pictures;
    // Per high byte of a level: the picture below it, and the share of the one above, of 256.
    this.below = new Uint8Array(257);
    this.share = new Uint16Array(257);
    for (let high = 0; high <= 256; high++) {
      const strength = high / 256;
      let at = 0;
      while (at < strengths.length - 2 && strengths[at + 1] <= strength) at++;
      const gap = strengths[at + 1] - strengths[at];
      this.below[high] = at;
      this.share[high] = Math.round(256 * Math.min(1, Math.max(0, (strength - strengths[at]) / gap)));
    }
  }

  /**
   * Mix a rectangle. Pixels of level 0 are the first picture's, to the bit.
   * @param {Uint16Array} levels of the rectangle, row by row
   * @param {Rect} rect
   * @param {Uint32Array} out as many words
   */
  mix(levels, rect, out) {
    const { pictures, below, share, width } = this;
    const original = pictures[0];
    for (let row = 0, at = 0; row < rect.height; row++) {
      let from = (rect.y + row) * width + rect.x;
      for (let column = 0; column < rect.width; column++, at++, from++) {
        const level = levels[at];
        if (level === 0) {
          out[at] = original[from];
          continue;
        }
        const high = level === ONE ? 256 : level >> 8;
        const under = below[high];
        const part = share[high];
        const one = pictures[under][from];
        const two = pictures[under + 1][from];
        // Two channels in one word: a byte each, with a byte's room above it.
        const even = (one & 0xff00ff) * (256 - part) + (two & 0xff00ff) * part;
        const odd = ((one >>> 8) & 0xff00ff) * (256 - part) + ((two >>> 8) & 0xff00ff) * part;
        out[at] = ((even >>> 8) & 0xff00ff) | (odd & 0xff00ff00);
      }
    }
  }
}
