// @ts-check
/** Regions: parts of the picture with a map, a prompt and settings of their own. */

import { rgbOf } from "../arithmetic/regions.js";
import { byId, icon, make, newId } from "./dom.js";
import { Fields } from "./fields.js";

/** @typedef {import("../work/desk.js").Layer} Layer */
/** @typedef {import("../types.js").Registry} Registry */
/** @typedef {import("../types.js").SettingField} SettingField */

export class Regions {
  /** @param {import("../work/desk.js").Desk} desk */
  constructor(desk) {
    this.desk = desk;
    /** @type {Registry | null} */
    this.registry = null;
    this.onchange = () => {};
    this.onsay = (/** @type {string} */ _text) => {};
    this.box = byId("regions");
    this.rows = make("ol", { className: "rows" });
    this.own = make("div", { className: "own stack" });
    /** Whose settings are shown. @type {Layer | null} */
    this.shown = null;
    this.box.replaceChildren(
      make("header", {},
        make("h2", {}, "Regions"),
        make("button", { type: "button", id: "add-region", className: "plain", title: "A part of the picture with a prompt of its own (A)", onclick: () => this.add() },
          icon("plus"), "Add")),
      this.rows, this.own);
    desk.addEventListener("layers", () => this.fill());
    desk.addEventListener("picture", () => this.fill());
    this.fill();
  }

  /** @param {Registry | null} registry */
  show(registry) {
    this.registry = registry;
    this.shown = null;
    this.fill();
  }

  add() {
    if (!this.desk.picture) return;
    this.desk.add();
    this.onsay(`${this.desk.layer.name} added. Paint where it is.`);
    this.own.querySelector("textarea")?.focus();
  }

  /** Take the one before or after in hand. @param {number} by */
  step(by) {
    const { desk } = this;
    this.choose((desk.at + by + desk.layers.length) % desk.layers.length);
  }

  /** @param {number} at */
  choose(at) {
    this.desk.choose(at);
    this.onsay(`${nameOf(this.desk.layer)} is painted on.`);
  }

  /**
   * An error that names a region by its number among those that were sent: that is in hand then.
   * @param {string} message
   * @returns {string} with the region's own name; empty where none is named
   */
  blame(message) {
    const named = /^region (\d+)(?=:| )/.exec(message);
    const { desk } = this;
    const one = named && desk.numbered[Number(named[1]) - 1];
    if (!one) return "";
    desk.choose(desk.layers.indexOf(one));
    return message.replace(named[0], one.name);
  }

  // --- the list --------------------------------------------------------------------------------

  fill() {
    const { desk } = this;
    byId("add-region").toggleAttribute("disabled", !desk.picture);
    const held = document.activeElement;
    const focus = held instanceof HTMLElement && this.rows.contains(held) ? { at: held.closest("li")?.value, act: held.dataset.act } : null;
    const some = desk.regions.length > 0;
    this.box.classList.toggle("some", some);
    this.rows.replaceChildren(...(some ? desk.layers.map((one, at) => this.#row(one, at)) : []));
    this.#fillOwn();
    if (!focus) return;
    const row = this.rows.children[Math.min(desk.layers.length - 1, focus.act === "drop" ? desk.at : focus.act?.startsWith("move") ? desk.at : focus.at ?? 0)];
    const again = /** @type {HTMLButtonElement | null | undefined} */ (row?.querySelector(`[data-act="${focus.act}"]:not(:disabled)`) ?? row?.querySelector("button"));
    again?.focus();
  }

  /** @param {Layer} one @param {number} at */
  #row(one, at) {
    const name = nameOf(one);
    const choose = make("button", {
      type: "button", className: "name", "aria-current": String(at === this.desk.at), title: `Paint on ${name}`,
      onclick: () => this.choose(at),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event, at),
    }, swatch(one), make("span", {}, name));
    choose.dataset.act = "choose";
    const row = make("li", { value: at, className: one.hidden ? "off" : "" }, choose);
    if (at === 0) return row;
    const last = this.desk.layers.length - 1;
    row.append(
      this.#button(one.hidden ? "eye-off" : "eye", one.hidden ? `Show ${name}` : `Hide ${name}: it takes no part`, "hide", () => this.#hide(one)),
      this.#button("up", `Move ${name} up`, "move-up", () => this.desk.move(at, at - 1), at === 1),
      this.#button("down", `Move ${name} down`, "move-down", () => this.desk.move(at, at + 1), at === last),
      this.#button("trash", `Delete ${name}`, "drop", () => this.#drop(at)),
    );
    return row;
  }

  /** @param {string} symbol @param {string} text @param {string} act @param {() => void} onclick @param {boolean} [disabled] */
  #button(symbol, text, act, onclick, disabled = false) {
    const button = make("button", { type: "button", className: "quiet icon", title: text, ariaLabel: text, disabled, onclick }, icon(symbol));
    button.dataset.act = act;
    return button;
  }

  /** @param {KeyboardEvent} event @param {number} at */
  #key(event, at) {
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (event.key === "Delete" && at > 0) this.#drop(at);
    else if (by && event.altKey && at > 0) this.desk.move(at, at + by);
    else if (by) {
      this.step(by);
      /** @type {HTMLElement | null} */ (this.rows.querySelector('[aria-current="true"]'))?.focus();
    } else return;
    event.preventDefault();
  }

  /** @param {Layer} one */
  #hide(one) {
    one.hidden = !one.hidden;
    this.desk.retell();
    this.onsay(`${one.name} is ${one.hidden ? "hidden: it takes no part" : "shown"}.`);
    this.onchange();
  }

  /** @param {number} at */
  #drop(at) {
    const { name } = this.desk.layers[at];
    this.desk.drop(at);
    this.onsay(`${name} deleted; undo brings it back.`);
    this.onchange();
  }

  // --- the one in hand -------------------------------------------------------------------------

  #fillOwn() {
    const one = this.desk.layer;
    const region = one !== this.desk.layers[0];
    if (this.shown === one) return; // nothing that is typed is lost
    this.shown = one;
    this.own.replaceChildren(...(region ? [this.#name(one), ...this.#fields(one)] : []));
  }

  /** @param {Layer} one */
  #name(one) {
    const id = newId();
    const input = make("input", {
      type: "text", id, value: one.name, autocomplete: "off", maxLength: 60,
      onchange: () => {
        one.name = input.value.trim() || one.name;
        input.value = one.name;
        this.desk.retell();
      },
    });
    return make("div", { className: "field" }, make("label", { htmlFor: id }, "Name"), input);
  }

  /** @param {Layer} one @returns {HTMLElement[]} what a region may say, of the registry's settings */
  #fields(one) {
    const { registry, desk } = this;
    const schema = registry?.schema?.properties?.regions ?? {};
    const form = schema.anyOf?.find((/** @type {{type: string}} */ { type }) => type === "array") ?? schema;
    const may = Object.keys(form.items?.properties ?? {});
    const known = (registry?.fields ?? []).filter(({ name }) => may.includes(name) && name !== "controls");
    const fields = new Fields({
      registry: () => registry, values: () => one.settings, unset: "As the edit's", blank: "edit's",
      set: (name, value) => {
        if (value === undefined) delete one.settings[name];
        else one.settings[name] = value;
        desk.retell();
      },
    });
    const prompt = known.filter(({ name }) => name === "prompt");
    const more = known.filter(({ name }) => name !== "prompt");
    /** @param {SettingField} field */
    const part = (field) => fields.field({ ...field, default: null, nullable: true }) ?? [];
    return [
      ...prompt.map((field) => this.#prompt(one, field)),
      make("details", {}, make("summary", {}, "Its own settings"), make("div", { className: "stack" }, ...more.flatMap(part))),
    ];
  }

  /** @param {Layer} one @param {SettingField} field */
  #prompt(one, field) {
    const id = newId();
    const input = make("textarea", {
      id, rows: 2, value: one.settings[field.name] ?? "", placeholder: "What is to be seen there; else the prompt above",
      oninput: () => {
        if (input.value) one.settings[field.name] = input.value;
        else delete one.settings[field.name];
        this.desk.retell();
      },
    });
    return make("div", { className: "field" }, make("label", { htmlFor: id }, "Prompt of this region"), input);
  }
}

/** @param {Layer | undefined} one */
export function nameOf(one) {
  return one?.name || "Everything else";
}

/** @param {Layer} one */
function swatch(one) {
  const spot = make("i", { className: one.name ? "swatch" : "swatch all", "aria-hidden": "true" });
  if (one.name) spot.style.background = `rgb(${rgbOf(one.colour).join(" ")})`;
  return spot;
}
