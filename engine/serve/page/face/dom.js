// @ts-check
/** Small helpers that make elements. */

/**
 * The element of an id that stands in index.html.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @returns {T}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no #${id}`);
  return /** @type {T} */ (found);
}

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} [given] `on...` are listeners, properties go by their names, all
 *   else is an attribute
 * @param {...(Node | string | null | undefined)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element) Reflect.set(element, name, value);
    else element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Keep the icons in the page, for what is shown when the server is gone. */
export async function keepIcons() {
  const text = await (await fetch("/page/icons.svg")).text();
  const all = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
  for (const symbol of all.children) symbol.id = `icon-${symbol.id}`;
  all.setAttribute("class", "hidden");
  all.setAttribute("aria-hidden", "true");
  document.body.append(all);
}

/** @param {string} name of a symbol in icons.svg @returns {SVGElement} */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  const kept = document.getElementById(`icon-${name}`) ? `#icon-${name}` : `/page/icons.svg#${name}`;
  use.setAttribute("href", kept);
  svg.append(use);
  return svg;
}

let ids = 0;
/** @returns {string} an id that nothing else has */
export function newId() {
  return `part-${++ids}`;
}

/**
 * A number by a slider and by typing.
 * @typedef {object} SliderAsked
 * @property {string} label
 * @property {number} value
 * @property {number} low
 * @property {number} high
 * @property {number} [step]
 * @property {string} [unit]
 * @property {boolean} [curved] the slider moves finer where numbers are small
 * @property {string} [kind] a class
 * @property {(value: number) => void} change
 */

/** @param {SliderAsked} asked @returns {HTMLElement & {show: (value: number) => void}} */
export function slider({ label, value, low, high, step = 1, unit = "", curved, kind = "", change }) {
  const id = newId();
  const span = high - low;
  /** @param {number} share */
  const from = (share) => low + span * (curved ? share ** 3 : share);
  /** @param {number} number */
  const to = (number) => (curved ? Math.cbrt((number - low) / span) : (number - low) / span);
  /** @param {number} number */
  const tidy = (number) => {
    const whole = Math.round(number / step) * step;
    return Math.min(high, Math.max(low, Number(whole.toFixed(4))));
  };
  const range = make("input", {
    type: "range", min: "0", max: "1", step: "any", tabIndex: -1, ariaLabel: label,
  });
  range.setAttribute("aria-hidden", "true"); // the number beside it is the same control
  const number = make("input", { type: "number", id, min: String(low), max: String(high), step: String(step) });
  /** @param {number} now */
  const show = (now) => {
    range.value = String(to(now));
    number.value = String(now);
  };
  range.addEventListener("input", () => {
    const now = tidy(from(Number(range.value)));
    number.value = String(now);
    change(now);
  });
  number.addEventListener("input", () => {
    const now = Number(number.value);
    if (number.value === "" || now < low || now > high) return;
    range.value = String(to(now));
    change(now);
  });
  number.addEventListener("change", () => {
    const now = tidy(Number(number.value));
    show(now);
    change(now);
  });
  show(value);
  const part = make(
    "div", { className: `slider ${kind}` },
    make("label", { htmlFor: id }, label),
    make("span", { className: "number" }, number, unit),
    range,
  );
  return Object.assign(part, { show });
}

/**
 * One of a few, side by side; arrows move, as in any group of radio buttons.
 * @param {object} asked
 * @param {string} asked.label
 * @param {{name: string, text: string | Node, title?: string}[]} asked.choices
 * @param {string} asked.value
 * @param {(name: string) => void} asked.change
 * @param {HTMLElement} [asked.into]
 * @returns {HTMLElement & {show: (name: string) => void}}
 */
export function segments({ label, choices, value, change, into }) {
  const group = into ?? make("div", { className: "segments" });
  group.setAttribute("role", "radiogroup");
  group.setAttribute("aria-label", label);
  const buttons = choices.map(({ name, text, title }) =>
    make("button", {
      type: "button", role: "radio", title: title ?? "", value: name,
      "aria-label": typeof text === "string" ? undefined : (title ?? name).replace(/ \(.*/, ""),
      onclick: () => pick(name),
    }, text),
  );
  /** @param {string} name */
  const show = (name) => {
    for (const button of buttons) {
      button.setAttribute("aria-checked", String(button.value === name));
      button.tabIndex = button.value === name ? 0 : -1;
    }
  };
  /** @param {string} name */
  const pick = (name) => {
    show(name);
    change(name);
  };
  group.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const at = buttons.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
    if (!by || at < 0) return;
    event.preventDefault();
    event.stopPropagation();
    const next = buttons[(at + by + buttons.length) % buttons.length];
    next.focus();
    pick(next.value);
  });
  group.replaceChildren(...buttons);
  show(value);
  return Object.assign(group, { show });
}

/**
 * @param {string} label
 * @param {boolean} value
 * @param {(value: boolean) => void} change
 * @returns {HTMLElement}
 */
export function check(label, value, change) {
  const box = make("input", { type: "checkbox", checked: value, onchange: () => change(box.checked) });
  return make("label", { className: "check" }, box, make("span", {}, label));
}

/**
 * A picture made small, cut to a square.
 * @param {CanvasImageSource & {width: number, height: number}} source
 * @param {number} [side] px
 * @returns {HTMLCanvasElement}
 */
export function thumbnail(source, side = 192) {
  const canvas = make("canvas", { width: side, height: side });
  const short = Math.min(source.width, source.height);
  const [x, y] = [(source.width - short) / 2, (source.height - short) / 2];
  canvas.getContext("2d")?.drawImage(source, x, y, short, short, 0, 0, side, side);
  return canvas;
}

/** @param {number | undefined} value @returns {string} in three digits */
export function number(value) {
  if (value === undefined || value === null) return "";
  return Number.isInteger(value) ? String(value) : value.toPrecision(3);
}
