// @ts-check
/** What keys do, said once: the help lists them from here. */

/** @typedef {{keys: string[], text: string}} Key */

/** @type {Key[]} */
export const KEYS = [
  { keys: ["B", "L", "R", "O", "G", "W"], text: "Brush, line, rectangle, lasso, gradient, wand" },
  { keys: ["X", "V"], text: "Extend the canvas; move the view" },
  { keys: ["A"], text: "Add a region" },
  { keys: ["PgUp", "PgDn"], text: "The region before, after" },
  { keys: ["[", "]"], text: "Smaller, larger brush" },
  { keys: ["{", "}"], text: "Softer, harder brush" },
  { keys: ["1", "…", "9", "0"], text: "Strength 10% to 100%" },
  { keys: ["Shift", "Alt"], text: "Add, subtract while you drag" },
  { keys: ["Ctrl", "Z"], text: "Undo" },
  { keys: ["Ctrl", "Shift", "Z"], text: "Redo" },
  { keys: ["Ctrl", "Enter"], text: "Render" },
  { keys: ["Esc"], text: "Cancel what runs" },
  { keys: ["N"], text: "Go on from the result" },
  { keys: ["\\"], text: "The picture before, while held" },
  { keys: ["S", "D"], text: "Before/after slider; difference" },
  { keys: ["P"], text: "Side by side" },
  { keys: ["H", "C"], text: "Heat, contours" },
  { keys: ["I"], text: "Invert the map" },
  { keys: ["+", "−", "F"], text: "Zoom in, out; fit" },
  { keys: [".", ","], text: "Turn the view" },
  { keys: ["Space"], text: "Move the view, while held" },
  { keys: ["Arrows", "Enter"], text: "Paint without a mouse (on the canvas)" },
];

/**
 * @param {Record<string, (event: KeyboardEvent) => void>} actions by key, "Ctrl+" before it where held
 * @param {(held: boolean, key: string) => void} hold of keys that act while they are down
 */
export function listen(actions, hold) {
  document.addEventListener("keydown", (event) => {
    if (typing(event)) return;
    if (event.key === " " || event.key === "\\") {
      const button = event.target instanceof HTMLElement && event.target.closest("button, summary, label");
      if (event.key === " " && button) return;
      event.preventDefault();
      hold(true, event.key);
      return;
    }
    const ctrl = event.ctrlKey || event.metaKey;
    const shift = ctrl && event.shiftKey ? "Shift+" : "";
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const action = actions[`${ctrl ? "Ctrl+" : ""}${shift}${key}`];
    if (!action || event.altKey) return;
    event.preventDefault();
    action(event);
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " " || event.key === "\\") hold(false, event.key);
  });
}

/** Whether a key belongs to a field, a dialog or a menu. @param {KeyboardEvent} event */
function typing(event) {
  if (event.defaultPrevented || document.querySelector("dialog[open]")) return true;
  if (event.key === "Escape" && document.querySelector("[popover]:popover-open")) return true; // it closes that
  const target = event.target instanceof HTMLElement ? event.target : null;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return false;
  if (target instanceof HTMLInputElement) return !["checkbox", "button"].includes(target.type);
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
}
