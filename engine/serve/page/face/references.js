// @ts-check
/** Reference pictures, for a server that has an IP-Adapter: each with its weight. */

import { base64, canvasOf } from "../work/pictures.js";
import { icon, make, slider, thumbnail } from "./dom.js";
import { words } from "./fields.js";

/** Side in px above which a reference is made smaller: adapters look at about 224. */
const LARGEST = 512;

/**
 * @param {import("./settings.js").Settings} settings
 * @param {import("../types.js").SettingField} field
 * @returns {HTMLElement | null} null where the server has no adapter
 */
export function references(settings, field) {
  const { adapters, desk, fields } = settings;
  if (!adapters.length) return null;
  /** @type {{image: string, scale: number, adapter: string}[]} */
  let chosen = structuredClone(desk.settings[field.name] ?? []);
  const shown = make("div", { className: "references" });
  const told = make("p", { className: "error", hidden: true });
  const file = make("input", { type: "file", accept: "image/*", className: "hidden", tabIndex: -1, ariaLabel: "Reference picture" });
  const buttons = adapters.map((adapter) => make("button", {
    type: "button", className: "plain",
    onclick: () => {
      file.dataset.adapter = adapter;
      file.click();
    },
  }, icon("plus"), adapters.length > 1 ? `Picture for ${adapter}` : "Add a picture"));
  const part = make("div", { className: "field", role: "group", ariaLabel: "Reference pictures" },
    make("span", { className: "label" }, "Reference pictures"), shown,
    make("div", { className: "row" }, ...buttons), file, told,
    make("span", { className: "help" }, `What ${adapters.join(", ")} reads: the edit takes after them.`));
  part.dataset.setting = field.name;

  function keep() {
    fields.set(field, chosen.length ? structuredClone(chosen) : null, part);
  }

  async function show() {
    shown.replaceChildren(...await Promise.all(chosen.map(async (one, at) => {
      const small = thumbnail(await canvasOf(blobOf(one.image)));
      small.setAttribute("role", "img");
      small.setAttribute("aria-label", `${words("reference")} ${at + 1}, for ${one.adapter}`);
      return make("div", { className: "reference" }, small,
        slider({
          label: "Weight", value: Math.round(100 * one.scale), low: 0, high: 200, unit: "%",
          change: (scale) => { one.scale = scale / 100; keep(); },
        }),
        make("button", {
          type: "button", className: "quiet icon", title: "Remove", ariaLabel: `Remove reference ${at + 1}`,
          onclick: () => { chosen = chosen.filter((other) => other !== one); keep(); void show(); },
        }, icon("close")));
    })));
  }

  file.addEventListener("change", async () => {
    const [given] = file.files ?? [];
    const adapter = file.dataset.adapter ?? adapters[0];
    file.value = "";
    told.hidden = true;
    if (!given) return;
    try {
      chosen.push({ image: await base64(await reduced(given)), scale: 1, adapter });
      keep();
      await show();
    } catch (error) {
      told.textContent = error instanceof Error ? error.message : String(error);
      told.hidden = false;
    }
  });
  void show();
  return part;
}

/** @param {Blob} blob @returns {Promise<Blob>} no larger than an adapter has use for */
async function reduced(blob) {
  const canvas = await canvasOf(blob);
  const side = Math.max(canvas.width, canvas.height);
  if (side <= LARGEST) return blob;
  const small = thumbnail(canvas, LARGEST);
  return new Promise((resolve) => small.toBlob((made) => resolve(made ?? blob), "image/png"));
}

/** @param {string} text base64 @returns {Blob} */
function blobOf(text) {
  return new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]);
}
