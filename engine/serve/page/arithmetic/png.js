// @ts-check
/**
 * Grey PNG files of 8 and 16 bits, written and read without a canvas, to the bit.
 * The format: W3C, "Portable Network Graphics (PNG) Specification", third edition.
 */

import { LevelMap } from "./levels.js";

/** @typedef {import("./levels.js").Rect} Rect */

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/**
 * @param {LevelMap} map
 * @param {8 | 16} [bits]
 * @param {Rect} [rect] what of it
 * @returns {Promise<Uint8Array<ArrayBuffer>>} the file
 */
export async function encode(map, bits = 16, rect = map.bounds) {
  const bytes = bits / 8;
  const stride = rect.width * bytes + 1;
  const raw = new Uint8Array(stride * rect.height);
  const above = new Uint8Array(stride - 1);
  for (let row = 0; row < rect.height; row++) {
    const start = (rect.y + row) * map.width + rect.x;
    let out = row * stride;
    raw[out++] = 2; // the filter "up": painted maps hardly change from row to row
    for (let x = 0, at = 0; x < rect.width; x++) {
      const level = map.levels[start + x];
      const high = bits === 16 ? level >> 8 : Math.round(level / 257);
      raw[out++] = high - above[at];
      above[at++] = high;
      if (bits === 8) continue;
      raw[out++] = (level & 255) - above[at];
      above[at++] = level & 255;
    }
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, rect.width);
  view.setUint32(4, rect.height);
  header.set([bits, 0, 0, 0, 0], 8);
  const data = await through(raw, new CompressionStream("deflate"));
  const parts = [
    Uint8Array.from(SIGNATURE),
    chunk("IHDR", header),
    chunk("IDAT", data),
    chunk("IEND", new Uint8Array()),
  ];
  const file = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    file.set(part, at);
    at += part.length;
  }
  return file;
}

/**
 * @param {Uint8Array} file
 * @returns {Promise<LevelMap | null>} null for what is no plain grey PNG of 8 or 16 bits
 * @throws {Error} for one that is broken
 */
export async function decode(file) {
  if (SIGNATURE.some((byte, at) => file[at] !== byte)) return null;
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const [bits, colour, , , interlaced] = file.subarray(24, 29);
  if (colour !== 0 || (bits !== 8 && bits !== 16) || interlaced) return null;
  /** @type {Uint8Array<ArrayBuffer>[]} */
  const parts = [];
  for (let at = 8; at + 12 <= file.length; ) {
    const length = view.getUint32(at);
    const name = String.fromCharCode(...file.subarray(at + 4, at + 8));
    if (name === "tRNS") return null;
    if (name === "IDAT") parts.push(file.slice(at + 8, at + 8 + length));
    at += length + 12;
  }
  const raw = await through(new Blob(parts), new DecompressionStream("deflate"));
  const bytes = bits / 8;
  const stride = width * bytes;
  if (raw.length < (stride + 1) * height) throw new Error("the PNG file is cut off");
  unfilter(raw, stride, height, bytes);
  const levels = new Uint16Array(width * height);
  for (let y = 0, at = 0; y < height; y++) {
    let from = y * (stride + 1) + 1;
    for (let x = 0; x < width; x++, from += bytes) {
      levels[at++] = bits === 16 ? (raw[from] << 8) | raw[from + 1] : raw[from] * 257;
    }
  }
  return new LevelMap(width, height, levels);
}

/**
 * @param {Uint8Array} raw rows, each after its filter's byte; changed in place
 * @param {number} stride
 * @param {number} height
 * @param {number} bytes of a pixel
 */
function unfilter(raw, stride, height, bytes) {
  for (let y = 0; y < height; y++) {
    const start = y * (stride + 1) + 1;
    const filter = raw[start - 1];
    for (let at = 0; at < stride; at++) {
      const left = at >= bytes ? raw[start + at - bytes] : 0;
      const up = y ? raw[start + at - stride - 1] : 0;
      const corner = y && at >= bytes ? raw[start + at - stride - 1 - bytes] : 0;
      raw[start + at] += predicted(filter, left, up, corner);
    }
  }
}

/**
 * @param {number} filter @param {number} left @param {number} up @param {number} corner
 * @returns {number}
 */
function predicted(filter, left, up, corner) {
  if (filter === 0) return 0;
  if (filter === 1) return left;
  if (filter === 2) return up;
  if (filter === 3) return (left + up) >> 1;
  if (filter !== 4) throw new Error(`the PNG file has the filter ${filter}, which does not exist`);
  const guess = left + up - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

/**
 * @param {string} name four letters
 * @param {Uint8Array} data
 * @returns {Uint8Array}
 */
function chunk(name, data) {
  const out = new Uint8Array(data.length + 12);
  const view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  for (let at = 0; at < 4; at++) out[4 + at] = name.charCodeAt(at);
  out.set(data, 8);
  let crc = 0xffffffff;
  for (let at = 4; at < data.length + 8; at++) crc = CRC[(crc ^ out[at]) & 255] ^ (crc >>> 8);
  view.setUint32(data.length + 8, ~crc >>> 0);
  return out;
}

/**
 * @param {Uint8Array<ArrayBuffer> | Blob} data
 * @param {CompressionStream | DecompressionStream} stream
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
async function through(data, stream) {
  const readable = new Blob([data]).stream().pipeThrough(stream);
  return new Uint8Array(await new Response(readable).arrayBuffer());
}
