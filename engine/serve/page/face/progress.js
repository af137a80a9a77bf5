// @ts-check
/** What runs, what went wrong, and whether the service is there. */

import { Cancelled, Lost } from "../work/api.js";
import { byId, icon, make } from "./dom.js";

export class Progress {
  /**
   * @param {import("../work/api.js").Api} api
   * @param {import("../work/live.js").Live} live
   * @param {import("./stage.js").Stage} stage
   */
  constructor(api, live, stage) {
    this.api = api;
    this.live = live;
    this.stage = stage;
    this.about = "";
    this.line = byId("progress");
    this.bar = /** @type {HTMLElement} */ (this.line.firstElementChild);
    this.server = byId("server");
    live.addEventListener("began", () => this.#began());
    live.addEventListener("event", (event) => void this.#event(/** @type {CustomEvent} */ (event).detail));
    live.addEventListener("finished", () => this.announce("The picture is there."));
    live.addEventListener("stopped", () => this.#stopped());
    live.addEventListener("failed", () => this.announce("The edit failed."));
    live.addEventListener("stack", () => this.badge());
    stage.desk.addEventListener("map", () => this.badge());
    stage.desk.addEventListener("picture", () => (byId("notice").hidden = true));
    stage.desk.addEventListener("shown", () => this.badge());
    api.addEventListener("lost", () => this.#lost());
    api.addEventListener("found", () => this.there());
    new MutationObserver(() => this.badge()).observe(stage.cut, { attributes: true, subtree: true, attributeFilter: ["hidden"] });
  }

  /** Mark what is shown as a preview, whenever it is one. */
  badge() {
    byId("badge").hidden = !this.stage.approximate;
  }

  #began() {
    this.line.hidden = false;
    this.line.classList.add("waiting");
    this.#share(0);
    byId("notice").hidden = true;
  }

  /** @param {number} share */
  #share(share) {
    this.bar.style.transform = `scaleX(${share})`;
    this.line.setAttribute("aria-valuenow", String(Math.round(100 * share)));
  }

  /** @param {import("../work/api.js").JobEvent} event */
  async #event({ event, data }) {
    if (event === "queued") this.announce(`Place ${data.place} in the queue.`);
    if (event === "step" && data.total) {
      this.line.classList.remove("waiting");
      this.#share(data.done / data.total);
    }
    if (event === "preview") await this.#preview(data);
  }

  /** @param {{url: string, image?: number, box?: [number, number, number, number] | null}} data */
  async #preview({ url, image, box }) {
    const running = this.live.running;
    if (image || this.fetching) return; // of several pictures, the first; and none is waited for
    this.fetching = true;
    try {
      const bitmap = await createImageBitmap(await this.api.blob(url));
      if (running && this.live.running === running) {
        this.stage.showPreview(bitmap, box ?? null, this.stage.desk.settings.expand ?? null);
        performance.mark("softpaint:preview");
      }
      bitmap.close();
    } catch (error) {
      // A preview that is gone already is not missed.
      if (!(error instanceof Error)) throw error;
      if (error instanceof Lost || error instanceof Cancelled) return;
    } finally {
      this.fetching = false;
    }
  }

  #stopped() {
    this.line.hidden = true;
    this.line.classList.remove("waiting");
  }

  #lost() {
    this.server.className = "server lost";
    this.#say("Server lost – trying again");
    this.#stopped();
    this.notice("The server does not answer. What you paint is kept here, and rendered when it is back.");
  }

  there() {
    this.server.className = "server there";
    this.#say(this.about);
    byId("notice").hidden = true;
  }

  /** @param {string} text */
  #say(text) {
    const span = this.server.querySelector("span");
    if (span) span.textContent = text;
    this.server.title = text;
  }

  /** @param {string} text what went wrong */
  notice(text) {
    const box = byId("notice");
    const close = make("button", {
      type: "button", className: "quiet", ariaLabel: "Close", onclick: () => (box.hidden = true),
    }, icon("close"));
    box.replaceChildren(make("p", {}, text), close);
    box.hidden = false;
  }

  /** @param {string} text for those who hear the page */
  announce(text) {
    byId("announce").textContent = text;
  }
}
