// @ts-check
/**
 * Mouse, pen, fingers and keys on the stage. One finger or the pen paints, two fingers move, turn
 * and enlarge; once a pen was seen, fingers only move.
 */

import { ONE } from "../arithmetic/levels.js";

/** @typedef {import("./tools.js").Tool} Tool */
/** @typedef {{x: number, y: number, pressure: number}} Place of the picture, in px */

export class Hand {
  /**
   * @param {import("./stage.js").Stage} stage
   * @param {import("./tools.js").Tools} tools
   */
  constructor(stage, tools) {
    this.stage = stage;
    this.tools = tools;
    /** @type {Map<number, {x: number, y: number}>} fingers and what else is down, on the screen */
    this.down = new Map();
    /** @type {number | null} the pointer that works */
    this.working = null;
    this.moving = false;
    this.penSeen = false;
    this.spaceHeld = false;
    /** Where the keyboard's brush is. @type {{x: number, y: number} | null} */
    this.spot = null;
    this.onplace = (/** @type {{x: number, y: number} | null} */ _place) => {};
    const { box, pane } = stage;
    pane.addEventListener("pointerdown", (event) => this.#press(event));
    pane.addEventListener("pointermove", (event) => this.#move(event));
    pane.addEventListener("pointerup", (event) => this.#release(event, true));
    pane.addEventListener("pointercancel", (event) => this.#release(event, false));
    pane.addEventListener("pointerleave", () => this.working === null && this.onplace(null));
    pane.addEventListener("contextmenu", (event) => event.preventDefault());
    box.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    box.addEventListener("keydown", (event) => this.#key(event));
    box.addEventListener("keyup", () => box.classList.remove("pointed"));
    box.addEventListener("blur", () => {
      box.classList.remove("pointed");
      this.#lift();
    });
  }

  /** @param {PointerEvent} event */
  #press(event) {
    if (!this.stage.desk.picture) return;
    this.stage.box.classList.add("pointed"); // a ring is for those who came by keys
    this.stage.box.focus({ preventScroll: true });
    this.stage.pane.setPointerCapture(event.pointerId);
    this.down.set(event.pointerId, this.stage.onScreen(event));
    if (event.pointerType === "pen") this.penSeen = true;
    const fingers = event.pointerType === "touch" && (this.down.size > 1 || this.penSeen);
    if (fingers || event.button === 1 || this.spaceHeld || this.tools.tool.moves) {
      if (this.working !== null) this.tools.abandon();
      this.working = null;
      this.moving = true;
      return;
    }
    if (event.button !== 0 || this.working !== null) return;
    this.working = event.pointerId;
    this.tools.begin(this.#place(event), event);
    event.preventDefault();
  }

  /** @param {PointerEvent} event */
  #move(event) {
    if (this.moving && this.down.has(event.pointerId)) {
      this.#drag(event);
      return;
    }
    const place = this.stage.onScreen(event);
    // Where a second finger finds it, should one come.
    if (this.down.has(event.pointerId)) this.down.set(event.pointerId, place);
    this.onplace(this.stage.view.toPicture(place));
    if (event.pointerId !== this.working) return;
    // All places since the last frame: a quick stroke stays round.
    const all = event.getCoalescedEvents?.() ?? [];
    for (const each of all.length ? all : [event]) this.tools.move(this.#place(each), event);
  }

  /** @param {PointerEvent} event */
  #drag(event) {
    const before = [...this.down.values()];
    this.down.set(event.pointerId, this.stage.onScreen(event));
    const after = [...this.down.values()];
    const { view } = this.stage;
    const [from, to] = [middle(before), middle(after)];
    view.move(to.x - from.x, to.y - from.y);
    if (after.length === 2) {
      const [old, now] = [between(before), between(after)];
      let turn = now.angle - old.angle;
      if (turn > Math.PI) turn -= 2 * Math.PI;
      if (turn < -Math.PI) turn += 2 * Math.PI;
      view.change(to, now.length / Math.max(1, old.length), turn);
    }
    this.stage.apply();
  }

  /** @param {PointerEvent} event @param {boolean} whole */
  #release(event, whole) {
    this.down.delete(event.pointerId);
    if (event.pointerId === this.working) {
      this.working = null;
      if (whole) this.tools.end(this.#place(event), event);
      else this.tools.abandon();
    }
    if (!this.down.size) this.moving = false;
  }

  /** @param {PointerEvent} event @returns {Place} */
  #place(event) {
    // A mouse has no pressure: the standard gives it one half.
    const pressure = event.pointerType === "pen" ? event.pressure : 1;
    return { ...this.stage.view.toPicture(this.stage.onScreen(event)), pressure };
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    if (!this.stage.desk.picture) return;
    event.preventDefault();
    const notch = event.deltaX === 0 && Math.abs(event.deltaY) >= 100;
    if (event.ctrlKey || notch) {
      const factor = Math.exp(-event.deltaY * (event.ctrlKey && !notch ? 0.01 : 0.0018));
      this.stage.view.change(this.stage.onScreen(event), factor);
    } else {
      this.stage.view.move(-event.deltaX, -event.deltaY);
    }
    this.stage.apply();
  }

  // --- painting by keys ------------------------------------------------------------------------

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (!this.stage.desk.picture || event.ctrlKey || event.metaKey || event.altKey) return;
    const by = event.shiftKey ? 1 : Math.max(1, Math.round(this.tools.brush.size / 4));
    const way = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] };
    const moved = way[/** @type {keyof typeof way} */ (event.key)];
    const { map } = this.stage.desk;
    const spot = (this.spot ??= { x: map.width / 2, y: map.height / 2 });
    if (moved) {
      spot.x = Math.min(map.width, Math.max(0, spot.x + moved[0]));
      spot.y = Math.min(map.height, Math.max(0, spot.y + moved[1]));
      if (this.keyed) this.tools.move({ ...spot, pressure: 1 }, event);
    } else if (event.key === "Enter" && this.keyed) {
      this.#lift();
    } else if (event.key === "Enter" && !this.tools.tool.moves) {
      this.keyed = true;
      this.tools.begin({ ...spot, pressure: 1 }, event);
    } else {
      return;
    }
    event.preventDefault();
    this.onplace(spot);
    const level = Math.round((100 * map.at(spot.x, spot.y)) / ONE);
    const pen = this.keyed ? "painting" : "pen up";
    const announce = document.getElementById("announce");
    if (announce) announce.textContent = `${Math.round(spot.x)}, ${Math.round(spot.y)}: ${level}%, ${pen}`;
  }

  #lift() {
    if (!this.keyed || !this.spot) return;
    this.keyed = false;
    this.tools.end({ ...this.spot, pressure: 1 }, null);
  }
}

/** @param {{x: number, y: number}[]} points */
function middle(points) {
  const sum = points.reduce((all, { x, y }) => ({ x: all.x + x, y: all.y + y }), { x: 0, y: 0 });
  return { x: sum.x / points.length, y: sum.y / points.length };
}

/** @param {{x: number, y: number}[]} points two of them */
function between([one, two]) {
  return { length: Math.hypot(two.x - one.x, two.y - one.y), angle: Math.atan2(two.y - one.y, two.x - one.x) };
}
