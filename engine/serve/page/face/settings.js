// @ts-check
/** The form of an edit's settings, made from the service's registry alone. */

import { byId, make, newId, thumbnail } from "./dom.js";
import { canvasOf } from "../work/pictures.js";

/** @typedef {import("../types.js").SettingField} SettingField */
/** @typedef {import("../types.js").Named} Named */
/** @typedef {import("../types.js").Registry} Registry */

/** Said elsewhere on the page: by the prompt's field, and by the tool that extends the canvas. */
const ELSEWHERE = new Set(["prompt", "expand"]);

/** What stands above the groups, where the registry has it. */
const FIRST = ["strategy", "num_inference_steps", "seed", "num_images"];

/** Kinds whose help stands in a list of the registry, by the setting that names them. */
const LISTS = /** @type {const} */ ({
  strategy: "strategies",
  scheduler: "schedulers",
  prefill: "fills",
  colour: "colours",
  paste: "pastes",
});

export class Settings {
  /**
   * @param {import("../work/desk.js").Desk} desk
   * @param {import("../work/api.js").Api} api
   */
  constructor(desk, api) {
    this.desk = desk;
    this.api = api;
    /** @type {Registry | null} */
    this.registry = null;
    this.prompt = /** @type {HTMLTextAreaElement} */ (byId("prompt"));
    this.options = make("details", { id: "strategy-options" });
    this.prompt.addEventListener("input", () => desk.set("prompt", this.prompt.value || undefined));
    byId("edit").addEventListener("submit", (event) => event.preventDefault());
  }

  /** @param {Registry} registry */
  show(registry) {
    this.registry = registry;
    this.fill();
  }

  /** Make the form anew, with the desk's settings in it. */
  fill() {
    if (!this.registry) return;
    this.prompt.value = this.desk.settings.prompt ?? "";
    const fields = this.registry.fields.filter(({ name }) => !ELSEWHERE.has(name));
    const named = new Map(fields.map((field) => [field.name, field]));
    const first = FIRST.map((name) => named.get(name)).filter((field) => field !== undefined);
    byId("essentials").replaceChildren(
      ...first.flatMap((field) => {
        const part = this.#field(field) ?? [];
        return field.name === "strategy" ? [part, this.options] : part;
      }).flat(),
    );
    this.#fillOptions();
    /** @type {Map<string, Node[]>} */
    const groups = new Map();
    for (const field of fields) {
      if (FIRST.includes(field.name)) continue;
      const part = this.#field(field);
      if (!part) continue;
      const group = field.group ?? "More";
      groups.set(group, [...(groups.get(group) ?? []), part]);
    }
    const open = new Set(
      [...document.querySelectorAll("#settings details[open]")].map((part) => part.id),
    );
    byId("settings").replaceChildren(
      ...[...groups].map(([group, parts]) => {
        const id = `group-${group.replace(/\W+/g, "-").toLowerCase()}`;
        return make("details", { id, open: open.has(id) },
          make("summary", {}, group), make("div", { className: "stack" }, ...parts));
      }),
    );
  }

  /**
   * Say an error at the setting that it names.
   * @param {string} message
   * @returns {boolean} whether there is one
   */
  blame(message) {
    this.forgive();
    for (const part of document.querySelectorAll("[data-setting]")) {
      const name = /** @type {HTMLElement} */ (part).dataset.setting ?? "";
      if (!new RegExp(`\\b${name}\\b`).test(message)) continue;
      part.closest("details")?.setAttribute("open", "");
      const input = part.querySelector("input, select, textarea");
      const id = newId();
      part.append(make("p", { className: "error", id }, message));
      input?.setAttribute("aria-invalid", "true");
      input?.setAttribute("aria-errormessage", id);
      part.scrollIntoView({ block: "nearest" });
      return true;
    }
    return false;
  }

  /** Take back what `blame` said. */
  forgive() {
    for (const said of document.querySelectorAll(".side .error")) said.remove();
    for (const input of document.querySelectorAll(".side [aria-invalid]")) {
      input.removeAttribute("aria-invalid");
      input.removeAttribute("aria-errormessage");
    }
  }

  // --- the strategy's own ----------------------------------------------------------------------

  /** @returns {SettingField[]} options of the strategy that is chosen */
  #ownOptions() {
    const { registry, desk } = this;
    const unset = registry?.fields.find(({ name }) => name === "strategy")?.default;
    const chosen = desk.settings.strategy ?? unset;
    return registry?.strategies.find(({ name }) => name === chosen)?.options ?? [];
  }

  #fillOptions() {
    const fields = this.#ownOptions();
    this.options.hidden = !fields.length;
    this.options.replaceChildren(
      make("summary", {}, "Options of the strategy"),
      make("div", { className: "stack" }, ...fields.flatMap((field) => this.#field(field) ?? [])),
    );
  }

  /** Another strategy: options that it does not have mean nothing any more. */
  #changeStrategy() {
    const own = new Set(this.#ownOptions().map(({ name }) => name));
    const all = this.registry?.strategies.flatMap(({ options }) => options ?? []) ?? [];
    for (const { name } of all) {
      if (name in this.desk.settings && !own.has(name)) this.desk.set(name, undefined);
    }
    this.#fillOptions();
  }

  // --- one setting -----------------------------------------------------------------------------

  /** @param {SettingField} field @returns {HTMLElement | null} null for what no form can ask for */
  #field(field) {
    if (field.name === "controls") return this.#controls(field);
    const choices = this.#choices(field);
    if (choices) return this.#select(field, choices);
    if (field.type === "boolean") return this.#check(field);
    if (field.type === "integer" || field.type === "number") return this.#number(field);
    if (field.type === "string") return this.#text(field);
    return null;
  }

  /** @param {SettingField} field @returns {Named[] | null} */
  #choices(field) {
    const list = LISTS[/** @type {keyof typeof LISTS} */ (field.name)];
    const listed = list ? (this.registry?.[list] ?? []).map(named) : [];
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
    part.classList.toggle("set", field.name in this.desk.settings);
    return part;
  }

  /** @param {SettingField} field @param {any} value @param {HTMLElement} part */
  #set(field, value, part) {
    const same = JSON.stringify(value) === JSON.stringify(field.default ?? null);
    this.desk.set(field.name, value === null || same ? undefined : value);
    part.classList.toggle("set", field.name in this.desk.settings);
    part.querySelector(".error")?.remove();
    part.querySelector("[aria-invalid]")?.removeAttribute("aria-invalid");
  }

  /** @param {SettingField} field */
  #value(field) {
    return this.desk.settings[field.name] ?? field.default ?? null;
  }

  /** @param {SettingField} field @param {Named[]} choices */
  #select(field, choices) {
    const now = this.#value(field);
    const options = choices.map(({ name, needs }) =>
      make("option", { value: name, selected: name === now, disabled: Boolean(needs) }, needs ? `${name} (needs ${needs})` : name));
    if (field.default === null || field.default === undefined) {
      options.unshift(make("option", { value: "", selected: now === null }, "The model's own"));
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
      this.#set(field, select.value || null, part);
      if (field.name === "strategy") this.#changeStrategy();
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
    box.addEventListener("change", () => this.#set(field, box.checked, part));
    return part;
  }

  /** @param {SettingField} field */
  #number(field) {
    const whole = field.type === "integer";
    const input = make("input", {
      type: "number",
      value: this.desk.settings[field.name] ?? "",
      placeholder: field.default ?? "auto",
      step: whole ? "1" : "any",
      min: field.minimum ?? "",
      max: field.maximum && field.maximum < 1e15 ? field.maximum : "",
    });
    const part = this.#labelled(field, input, true);
    input.addEventListener("change", () => {
      const value = input.value === "" ? null : Number(input.value);
      this.#set(field, value, part);
    });
    return part;
  }

  /** @param {SettingField} field */
  #text(field) {
    const input = make("input", {
      type: "text", value: this.#value(field) ?? "", placeholder: field.default ?? "", autocomplete: "off",
    });
    const part = this.#labelled(field, input);
    input.addEventListener("change", () => this.#set(field, input.value || null, part));
    return part;
  }

  /** Controls, each with what its annotator sees in the picture. @param {SettingField} field */
  #controls(field) {
    // Those whose networks are on this machine come first.
    const listed = (this.registry?.controls ?? []).map(named)
      .sort((one, two) => Number(two.offline ?? true) - Number(one.offline ?? true));
    if (!listed.length) return null;
    const chosen = new Set(this.desk.settings.controls ?? []);
    const seen = make("div", { className: "annotated" });
    const boxes = listed.map(({ name, help, offline }) => {
      const told = [help, offline === false && "(needs a download)"].filter(Boolean).join(" ");
      const box = make("input", {
        type: "checkbox", checked: chosen.has(name),
        onchange: () => {
          if (box.checked) chosen.add(name);
          else chosen.delete(name);
          this.#set(field, chosen.size ? [...chosen] : null, part);
          void this.#annotate([...chosen], seen);
        },
      });
      return make("label", { className: "check" }, box,
        make("span", {}, name, make("small", { className: "help" }, ` ${told}`)));
    });
    const part = make("div", { className: "field", role: "group", ariaLabel: "Controls" },
      make("span", { className: "label" }, words(field.name)), ...boxes, seen);
    part.dataset.setting = field.name;
    if (chosen.size) void this.#annotate([...chosen], seen);
    return part;
  }

  /** @param {string[]} names @param {HTMLElement} seen */
  async #annotate(names, seen) {
    const { picture } = this.desk;
    seen.replaceChildren();
    if (!picture) return;
    for (const name of names) {
      try {
        const body = new FormData();
        body.append("picture", picture.blob, "picture");
        const answer = await this.api.fetch(`/api/controls/${encodeURIComponent(name)}/annotate`, { method: "POST", body });
        const small = thumbnail(await canvasOf(await answer.blob()));
        small.setAttribute("role", "img");
        small.setAttribute("aria-label", `What ${name} sees`);
        seen.append(small);
      } catch (error) {
        seen.append(make("p", { className: "error" }, error instanceof Error ? error.message : String(error)));
      }
    }
  }
}

/** @param {Named | string} one @returns {Named} */
function named(one) {
  return typeof one === "string" ? { name: one } : one;
}

/** @param {string | undefined} text @returns {string} with its capital and its full stop */
function sentence(text) {
  return text ? text[0].toUpperCase() + text.slice(1).replace(/\.?$/, ".") : "";
}

/** @param {string} name of a setting @returns {string} as a person says it */
export function words(name) {
  const text = name.replace(/^num_/, "").replaceAll("_", " ");
  return text[0].toUpperCase() + text.slice(1);
}
