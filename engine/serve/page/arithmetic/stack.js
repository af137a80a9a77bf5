// @ts-check
/**
 * An instant answer: pictures of one edit at several uniform strengths, mixed per pixel by the map.
 * It is a preview: neighbours do not know of each other's strengths in it.
 */

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
    this.size = width * height;
    // One after the other, as signed words: with those the mixing stays in whole numbers.
    this.words = new Int32Array(this.size * pictures.length);
    pictures.forEach((picture, at) => this.words.set(picture, at * this.size));
    // Per level (of 256): where the picture below it begins, and the share of the one above.
    this.below = new Uint32Array(257);
    this.share = new Uint16Array(257);
    for (let level = 0; level <= 256; level++) {
      const strength = level / 256;
      let at = 0;
      while (at < strengths.length - 2 && strengths[at + 1] <= strength) at++;
      const share = (strength - strengths[at]) / (strengths[at + 1] - strengths[at]);
      this.below[level] = at * this.size;
      this.share[level] = Math.round(256 * Math.min(1, Math.max(0, share)));
    }
  }

  /**
   * Mix a rectangle. Pixels of level 0 are the first picture's, to the bit.
   * @param {Uint16Array} levels of the rectangle, row by row
   * @param {Rect} rect
   * @param {Uint32Array} out as many words
   */
  mix(levels, rect, out) {
    const { words, below, share, size, width } = this;
    for (let row = 0, at = 0; row < rect.height; row++) {
      let from = (rect.y + row) * width + rect.x;
      for (let column = 0; column < rect.width; column++, at++, from++) {
        if (levels[at] === 0) {
          out[at] = words[from];
          continue;
        }
        const level = (levels[at] + 128) >> 8;
        const part = share[level];
        const place = below[level] + from;
        const one = words[place];
        const two = words[place + size];
        // Two channels in one word, a byte's room above each: one + (two - one) part / 256, in whole
        // numbers whose borrows cancel.
        const even = one & 0xff00ff;
        const odd = (one >>> 8) & 0xff00ff;
        out[at] =
          ((((even << 8) + Math.imul((two & 0xff00ff) - even, part)) >>> 8) & 0xff00ff) |
          (((odd << 8) + Math.imul(((two >>> 8) & 0xff00ff) - odd, part)) & 0xff00ff00);
      }
    }
  }
}
