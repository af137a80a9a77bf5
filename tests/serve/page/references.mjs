// Answers tests/serve/test_page_arithmetic.py: reads a task from a file, writes maps beside it.
import { readFile, writeFile } from "node:fs/promises";
import { argv } from "node:process";

import { Stroke } from "../../../engine/serve/page/arithmetic/brush.js";
import { LevelMap } from "../../../engine/serve/page/arithmetic/levels.js";
import { decode, encode } from "../../../engine/serve/page/arithmetic/png.js";
import { gradient, laid, rectangle } from "../../../engine/serve/page/arithmetic/shapes.js";
import * as tools from "../../../engine/serve/page/arithmetic/tools.js";
import { wand } from "../../../engine/serve/page/arithmetic/wand.js";

const folder = argv[2];
const tasks = JSON.parse(await readFile(`${folder}/tasks.json`, "utf8"));
const map = await decode(await readFile(`${folder}/map.png`));
const rgba = new Uint8ClampedArray(await readFile(`${folder}/picture.rgba`));

/** @param {{rect: any, cover: Uint16Array}} shape */
function whole(shape, strength = 1) {
  const out = new LevelMap(map.width, map.height);
  out.put(shape.rect, laid(out, shape, strength, "set"));
  return out;
}

const make = {
  same: () => map,
  invert: () => tools.invert(map),
  grow: (radius) => tools.grow(map, radius),
  shrink: (radius) => tools.shrink(map, radius),
  feather: (width) => tools.feather(map, width),
  falloff: (width) => tools.falloff(map, width),
  gradient: (start, end) => whole(gradient(start, end, map)),
  rectangle: (one, two, strength) => whole(rectangle(one, two, map), strength),
  wand: (point, tolerance) => whole(wand(rgba, map.width, map.height, point, tolerance, false)),
  stroke: (brush, points) => {
    const out = new LevelMap(map.width, map.height);
    const stroke = new Stroke(out, brush);
    for (const point of points) stroke.to(...point);
    for (const [tile, levels] of stroke.finish()) out.put(out.tile(tile), levels);
    return out;
  },
};

for (const [at, [name, ...given]] of tasks.entries()) {
  await writeFile(`${folder}/${at}.png`, await encode(make[name](...given)));
}
