// Run by tests/serve/test_page_arithmetic.py, or by hand: node --test tests/serve/page/
import assert from "node:assert/strict";
import test from "node:test";

import { Stroke, cover } from "../../../engine/serve/page/arithmetic/brush.js";
import { EventReader } from "../../../engine/serve/page/arithmetic/events.js";
import { contours, heat } from "../../../engine/serve/page/arithmetic/heat.js";
import { LevelMap, ONE, TILE } from "../../../engine/serve/page/arithmetic/levels.js";
import { decode, encode } from "../../../engine/serve/page/arithmetic/png.js";
import { COLOURS, freeColour, freeName, moved, thinned, tint } from "../../../engine/serve/page/arithmetic/regions.js";
import { laid, polygon, rectangle } from "../../../engine/serve/page/arithmetic/shapes.js";
import { Stack } from "../../../engine/serve/page/arithmetic/stack.js";
import { Undo, tilesOf } from "../../../engine/serve/page/arithmetic/undo.js";
import { View } from "../../../engine/serve/page/arithmetic/view.js";
import { wand } from "../../../engine/serve/page/arithmetic/wand.js";
import { Desk } from "../../../engine/serve/page/work/desk.js";

const BRUSH = { size: 20, strength: 0.5, hardness: 0.5, spacing: 0.1, mode: "set", pressure: "strength" };

function painted(map, brush, points, undo = new Undo()) {
  const stroke = new Stroke(map, { ...BRUSH, ...brush });
  for (const point of points) stroke.to(...point);
  undo.change(map, stroke.finish());
  return map;
}

function noise(width, height, seed = 1) {
  const map = new LevelMap(width, height);
  let state = seed;
  for (let at = 0; at < map.levels.length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    map.levels[at] = state >>> 16;
  }
  return map;
}

test("a stamp is whole inside, nothing outside, and a hard brush has one px of ramp", () => {
  assert.equal(cover(5, 10, 0.5), 1);
  assert.equal(cover(10, 10, 0.5), 0);
  assert.equal(cover(8.9, 10, 1), 1);
  assert.ok(Math.abs(cover(9.5, 10, 1) - 0.5) < 1e-12);
});

test("a stroke that crosses itself is no stronger there", () => {
  const once = painted(new LevelMap(80, 80), { mode: "add" }, [[10, 40], [70, 40]]);
  const thrice = painted(new LevelMap(80, 80), { mode: "add" }, [[10, 40], [70, 40], [10, 40], [70, 40]]);
  const most = (map) => map.levels.reduce((a, b) => Math.max(a, b), 0);
  assert.equal(most(once), Math.round(0.5 * ONE));
  assert.equal(most(thrice), most(once));
});

test("modes: set goes to the strength, add and subtract stay in range, smooth keeps what is even", () => {
  const half = () => new LevelMap(64, 64, new Uint16Array(64 * 64).fill(40000));
  const centre = (map) => map.at(32, 32);
  assert.equal(centre(painted(half(), { strength: 0.25 }, [[32, 32]])), Math.round(ONE / 4));
  assert.equal(centre(painted(half(), { mode: "add", strength: 0.9 }, [[32, 32]])), ONE);
  assert.equal(centre(painted(half(), { mode: "subtract", strength: 0.9 }, [[32, 32]])), 0);
  const even = painted(half(), { mode: "smooth", strength: 1 }, [[10, 10], [50, 50]]);
  assert.ok(even.levels.every((level) => level === 40000));
  const rough = noise(64, 64);
  const before = rough.copy();
  painted(rough, { mode: "smooth", strength: 1, hardness: 1 }, [[32, 32]]);
  const spread = (map) => {
    const levels = [...map.cut({ x: 27, y: 27, width: 10, height: 10 })];
    return Math.max(...levels) - Math.min(...levels);
  };
  assert.ok(spread(rough) < spread(before) / 3);
  assert.equal(rough.at(0, 0), before.at(0, 0));
});

test("pressure scales strength, size, both or nothing", () => {
  const area = (map) => map.levels.reduce((sum, level) => sum + (level > 0 ? 1 : 0), 0);
  const peak = (map) => map.at(40, 40);
  const at = (pressure) => painted(new LevelMap(80, 80), { pressure, strength: 1 }, [[40, 40, 0.5]]);
  assert.equal(peak(at("strength")), Math.round(ONE * Math.round(ONE / 2) / ONE));
  assert.equal(peak(at("none")), ONE);
  assert.equal(peak(at("size")), ONE);
  assert.ok(area(at("size")) < area(at("none")) / 3);
  assert.equal(area(at("both")), area(at("size")));
});

test("stamps are evenly spaced, however a path is cut into pieces", () => {
  const line = painted(new LevelMap(200, 40), { spacing: 0.3 }, [[20, 20], [180, 20]]);
  const pieces = [[20, 20]];
  for (let x = 20; x <= 180; x += 1.25) pieces.push([x, 20]);
  pieces.splice(1, 1); // the first point only once
  const cut = painted(new LevelMap(200, 40), { spacing: 0.3 }, pieces);
  for (let at = 0; at < line.levels.length; at++) {
    assert.ok(Math.abs(line.levels[at] - cut.levels[at]) <= 2);
  }
});

test("undo to the empty map, redo to the last; a new stroke forgets what was undone", () => {
  const map = new LevelMap(300, 200);
  const undo = new Undo();
  for (let at = 0; at < 12; at++) painted(map, { mode: "add" }, [[20 * at, 30], [150, 15 * at]], undo);
  const last = map.copy();
  while (undo.undo());
  assert.ok(map.empty);
  while (undo.redo());
  assert.deepEqual(map.levels, last.levels);
  undo.undo();
  painted(map, {}, [[5, 5]], undo);
  assert.equal(undo.redo(), null);
});

test("undo keeps within its memory, and drops the oldest first", () => {
  const map = new LevelMap(512, 512);
  const undo = new Undo(6 * TILE * TILE * 2);
  for (let at = 0; at < 8; at++) painted(map, { size: 8, mode: "add" }, [[64 * at + 32, 32]], undo);
  assert.equal(undo.done.length, 6);
  assert.ok(undo.bytes <= undo.limit);
  while (undo.undo());
  assert.ok(map.at(32, 32) > 0 && map.at(96, 32) > 0 && map.at(160, 32) === 0);
});

test("a PNG of 16 bits comes back to the bit, one of 8 bits to the byte", async () => {
  for (const map of [noise(37, 23), new LevelMap(1, 1), noise(1, 90)]) {
    assert.deepEqual((await decode(await encode(map)))?.levels, map.levels);
    const bytes = await decode(await encode(map, 8));
    assert.deepEqual(bytes?.levels, map.levels.map((level) => Math.round(level / 257) * 257));
  }
  const part = await decode(await encode(noise(90, 70), 16, { x: 13, y: 7, width: 20, height: 30 }));
  assert.deepEqual(part?.levels, noise(90, 70).cut({ x: 13, y: 7, width: 20, height: 30 }));
  assert.equal(await decode(new Uint8Array([255, 216, 255])), null);
  const broken = (await encode(noise(30, 30))).slice(0, 400);
  await assert.rejects(decode(broken));
});

test("a stack mixes neighbours, and is exact at its own strengths", () => {
  const words = [0xff000000, 0xff804020, 0xffffffff].map((word) => new Uint32Array(4).fill(word));
  const stack = new Stack(2, 2, [0, 0.5, 1], words);
  const out = new Uint32Array(4);
  stack.mix(Uint16Array.from([0, ONE, 0x8000, 0x4000]), { x: 0, y: 0, width: 2, height: 2 }, out);
  assert.deepEqual([...out], [0xff000000, 0xffffffff, 0xff804020, 0xff402010]);
});

test("a rectangle holds the centres of its pixels; a lasso is even-odd; both clip at the border", () => {
  const map = new LevelMap(20, 20);
  const shape = rectangle({ x: 15, y: 3 }, { x: 30, y: -4 }, map);
  for (const [tile, levels] of tilesOf(map, shape.rect, laid(map, shape, 1, "set"))) {
    map.put(map.tile(tile), levels);
  }
  assert.equal(map.levels.reduce((sum, level) => sum + (level ? 1 : 0), 0), 15);
  const square = polygon([{ x: 2, y: 2 }, { x: 8, y: 2 }, { x: 8, y: 8 }, { x: 2, y: 8 }], map);
  assert.equal(square.cover.reduce((sum, level) => sum + (level ? 1 : 0), 0), 36);
});

test("a wand takes what hangs together, or all that is alike", () => {
  const rgba = new Uint8ClampedArray(5 * 4).fill(255);
  rgba.set([0, 0, 0, 255], 8); // a black pixel between two white pairs
  const near = wand(rgba, 5, 1, { x: 0, y: 0 }, 10, true);
  const all = wand(rgba, 5, 1, { x: 0, y: 0 }, 10, false);
  assert.deepEqual([...near.cover], [ONE, ONE, 0, 0, 0]);
  assert.deepEqual([...all.cover], [ONE, ONE, 0, ONE, ONE]);
});

test("contours lie where a ramp has the level; heat shows every level above nothing", () => {
  const map = new LevelMap(21, 5);
  for (let at = 0; at < map.levels.length; at++) map.levels[at] = ((at % 21) / 20) * ONE;
  const lines = contours(map, map.bounds, 0.5);
  assert.ok(lines.length >= 16);
  for (let at = 0; at < lines.length; at += 2) assert.ok(Math.abs(lines[at] - 10.5) < 0.01);
  const out = new Uint32Array(3);
  heat(Uint16Array.from([0, 1, ONE]), out);
  assert.equal(out[0], 0);
  assert.ok(out[1] >>> 24 > 0 && out[2] >>> 24 > out[1] >>> 24);
});

test("a view holds the point that it turns and enlarges about", () => {
  const view = new View();
  view.fit({ width: 400, height: 300 }, { width: 800, height: 700 });
  const about = { x: 123, y: 456 };
  const before = view.toPicture(about);
  view.change(about, 3.7, 0.6);
  const after = view.toPicture(about);
  assert.ok(Math.hypot(after.x - before.x, after.y - before.y) < 1e-9);
  const there = view.toScreen(view.toPicture({ x: 5, y: 7 }));
  assert.ok(Math.hypot(there.x - 5, there.y - 7) < 1e-9);
});

test("a view shows all of a canvas that grows", () => {
  const view = new View();
  const picture = { width: 400, height: 300 };
  view.fit(picture, { width: 800, height: 700 }, [40, 0, 160, 100]);
  const [first, last] = [view.toScreen({ x: -40, y: 0 }), view.toScreen({ x: 560, y: 400 })];
  for (const [value, wanted] of [[first.x, 24], [last.x, 776], [first.y + last.y, 700]]) {
    assert.ok(Math.abs(value - wanted) < 1e-9);
  }
});

test("events come whole out of a stream in pieces", () => {
  const reader = new EventReader();
  assert.deepEqual(reader.read("id: 4\nevent: st"), []);
  assert.deepEqual(reader.read('ep\ndata: {"a":1}\n\n: heart\n\ndata: x\r\n'), [
    { id: "4", event: "step", data: '{"a":1}' },
  ]);
  assert.deepEqual(reader.read("data: y\r\n\r\n"), [{ id: "4", event: "message", data: "x\ny" }]);
});

test("a region's colour is as opaque as it is strong, and nothing where it is 0", () => {
  const words = new Uint32Array(3);
  tint(new Uint16Array([0, 1, ONE]), words, [1, 2, 3], 50, 200);
  assert.deepEqual([...words], [0, 0x32030201, 0xc8030201]);
});

test("names and colours are free ones, and a list's entry moves", () => {
  assert.equal(freeColour([]), 0);
  assert.equal(freeColour([0, 2, 1]), 3);
  assert.equal(freeColour([...COLOURS.keys(), 0]), 1);
  assert.equal(freeName(["Region 1", "sky", "Region 3"]), "Region 2");
  assert.deepEqual(moved(["a", "b", "c"], 2, 1), ["a", "c", "b"]);
  const map = new LevelMap(5, 3, Uint16Array.from({ length: 15 }, (_, at) => at));
  assert.deepEqual(thinned(map, 2), { width: 3, height: 2, levels: Uint16Array.of(0, 2, 4, 10, 12, 14) });
});

test("undo goes back over regions: strokes, a deletion and the order, each on its own map", () => {
  const desk = new Desk();
  desk.open({ key: "k", name: "p", blob: null, canvas: null, width: 130, height: 70 });
  const stroke = (x) => desk.change(painted(desk.map.copy(), {}, [[x, 30]], { change: (_, tiles) => (desk.tiles = tiles) }) && desk.tiles);
  stroke(20);
  desk.add();
  stroke(60);
  desk.add();
  stroke(100);
  const [base, one, two] = desk.layers;
  const full = desk.layers.map(({ map }) => map.copy());
  desk.move(2, 1);
  assert.deepEqual(desk.layers, [base, two, one]);
  desk.drop(2);
  assert.deepEqual(desk.layers, [base, two]);
  assert.equal(desk.parts.length, 2);
  two.hidden = true;
  assert.equal(desk.parts.length, 1);
  desk.undoOne();
  desk.undoOne();
  assert.deepEqual(desk.layers, [base, one, two]);
  desk.choose(0);
  desk.undoOne(); // the last stroke was on the second region: that is in hand again
  assert.equal(desk.layer, two);
  assert.ok(desk.map.empty);
  while (desk.undo.done.length) desk.undoOne();
  assert.deepEqual(desk.layers, [base]);
  assert.ok(desk.empty);
  while (desk.undo.undone.length) desk.redoOne();
  assert.deepEqual(desk.layers, [base, two]);
  assert.deepEqual(base.map.levels, full[0].levels);
  assert.deepEqual(one.map.levels, full[1].levels);
  assert.deepEqual(two.map.levels, full[2].levels);
});
