// @ts-check
/** A setting's part of a form, made from its line in the service's registry. */

import { make, newId } from "./dom.js";

/** @typedef {import("../types.js").SettingField} SettingField */
/** @typedef {import("../types.js").Named} Named */
/** @typedef {import("../types.js").Registry} Registry */

/** Kinds whose help stands in a list of the registry, by the setting that names them. */
const LISTS = /** @type {const} */ ({
  strategy: "strategies",
  scheduler: "schedulers",
  prefill: "fills",
  colour: "colours",
  paste: "pastes",
});

export class Fields {
  /**
   * @param {object} given
   * @param {() => Registry | null} given.registry
   * @param {() => Record<string, any>} given.values those that are set
   * @param {(name: string, value: any) => void} given.set undefined is the default
   * @param {string} [given.unset] what a choice that is not made is called
   * @param {string} [given.blank] what stands in the field of a number that is not given
   */
  constructor({ registry, values, set, unset = "The model's own", blank = "auto" }) {
    this.registry = registry;
    this.values = values;
    this.put = set;
    this.unset = unset;
    this.blank = blank;
  }

  /**
   * @param {SettingField} field
   * @param {() => void} [changed]
   * @returns {HTMLElement | null} null for what no form can ask for
   */
  field(field, changed = () => {}) {
    const choices = this.#choices(field);
    if (choices) return this.#select(field, choices, changed);
    if (field.type === "boolean") return this.#check(field);
    if (field.type === "integer" || field.type === "number") return this.#number(field);
    if (field.type === "string") return this.#text(field);
    return null;
  }

  /** @param {SettingField} field @returns {Named[] | null} */
  #choices(field) {
    const list = LISTS[/** @type {keyof typeof LISTS} */ (field.name)];
    const listed = list ? (this.registry()?.[list] ?? []).map(named) : [];
    const known = new Map(listed.map((one) => [one.name, one]));
    const names = field.choices?.length ? field.choices : listed.map((one) => one.name);
    return names.length ? names.map((name) => known.get(String(name)) ?? { name: String(name) }) : null;
  }

  /**
   * @param {SettingField} field
   * @param {HTMLElement} input
   * @param {boolean} [row] label and input side by side
   * @param {HTMLElement} [help]
   */
  #labelled(field, input, row = false, help = make("span", { className: "help" }, sentence(field.help))) {
    input.id = newId();
    help.id = newId();
    input.setAttribute("aria-describedby", help.id);
    const part = make("div", { className: `field ${row ? "row" : ""}` },
      make("label", { htmlFor: input.id }, words(field.name)), input, help);
    part.dataset.setting = field.name;
    part.classList.toggle("set", field.name in this.values());
    return part;
  }

  /** @param {SettingField} field @param {any} value @param {HTMLElement} part */
  set(field, value, part) {
    const same = JSON.stringify(value) === JSON.stringify(field.default ?? null);
    this.put(field.name, value === null || same ? undefined : value);
    part.classList.toggle("set", field.name in this.values());
    part.querySelector(".error")?.remove();
    part.querySelector("[aria-invalid]")?.removeAttribute("aria-invalid");
  }

  /** @param {SettingField} field */
  #value(field) {
    return this.values()[field.name] ?? field.default ?? null;
  }

  /** @param {SettingField} field @param {Named[]} choices @param {() => void} changed */
  #select(field, choices, changed) {
    const now = this.#value(field);
    const options = choices.map(({ name, needs }) =>
      make("option", { value: name, selected: name === now, disabled: Boolean(needs) }, needs ? `${name} (needs ${needs})` : name));
    if (field.default === null || field.default === undefined) {
      options.unshift(make("option", { value: "", selected: now === null }, this.unset));
    }
    const select = make("select", {}, ...options);
    const help = make("span", { className: "help" });
    const tell = () => {
      const chosen = choices.find(({ name }) => name === select.value);
      help.textContent = [sentence(chosen?.help ?? field.help), sentence(chosen?.cost && `costs ${chosen.cost}`)].join(" ");
    };
    tell();
    const part = this.#labelled(field, select, false, help);
    select.addEventListener("change", () => {
      tell();
      this.set(field, select.value || null, part);
      changed();
    });
    return part;
  }

  /** @param {SettingField} field */
  #check(field) {
    const box = make("input", { type: "checkbox", checked: Boolean(this.#value(field)) });
    const help = make("span", { className: "help" }, sentence(field.help));
    help.id = newId();
    box.setAttribute("aria-describedby", help.id);
    const label = make("label", { className: "check" }, box, make("span", {}, words(field.name)));
    const part = make("div", { className: "field" }, label, help);
    part.dataset.setting = field.name;
    box.addEventListener("change", () => this.set(field, box.checked, part));
    return part;
  }

  /** @param {SettingField} field */
  #number(field) {
    const whole = field.type === "integer";
    const input = make("input", {
      type: "number",
      value: this.values()[field.name] ?? "",
      placeholder: field.default ?? this.blank,
      step: whole ? "1" : "any",
      min: field.minimum ?? "",
      max: field.maximum && field.maximum < 1e15 ? field.maximum : "",
    });
    const part = this.#labelled(field, input, true);
    input.addEventListener("change", () => {
      const value = input.value === "" ? null : Number(input.value);
      this.set(field, value, part);
    });
    return part;
  }

  /** @param {SettingField} field */
  #text(field) {
    const input = make("input", {
      type: "text", value: this.#value(field) ?? "", placeholder: field.default ?? "", autocomplete: "off",
    });
    const part = this.#labelled(field, input);
    input.addEventListener("change", () => this.set(field, input.value || null, part));
    return part;
  }
}

/** @param {Named | string} one @returns {Named} */
export function named(one) {
  return typeof one === "string" ? { name: one } : one;
}

/** @param {string | undefined} text @returns {string} with its capital and its full stop */
export function sentence(text) {
  return text ? text[0].toUpperCase() + text.slice(1).replace(/\.?$/, ".") : "";
}

/** @param {string} name of a setting @returns {string} as a person says it */
export function words(name) {
  const text = name.replace(/^num_/, "").replaceAll("_", " ");
  return text[0].toUpperCase() + text.slice(1);
}
