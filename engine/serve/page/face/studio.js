// @ts-check
/** The studio: its parts put together. */

import { Refused } from "../work/api.js";
import { copied, layer } from "../work/desk.js";
import { canvasOf, mapOf } from "../work/pictures.js";
import { usedFor } from "./candidates.js";
import { Canvas } from "./canvas.js";
import { askToken, compare, help } from "./dialogs.js";
import { byId } from "./dom.js";
import { Hand } from "./hand.js";
import { History } from "./history.js";
import { Judge } from "./judge.js";
import { Menus } from "./menus.js";
import { Opening } from "./opening.js";
import { Progress } from "./progress.js";
import { Regions } from "./regions.js";
import { Readout } from "./readout.js";
import { Settings } from "./settings.js";
import { shortcuts } from "./shortcuts.js";
import { Stage } from "./stage.js";
import { nextTheme, startTheme } from "./theme.js";
import { Tools } from "./tools.js";

/** @typedef {import("../work/keep.js").Entry} Entry */
/** @typedef {import("../work/keep.js").KeptRegion} KeptRegion */
/** @typedef {import("../work/desk.js").Layer} Layer */
/** @typedef {import("../types.js").Result} Result */

export class Studio {
  /**
   * @param {object} given
   * @param {import("../work/api.js").Api} given.api
   * @param {import("../work/desk.js").Desk} given.desk
   * @param {import("../work/helper.js").Helper} given.helper
   * @param {import("../work/live.js").Live} given.live
   * @param {import("../work/keep.js").Keep} given.keep
   */
  constructor({ api, desk, helper, live, keep }) {
    this.api = api;
    this.desk = desk;
    this.helper = helper;
    this.live = live;
    this.keep = keep;
    this.stage = new Stage(desk, live);
    this.tools = new Tools(desk, this.stage, helper);
    this.hand = new Hand(this.stage, this.tools);
    this.readout = new Readout(desk, this.stage, this.tools);
    this.canvas = new Canvas(desk, this.stage);
    this.menus = new Menus(desk, this.stage, helper, live);
    this.settings = new Settings(desk, api);
    this.regions = new Regions(desk);
    this.judge = new Judge(desk, api);
    this.history = new History(desk, keep);
    this.progress = new Progress(api, live, this.stage);
    this.opening = new Opening({ api, desk, keep, notice: (text) => this.progress.notice(text) });
    this.liveSwitch = /** @type {HTMLInputElement} */ (byId("live"));
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.saving = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} of a render that a busy server refused */
    this.retrying = undefined;
    this.#wire();
  }

  async start() {
    this.tools.made.expand = () => this.canvas.options();
    this.tools.use("brush");
    startTheme();
    await this.history.load();
    await this.#restore();
    await this.connect();
    document.body.dataset.ready = "true";
  }

  /** Learn what the service is and what it can do. */
  async connect() {
    try {
      const about = await this.api.about();
      this.progress.about = `${about.model} on ${about.device}`;
      this.canvas.multiple = about.multiple || 8;
      if (about.token_required && !this.api.token) await askToken(this.api);
      this.settings.adapters = about.ip_adapters ?? [];
      this.settings.show(await this.api.settings());
      this.regions.show(this.settings.registry);
      this.opening.welcome(about.samples ?? []);
      this.progress.there();
    } catch (error) {
      if (error instanceof Refused && error.status === 401) {
        await askToken(this.api);
        if (this.api.token) await this.connect();
        return;
      }
      this.progress.notice(error instanceof Error ? error.message : String(error));
    }
  }

  // --- wiring ----------------------------------------------------------------------------------

  #wire() {
    const { desk, live, stage, tools, hand, menus, judge, history, canvas, progress } = this;
    const stroke = () => this.#stroke();
    tools.onstroke = menus.onstroke = stroke;
    tools.onbegin = () => live.stop();
    this.regions.onchange = stroke;
    this.regions.onsay = (text) => progress.announce(text);
    menus.onerror = judge.onerror = (message) => progress.notice(message);
    stage.onview = () => this.#viewed();
    hand.onplace = (place) => this.readout.show(place);
    judge.onnext = () => void this.next();
    judge.onpick = history.ongo = (entry) => void this.go(entry);
    judge.onagain = (candidate) => this.#finishAlone(candidate);
    this.opening.onopened = (render) => render && this.liveSwitch.checked && this.render();
    desk.addEventListener("picture", () => {
      clearTimeout(this.retrying);
      byId("welcome").hidden = true;
      this.settings.fill();
      canvas.clear();
      this.#edited();
    });
    desk.addEventListener("map", () => this.#edited());
    desk.addEventListener("layers", () => this.#edited());
    desk.addEventListener("settings", () => this.#settings());
    desk.addEventListener("shown", () => this.#edited());
    live.addEventListener("began", () => {
      clearTimeout(this.retrying);
      this.settings.forgive();
    });
    live.addEventListener("finished", (event) => void this.#finished(/** @type {CustomEvent} */ (event).detail));
    live.addEventListener("failed", (event) => this.#failed(/** @type {CustomEvent} */ (event).detail));
    this.api.addEventListener("found", () => void this.#found());
    this.#buttons();
    shortcuts(this);
    document.addEventListener("visibilitychange", () => document.hidden && void this.#save());
    window.addEventListener("pagehide", () => void this.#save());
  }

  #buttons() {
    const { desk, stage } = this;
    /** @type {Record<string, () => void>} */
    const acts = {
      undo: () => this.undo(() => desk.undoOne()),
      redo: () => this.undo(() => desk.redoOne()),
      render: () => (this.live.busy ? this.live.stop() : this.render()),
      compare: () => this.#compare(),
      "zoom-in": () => stage.turn(1.5),
      "zoom-out": () => stage.turn(1 / 1.5),
      zoom: () => stage.turn(1 / stage.view.scale),
      fit: () => stage.fit(),
      turn: () => stage.turn(1, Math.PI / 12),
      help,
      theme: nextTheme,
      open: () => this.opening.ask(),
    };
    for (const [id, act] of Object.entries(acts)) byId(id).addEventListener("click", act);
    for (const kind of ["began", "stopped"]) this.live.addEventListener(kind, () => this.#edited());
  }

  // --- what happens ----------------------------------------------------------------------------

  #stroke() {
    if (this.liveSwitch.checked) this.render();
  }

  render() {
    if (!this.desk.picture) {
      this.progress.notice("Open a picture first.");
      return;
    }
    const grows = this.desk.settings.expand !== undefined;
    if (this.desk.empty && !grows) {
      // Nothing is to be repainted: the picture is its own result.
      this.live.stop();
      this.stage.showResult(null, null);
      if (this.desk.shown) this.desk.show(null);
      return;
    }
    this.stage.began();
    void this.live.render();
  }

  /** @param {() => void} act */
  undo(act) {
    this.tools.abandon();
    act();
    this.#stroke();
  }

  escape() {
    clearTimeout(this.retrying);
    this.tools.abandon();
    this.live.stop();
  }

  /**
   * @param {{made: {result: Result, blob: Blob}[], told: import("../types.js").JobTold, asked:
   *   import("../work/live.js").Made, picture: import("../work/desk.js").Picture}} done
   */
  async #finished({ made, told, asked, picture }) {
    if (!made.length) return;
    const first = await canvasOf(made[0].blob);
    this.stage.showResult(first, asked.map, asked.settings.expand ?? null);
    performance.mark("softpaint:exact");
    const map = await this.helper.png(asked.map);
    const regions = await this.#kept(asked.layers);
    const entries = made.map(({ result, blob }) => ({
      ...entryOf(result, blob, { picture, map, regions, asked }), warnings: told.warnings,
    }));
    this.judge.batch = entries;
    this.judge.candidates = told.candidates ?? [];
    for (const entry of entries) await this.history.add(entry);
    if (this.desk.picture === picture) this.desk.show(entries[0]);
  }

  /** @param {Error} error */
  #failed(error) {
    this.stage.endPreview();
    const region = error instanceof Refused && this.regions.blame(error.message);
    if (region) {
      this.progress.notice(region);
      return;
    }
    if (error instanceof Refused && error.status === 400 && this.settings.blame(error.message)) return;
    if (!(error instanceof Refused)) return;
    if (!error.retry) {
      this.progress.notice(error.message);
      return;
    }
    const seconds = Math.ceil(error.retry);
    this.progress.notice(`The server is busy: ${error.message} It is asked again in ${seconds} s.`);
    this.retrying = setTimeout(() => this.render(), 1000 * seconds);
  }

  /** The service is there again: what was painted meanwhile is rendered. */
  async #found() {
    await this.connect();
    if (this.desk.unsent && this.desk.picture && !this.desk.empty) this.#stroke();
  }

  /** Go back to a result. @param {Entry} entry */
  async go(entry) {
    this.live.stop();
    if (this.desk.picture?.key !== entry.picture) {
      const blob = await this.keep.picture(entry.picture);
      if (!blob) {
        this.progress.notice("The picture that this result started from is not kept any more.");
        return;
      }
      await this.opening.show(blob, entry.name, { key: entry.picture, kept: true });
    }
    this.desk.settings = structuredClone(entry.settings);
    this.settings.fill();
    this.live.dispatchEvent(new Event("stack"));
    const map = await mapOf(entry.map, this.desk.map);
    const regions = await this.#unkept(entry.regions ?? [], map);
    if (regions.length || this.desk.regions.length) this.desk.list([layer(map.copy()), ...regions], 0);
    else this.desk.changeAll(map);
    this.stage.showResult(await canvasOf(entry.result), map, entry.settings.expand ?? null);
    this.desk.show(entry);
  }

  /** The result that is shown becomes the picture to go on from. */
  async next() {
    const entry = this.desk.shown;
    if (!entry) return;
    this.live.stop();
    delete this.desk.settings.expand;
    await this.opening.show(entry.result, entry.name);
    this.progress.announce("The result is the picture now.");
  }

  /** Make a candidate's picture that was not finished. @param {import("../types.js").Candidate} candidate */
  #finishAlone(candidate) {
    const { desk } = this;
    for (const name of ["candidates", "keep"]) desk.set(name, undefined);
    const { seed, strategy, regions = [] } = candidate;
    /** @type {Record<string, any>} */
    const told = { seed: seed ?? undefined, strategy };
    const layers = regions.length ? this.#asShown() : [];
    // Several strategies were tried if it has another one than what is shown has there.
    if (regions.length && desk.shown && usedFor(desk.shown, candidate).strategy === strategy) delete told.strategy;
    const own = regions.length === 1 ? layers[regions[0] - 1] : undefined;
    if (own) Object.assign(own.settings, told);
    else for (const [name, value] of Object.entries(told)) desk.set(name, value);
    this.settings.fill();
    desk.retell();
    this.render();
  }

  /** Set what the shown result was chosen to have, each region its own; gives the regions. */
  #asShown() {
    const { desk } = this;
    const layers = desk.numbered;
    const { seed, used } = /** @type {Entry} */ (desk.shown);
    for (const [name, value] of Object.entries({ strategy: used.strategy, task: used.task, seed })) desk.set(name, value ?? undefined);
    for (const [at, layer] of layers.entries()) {
      const told = used.region_edits?.[at] ?? {};
      for (const name of ["strategy", "task", "seed"]) if (name in told) layer.settings[name] = told[name];
    }
    return layers;
  }

  #compare() {
    const strategies = this.settings.registry?.strategies ?? [];
    const { api, desk, helper } = this;
    if (!desk.picture || desk.empty) {
      this.progress.notice("Open a picture and paint where it may change; then strategies can be compared.");
      return;
    }
    const picture = desk.picture;
    compare({
      api, desk, helper, strategies,
      take: (result, blob) => {
        const asked = { settings: { ...desk.settings, strategy: result.label }, map: desk.base.copy(), layers: desk.regions.map(copied) };
        void this.#finished({ made: [{ result, blob }], told: { id: "", state: "", results: [] }, asked, picture });
      },
    });
  }

  #settings() {
    this.canvas.draw();
    this.#edited();
  }

  // --- what is seen of it ----------------------------------------------------------------------

  /** Something about the work has changed: show what can be done, and keep it. */
  #edited() {
    const { desk, live } = this;
    const button = (/** @type {string} */ id) => /** @type {HTMLButtonElement} */ (byId(id));
    button("undo").disabled = !desk.undo.done.length;
    button("redo").disabled = !desk.undo.undone.length;
    button("render").textContent = live.busy ? "Cancel" : "Render";
    button("render").title = live.busy ? "Cancel (Esc)" : "Render (Ctrl+Enter)";
    clearTimeout(this.saving);
    this.saving = setTimeout(() => void this.#save(), 400);
  }

  async #save() {
    clearTimeout(this.saving);
    const { picture, base, regions, at, settings, shown } = this.desk;
    if (!picture) return;
    await this.keep.keepWork({
      picture: picture.key, name: picture.name, map: await this.helper.png(base), regions: await this.#kept(regions), at,
      settings: structuredClone(settings), shown: shown?.id ?? null,
    });
  }

  /** Regions with their maps as files. @param {Layer[]} layers @returns {Promise<KeptRegion[]>} */
  #kept(layers) {
    return Promise.all(layers.map(async ({ name, colour, hidden, map, settings }) => ({
      name, colour, hidden, settings: structuredClone(settings), map: await this.helper.png(map),
    })));
  }

  /** @param {KeptRegion[]} kept @param {{width: number, height: number}} size @returns {Promise<Layer[]>} */
  #unkept(kept, size) {
    return Promise.all(kept.map(async ({ map, settings, ...told }) =>
      layer(await mapOf(map, size), { ...told, settings: structuredClone(settings) })));
  }

  /** What was on the desk before the page was left. */
  async #restore() {
    const work = await this.keep.work();
    const blob = work && (await this.keep.picture(work.picture));
    if (!work || !blob) return;
    this.desk.settings = work.settings;
    await this.opening.show(blob, work.name, { key: work.picture, map: work.map, kept: true });
    const regions = await this.#unkept(work.regions ?? [], this.desk.map);
    if (regions.length && this.desk.picture) this.desk.open(this.desk.picture, this.desk.map, regions);
    if (work.at) this.desk.choose(work.at);
    const entry = (await this.keep.entries()).find(({ id }) => id === work.shown);
    if (!entry) return;
    this.stage.showResult(await canvasOf(entry.result), await mapOf(entry.map, this.desk.map), entry.settings.expand ?? null);
    this.desk.show(entry);
  }

  #viewed() {
    byId("zoom").textContent = `${Math.round(100 * this.stage.view.scale)}%`;
    this.canvas.active = this.tools.tool.name === "canvas";
    this.canvas.clear();
    this.readout.show();
  }
}

/**
 * @param {Result} result
 * @param {Blob} blob
 * @param {{picture: import("../work/desk.js").Picture, map: Blob, regions: KeptRegion[], asked: {settings: Record<string, any>}}} made
 * @returns {Entry}
 */
function entryOf(result, blob, { picture, map, regions, asked }) {
  const { regions: _, ...settings } = asked.settings;
  return {
    when: Date.now(), picture: picture.key, name: picture.name, map, regions, settings, result: blob,
    url: result.url, label: result.label, seed: result.seed, figures: result.figures ?? {}, used: result.settings ?? {},
    width: result.width, height: result.height, seconds: result.seconds,
  };
}
