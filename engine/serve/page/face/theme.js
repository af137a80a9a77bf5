// @ts-check
/** Light, dark, or as the system is; remembered. */

import { byId } from "./dom.js";

const THEMES = ["system", "light", "dark"];

/** As it was left. */
export function startTheme() {
  use(localStorage.getItem("softpaint-theme") ?? "system");
}

export function nextTheme() {
  const now = document.documentElement.dataset.theme ?? "system";
  use(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
}

/** @param {string} theme */
function use(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  localStorage.setItem("softpaint-theme", theme);
  byId("theme").ariaLabel = `Theme: ${theme === "system" ? "as the system" : theme}`;
}
