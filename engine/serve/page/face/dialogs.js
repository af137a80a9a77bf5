// @ts-check
/** Dialogs: keys and help, the token, strategies compared. */

import { canvasOf } from "../work/pictures.js";
import { Cancelled } from "../work/api.js";
import { regionsOf } from "../work/live.js";
import { byId, icon, make } from "./dom.js";
import { figures } from "./judge.js";
import { KEYS } from "./keys.js";

/**
 * @param {string} title
 * @param {Node[]} body
 * @param {boolean} [wide]
 * @returns {HTMLDialogElement}
 */
export function open(title, body, wide = false) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("dialog"));
  const close = make("button", { type: "button", className: "quiet icon", ariaLabel: "Close", onclick: () => dialog.close() }, icon("close"));
  const heading = make("h2", { id: "dialog-title" }, title);
  dialog.setAttribute("aria-labelledby", heading.id);
  dialog.classList.toggle("wide", wide);
  dialog.replaceChildren(make("header", {}, heading, close), make("div", { className: "body" }, ...body));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0; // where the one before was left
  return dialog;
}

export function help() {
  open("Keys", [
    make("p", {}, "Paint where the picture may change, and how strongly: 100% is repainted wholly, 0% stays as it is to the bit."),
    make("dl", { className: "keys" }, ...KEYS.map(({ keys, text }) =>
      make("div", {}, make("dt", {}, text), make("dd", {}, ...keys.map((key) => make("kbd", {}, key)))))),
  ]);
}

/** Ask for the server's token. @param {import("../work/api.js").Api} api @returns {Promise<void>} */
export function askToken(api) {
  return new Promise((resolve) => {
    const input = make("input", { type: "password", id: "token", autocomplete: "current-password", required: true });
    const form = make("form", {
      className: "field",
      onsubmit: (/** @type {Event} */ event) => {
        event.preventDefault();
        api.useToken(input.value.trim());
        dialog.close();
      },
    }, make("label", { htmlFor: "token" }, "Token"), input,
    make("span", { className: "help" }, "The server printed it when it started. It is kept until this tab is closed."),
    make("button", { className: "primary" }, "Go on"));
    const dialog = open("This server wants a token", [form]);
    dialog.addEventListener("close", () => resolve(), { once: true });
    input.focus();
  });
}

/**
 * The same edit through several strategies.
 * @param {object} given
 * @param {import("../work/api.js").Api} given.api
 * @param {import("../work/desk.js").Desk} given.desk
 * @param {import("../work/helper.js").Helper} given.helper
 * @param {import("../types.js").Named[]} given.strategies
 * @param {(result: import("../types.js").Result, blob: Blob) => void} given.take
 */
export function compare({ api, desk, helper, strategies, take }) {
  const control = new AbortController();
  const able = strategies.filter(({ needs }) => !needs);
  const chosen = new Set(able.slice(0, 3).map(({ name }) => name));
  const boxes = able.map(({ name, help: text, cost }) => {
    const box = make("input", {
      type: "checkbox", checked: chosen.has(name),
      onchange: () => (box.checked ? chosen.add(name) : chosen.delete(name)),
    });
    return make("label", { className: "check" }, box, make("span", {}, name,
      make("small", {}, [text, cost && `(${cost})`].filter(Boolean).join(" "))));
  });
  const told = make("p", { className: "hint", role: "status" });
  const results = make("div", { className: "compared" });
  const run = make("button", { type: "button", className: "primary", onclick: () => void act() }, "Compare");
  const dialog = open("Compare strategies", [make("div", { className: "choices" }, ...boxes),
    make("div", { className: "doing" }, run, told), results], true);
  dialog.addEventListener("close", () => control.abort(), { once: true });

  async function act() {
    const { picture, base: map, settings } = desk;
    if (!picture || !chosen.size) return;
    run.disabled = true;
    results.replaceChildren();
    try {
      const { strategy: _, num_images: __, ...shared } = settings;
      const regions = await regionsOf(desk, helper);
      const job = await api.post("/api/compare", {
        picture: picture.blob, strategies: [...chosen],
        map: regions.length && map.empty ? undefined : await helper.png(map),
        settings: regions.length ? { ...shared, regions } : shared,
      });
      const made = await api.follow(job, {
        signal: control.signal,
        on: ({ event, data }) => { if (event === "step") told.textContent = `Step ${data.done} of ${data.total}`; },
      });
      told.textContent = Object.entries(made.errors ?? {}).map(([name, why]) => `${name}: ${why}`).join(" ");
      results.append(...await Promise.all(made.results.map(card)));
      results.scrollIntoView({ block: "start" }); // on a small screen they are below the strategies
    } catch (error) {
      if (!(error instanceof Cancelled)) told.textContent = error instanceof Error ? error.message : String(error);
    } finally {
      run.disabled = false;
    }
  }

  /** @param {import("../types.js").Result} result */
  async function card(result) {
    const blob = await api.blob(result.url);
    const canvas = await canvasOf(blob);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Result of ${result.label}`);
    return make("figure", {}, canvas, make("figcaption", {}, result.label), figures(result.figures, result.seconds),
      make("button", { type: "button", className: "plain", onclick: () => { dialog.close(); take(result, blob); } }, "Take this one"));
  }
}
