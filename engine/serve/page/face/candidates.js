// @ts-check
/** All starts of an edit of which the best were kept: what each was worth, sortable. */

import { canvasOf } from "../work/pictures.js";
import { make, newId, number, thumbnail } from "./dom.js";
import { words } from "./fields.js";

/** @typedef {import("../types.js").Candidate} Candidate */

/** The judge's terms of which more is better; of the others less is. */
const MORE = new Set(["total", "prompt"]);

/**
 * @param {object} given
 * @param {Candidate[]} given.candidates
 * @param {import("../work/api.js").Api} given.api
 * @param {(candidate: Candidate) => boolean} given.shown whether it is in the picture that is shown
 * @param {(region: number) => string} given.named what a region is called, from 1
 * @param {(candidate: Candidate) => void} given.pick
 * @returns {HTMLElement[]}
 */
export function candidatesOf({ candidates, api, shown, named, pick }) {
  const terms = [...new Set(candidates.flatMap(({ scores }) => Object.keys(scores)))];
  const several = new Set(candidates.map(({ strategy }) => strategy)).size > 1;
  const box = make("div", { className: "thumbs" });
  const buttons = new Map(candidates.map((one) => [one, button(one)]));
  const id = newId();
  const select = make("select", { id, onchange: () => sort() },
    ...terms.map((name) => make("option", { value: name }, `by ${name === "total" ? "score" : words(name).toLowerCase()}`)));

  function sort() {
    const by = select.value;
    const worth = (/** @type {Candidate} */ { scores }) => (scores[by] ?? NaN) * (MORE.has(by) ? -1 : 1);
    const rank = (/** @type {Candidate} */ one) => (Number.isNaN(worth(one)) ? Infinity : worth(one));
    // At the same share of the run only: a look on the way is no finished picture.
    const sorted = [...candidates].sort((one, two) => placeOf(one) - placeOf(two)
      || (two.left_at ?? 1) - (one.left_at ?? 1) || rank(one) - rank(two));
    for (const one of sorted) buttons.get(one)?.querySelector(".score")?.replaceChildren(number(one.scores[by]));
    box.replaceChildren(...sorted.flatMap((one) => buttons.get(one) ?? []));
  }

  /** @param {Candidate} one */
  function button(one) {
    const left = one.left_at === null ? "" : `, left after ${Math.round(100 * one.left_at)}%`;
    const plain = several ? `${one.strategy} ${one.seed ?? ""}` : String(one.seed ?? "");
    const name = one.regions?.length ? `${one.regions.map(named).join(", ")}: ${plain}` : plain;
    const told = Object.entries(one.scores).map(([term, value]) => `${words(term)} ${number(value)}`).join(", ");
    const made = make("button", {
      type: "button", className: left ? "left" : "", title: `${told}${left}${left && ": finish it"}`,
      ariaLabel: `Candidate ${name}: ${told}${left}`, "aria-pressed": String(!left && shown(one)),
      onclick: () => pick(one),
    }, make("span", {}, name), make("span", { className: "score" }));
    if (one.url) void api.blob(one.url).then(canvasOf).then((canvas) => made.prepend(thumbnail(canvas)), () => {});
    return made;
  }

  sort();
  return [make("div", { className: "pick" }, make("label", { htmlFor: id }, "Candidates"), select), box];
}

/** Where a candidate's regions stand among the others'. @param {Candidate} one */
function placeOf(one) {
  return one.regions?.length ? Math.max(0, ...one.regions) : 0;
}

/**
 * What a result has where a candidate is of: its seed and strategy, and the region's own if it is of one.
 * @param {{seed: number | null, used: Record<string, any>}} entry
 * @param {Candidate} one
 * @returns {{seed: number | null, strategy: string}}
 */
export function usedFor({ seed, used }, one) {
  const [number, ...others] = one.regions ?? [];
  const own = number ? used.region_edits?.[number - 1] : null; // those that share a run share their strategy
  return { seed: (others.length ? null : own?.seed) ?? seed, strategy: own?.strategy ?? used.strategy };
}
