// @ts-check
/**
 * The picture follows the brush: a session of the service that renders anew what a stroke changed,
 * and a stack of pictures at uniform strengths for an answer in the meantime.
 */

import { ONE, span } from "../arithmetic/levels.js";
import { Stack } from "../arithmetic/stack.js";
import { Cancelled, Lost, Refused } from "./api.js";
import { copied } from "./desk.js";
import { base64, canvasOf, pixels } from "./pictures.js";

/** @typedef {import("../types.js").JobTold} JobTold */
/** @typedef {import("../types.js").Result} Result */
/** @typedef {import("./api.js").JobEvent} JobEvent */

/**
 * What a picture was asked for with; `map` and `layers` are the edit's own map and its regions as
 * they were sent.
 * @typedef {{settings: Record<string, any>, map: import("../arithmetic/levels.js").LevelMap,
 *   layers: import("./desk.js").Layer[]}} Made
 * @typedef {Made & {signal: AbortSignal}} Asked
 */

/** Settings with which a session cannot render, so that a job of its own has to. */
const ALONE = ["expand", "num_images", "candidates"];

/** Pixels of the largest picture that a stack is made of: ten of them are held. */
const STACKED = 2048 * 2048;

/**
 * Events: `began`, `event` (detail: what the job tells), `finished` (detail: what it made),
 * `failed` (detail: error), `stopped`, `stack`.
 */
export class Live extends EventTarget {
  /**
   * @param {import("./api.js").Api} api
   * @param {import("./desk.js").Desk} desk
   * @param {import("./helper.js").Helper} helper
   */
  constructor(api, desk, helper) {
    super();
    this.api = api;
    this.desk = desk;
    this.helper = helper;
    /** @type {{id: string, picture: string} | null} */
    this.session = null;
    /** Settings that the session was opened with. @type {string} */
    this.sent = "";
    /** @type {AbortController | null} */
    this.running = null;
    /** The last request that was begun. @type {Promise<any>} */
    this.turn = Promise.resolve();
    /** @type {Stack | null} */
    this.stack = null;
    /** What the stack was made of. */
    this.stacked = "";
    /** @type {AbortController | null} */
    this.stacking = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.idle = undefined;
    /** Whether a stack is made and shown; remembered. */
    this.instant = localStorage.getItem("softpaint-instant") !== "off";
    desk.addEventListener("picture", () => this.forget());
    desk.addEventListener("settings", () => this.#dropStack());
    // Of several prompts a stack knows nothing.
    desk.addEventListener("layers", () => desk.regions.length && this.#dropStack());
    api.addEventListener("lost", () => (this.session = null));
  }

  get busy() {
    return this.running !== null;
  }

  /** Another picture: the session and its stack mean nothing any more. */
  forget() {
    this.stop();
    const session = this.session;
    this.session = null;
    this.sent = "";
    this.#dropStack();
    if (session) void this.api.remove(`/api/sessions/${session.id}`).catch(() => {});
  }

  /** Cancel what runs. */
  stop() {
    const { running } = this;
    this.running = null;
    clearTimeout(this.idle);
    if (!running) return;
    running.abort();
    this.dispatchEvent(new Event("stopped"));
  }

  /** Make the picture that map and settings ask for; what ran before is cancelled. */
  async render() {
    const { picture, base: map } = this.desk;
    if (!picture) return;
    this.stop();
    const control = (this.running = new AbortController());
    performance.mark("softpaint:asked"); // examples/benchmarks/studio.py reads these marks
    this.dispatchEvent(new Event("began"));
    /** @type {Asked} */
    const asked = { settings: { prompt: "", ...this.desk.settings }, map, layers: [], signal: control.signal };
    try {
      const alone = ALONE.some((name) => asked.settings[name] !== undefined);
      const job = await this.#inTurn(() => (alone ? this.#job(asked) : this.#render(asked)));
      const told = await this.api.follow(job, {
        signal: control.signal,
        on: (detail) => this.#tell("event", control, detail),
      });
      const made = await Promise.all(
        told.results.map(async (result) => ({ result, blob: await this.api.blob(result.url) })),
      );
      this.#tell("finished", control, { told, made, asked, picture });
    } catch (error) {
      // What was sent to a server that is gone has to be sent again.
      if (error instanceof Lost) {
        this.desk.changed = this.desk.base.bounds;
        this.desk.unsent = true;
      }
      if (!(error instanceof Cancelled)) this.#tell("failed", control, error);
    } finally {
      if (this.running === control) {
        this.running = null;
        this.dispatchEvent(new Event("stopped"));
        this.rest();
      }
    }
  }

  /** @param {string} kind @param {AbortController} control @param {any} detail */
  #tell(kind, control, detail) {
    // A run that was cancelled has nothing more to say.
    if (this.running === control) this.dispatchEvent(new CustomEvent(kind, { detail }));
  }

  /**
   * One request after the other: a later stroke must not be overtaken by an earlier one.
   * @template T
   * @param {() => Promise<T>} act
   * @returns {Promise<T>}
   */
  #inTurn(act) {
    const mine = this.turn.then(act);
    this.turn = mine.catch(() => {});
    return mine;
  }

  /** @param {Asked} asked @returns {Promise<{id: string}>} */
  async #job(asked) {
    if (asked.signal.aborted) throw new Cancelled();
    await this.#takeRegions(asked);
    asked.map = this.desk.base.copy();
    return this.api.post("/api/jobs", {
      picture: this.desk.picture?.blob,
      map: asked.settings.regions && asked.map.empty ? undefined : await this.helper.png(asked.map),
      settings: asked.settings,
    });
  }

  /**
   * @param {Asked} asked
   * @param {boolean} [again] after the session was dropped
   * @returns {Promise<{id: string}>}
   */
  async #render(asked, again = false) {
    if (asked.signal.aborted) throw new Cancelled();
    await this.#takeRegions(asked);
    const session = await this.#opened(asked.settings);
    if (asked.signal.aborted) throw new Cancelled();
    const changed = this.desk.takeChanged();
    asked.map = this.desk.base.copy();
    try {
      const parts = await this.#parts(asked, changed);
      return await this.api.post(`/api/sessions/${session.id}/render`, parts);
    } catch (error) {
      this.desk.changed = span(this.desk.changed, changed); // it is sent again the next time
      const dropped = error instanceof Refused && [404, 410].includes(error.status);
      if (!dropped || again) throw error;
      this.session = null;
      return this.#render(asked, true);
    }
  }

  /** Ask with the regions of now. @param {Asked} asked */
  async #takeRegions(asked) {
    const { regions: _, ...settings } = asked.settings;
    asked.layers = this.desk.regions.map(copied);
    const regions = await regionsOf(this.desk, this.helper);
    asked.settings = regions.length ? { ...settings, regions } : settings;
  }

  /**
   * What of map and settings the session does not have. Settings of a render are that render's alone.
   * @param {Asked} asked
   * @param {import("../arithmetic/levels.js").Rect | null} changed
   */
  async #parts({ settings, map }, changed) {
    /** @type {Record<string, any>} */
    const parts = {};
    if (changed && changed.width * changed.height > 0.5 * map.width * map.height) {
      parts.map = await this.helper.png(map);
    } else if (changed) {
      parts.patch = await this.helper.png(map, 16, changed);
      parts.rect = [changed.x, changed.y, changed.width, changed.height].join(",");
    }
    if (JSON.stringify(settings) !== this.sent) parts.settings = settings;
    return parts;
  }

  /** @param {Record<string, any>} settings @returns {Promise<{id: string}>} */
  async #opened(settings) {
    const picture = /** @type {import("./desk.js").Picture} */ (this.desk.picture);
    // What is no longer set goes back to its default: that needs a session anew.
    const gone = Object.keys(JSON.parse(this.sent || "{}")).some((name) => !(name in settings));
    if (this.session?.picture === picture.key && !gone) return this.session;
    if (this.session) void this.api.remove(`/api/sessions/${this.session.id}`).catch(() => {});
    const { id } = await this.api.post("/api/sessions", { picture: picture.blob, settings });
    this.session = { id, picture: picture.key };
    this.sent = JSON.stringify(settings);
    this.desk.changed = this.desk.base.bounds;
    return this.session;
  }

  // --- the stack -----------------------------------------------------------------------------

  /** @param {boolean} on whether there are instant answers */
  useInstant(on) {
    this.instant = on;
    localStorage.setItem("softpaint-instant", on ? "on" : "off");
    if (on) this.rest();
    else this.#dropStack();
  }

  /** When nothing has happened for a while, make the stack. */
  rest() {
    clearTimeout(this.idle);
    if (!this.instant || !this.session || this.stack || this.desk.regions.length) return;
    this.idle = setTimeout(() => void this.#makeStack(), 800);
  }

  #dropStack() {
    this.stacking?.abort();
    this.stacking = null;
    this.stack = null;
    clearTimeout(this.idle);
    this.dispatchEvent(new Event("stack"));
  }

  async #makeStack() {
    const { session, stacking } = this;
    const { width, height } = this.desk.map;
    if (!session || stacking || this.stack || this.busy || width * height > STACKED) return;
    const control = (this.stacking = new AbortController());
    try {
      const job = await this.api.post("/api/stack", { session: session.id });
      const told = await this.api.follow(job, { signal: control.signal });
      const stack = await this.#stackOf(told.results);
      if (this.stacking === control) this.stack = stack;
    } catch (error) {
      // Only an answer in the meantime is missing; a lost server is told elsewhere.
      if (!(error instanceof Cancelled || error instanceof Lost || error instanceof Refused)) {
        throw error;
      }
    } finally {
      if (this.stacking === control) this.stacking = null;
      this.dispatchEvent(new Event("stack"));
    }
  }

  /** @param {Result[]} results @returns {Promise<Stack | null>} */
  async #stackOf(results) {
    const picture = this.desk.picture;
    if (!picture) return null;
    const layers = await Promise.all(
      results.map(async ({ url, label }) => ({
        strength: Number.parseFloat(label),
        canvas: await canvasOf(await this.api.blob(url)),
      })),
    );
    layers.push({ strength: 0, canvas: picture.canvas });
    const usable = layers
      .filter(({ strength, canvas }) => strength >= 0 && canvas.width === picture.width)
      .sort((one, two) => one.strength - two.strength)
      .filter(({ strength }, at, all) => !at || strength > all[at - 1].strength);
    if (usable.length < 2) return null;
    return new Stack(
      picture.width,
      picture.height,
      usable.map(({ strength }) => strength),
      usable.map(({ canvas }) => new Uint32Array(pixels(canvas).buffer)),
    );
  }
}

/** Maps as they were sent, by layer. @type {WeakMap<import("./desk.js").Layer, {version: number, text: string}>} */
const SENT = new WeakMap();

/**
 * The regions that take part, as the service takes them.
 * @param {import("./desk.js").Desk} desk
 * @param {import("./helper.js").Helper} helper
 * @returns {Promise<Record<string, any>[]>}
 */
export async function regionsOf(desk, helper) {
  return Promise.all(desk.numbered.map(async (one) => {
    let sent = SENT.get(one);
    if (sent?.version !== one.version) {
      sent = { version: one.version, text: await base64(await helper.png(one.map)) };
      SENT.set(one, sent);
    }
    return { map: sent.text, ...one.settings };
  }));
}

/** @param {number} level @returns {string} in percent */
export function percent(level) {
  return `${Math.round((100 * level) / ONE)}%`;
}
