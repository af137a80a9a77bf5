// @ts-check
/** The form of an edit's settings, made from the service's registry alone. */

import { canvasOf } from "../work/pictures.js";
import { byId, make, newId, thumbnail } from "./dom.js";
import { Fields, named, words } from "./fields.js";
import { references } from "./references.js";

/** @typedef {import("../types.js").SettingField} SettingField */
/** @typedef {import("../types.js").Registry} Registry */

/** Said elsewhere on the page: by the prompt's field, and by the tool that extends the canvas. */
const ELSEWHERE = new Set(["prompt", "expand"]);

/** What stands above the groups, where the registry has it. */
const FIRST = ["strategy", "num_inference_steps", "seed", "num_images"];

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
    /** Names of the server's IP-Adapters. @type {string[]} */
    this.adapters = [];
    this.fields = new Fields({
      registry: () => this.registry, values: () => desk.settings, set: (name, value) => desk.set(name, value),
    });
    this.options = make("details", { id: "strategy-options" });
    this.prompt.addEventListener("input", () => {
      if (this.prompt.ariaInvalid) this.forgive();
      desk.set("prompt", this.prompt.value || undefined);
    });
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
    const prompt = /^prompt\b/.test(message) ? [byId("prompt").parentElement] : [];
    for (const part of [...prompt, ...document.querySelectorAll("#essentials [data-setting], #settings [data-setting]")]) {
      const name = /** @type {HTMLElement} */ (part).dataset.setting ?? "prompt";
      if (!part || !new RegExp(`\\b${name}\\b`).test(message)) continue;
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

  /** @param {SettingField} field @returns {HTMLElement | null} null for what no form can ask for */
  #field(field) {
    if (field.name === "controls") return this.#controls(field);
    if (field.name === "ip_adapter_image") return references(this, field);
    return this.fields.field(field, () => field.name === "strategy" && this.#changeStrategy());
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
          this.fields.set(field, chosen.size ? [...chosen] : null, part);
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
