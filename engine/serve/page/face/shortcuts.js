// @ts-check
/** What each key does in the studio; keys.js says what they are and how they are held. */

import { help } from "./dialogs.js";
import { listen } from "./keys.js";
import { TOOLS } from "./tools.js";

/** @param {import("./studio.js").Studio} studio */
export function shortcuts(studio) {
  const { tools, stage, menus, desk } = studio;
  const { brush } = tools;
  /** @type {Record<string, (event: KeyboardEvent) => void>} */
  const actions = {
    "[": () => tools.set("size", Math.min(brush.size - 1, Math.round(brush.size / 1.2))),
    "]": () => tools.set("size", Math.max(brush.size + 1, Math.round(brush.size * 1.2))),
    "{": () => tools.set("hardness", Math.round(10 * brush.hardness - 1) / 10),
    "}": () => tools.set("hardness", Math.round(10 * brush.hardness + 1) / 10),
    "Ctrl+z": () => studio.undo(() => desk.undoOne()),
    "Ctrl+Shift+z": () => studio.undo(() => desk.redoOne()),
    "Ctrl+y": () => studio.undo(() => desk.redoOne()),
    "Ctrl+o": () => studio.opening.ask(),
    "Ctrl+Enter": () => studio.render(),
    Escape: () => studio.escape(),
    a: () => studio.regions.add(),
    PageUp: () => studio.regions.step(-1),
    PageDown: () => studio.regions.step(1),
    n: () => void studio.next(),
    s: () => menus.setLook("slider"),
    d: () => menus.setLook("difference"),
    p: () => menus.setLook("side"),
    h: () => menus.nextHeat(),
    c: () => menus.toggleContours(),
    i: () => void menus.change("invert"),
    f: () => stage.fit(),
    "+": () => stage.turn(1.25),
    "=": () => stage.turn(1.25),
    "-": () => stage.turn(0.8),
    ".": () => stage.turn(1, Math.PI / 36),
    ",": () => stage.turn(1, -Math.PI / 36),
    "?": () => help(),
  };
  for (const { name, key } of TOOLS) actions[key] = () => tools.use(name);
  for (let digit = 0; digit <= 9; digit++) {
    actions[String(digit)] = () => tools.set("strength", digit === 0 ? 1 : digit / 10);
  }
  /** @type {import("./stage.js").Look} */
  let look = "result";
  listen(actions, (held, key) => {
    if (key === " ") studio.hand.spaceHeld = held;
    else if (held && stage.look !== "before") {
      look = stage.look;
      stage.setLook("before");
    } else if (!held) stage.setLook(look);
  });
}
