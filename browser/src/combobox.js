/** A search box over titles with a list of matches, as WAI-ARIA describes a combobox. */

import { element } from "./elements.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */

const MOST_SHOWN = 40;

/** Adds a search box to an element that has a label and an input. */
export class Combobox {
  #active = -1;
  /** @type {number[]} */
  #rows = [];

  /**
   * @param {HTMLElement} root
   * @param {Bundle} bundle
   * @param {(row: number) => Node} tag what is shown beside a title
   * @param {(row: number) => void} onPick
   */
  constructor(root, bundle, tag, onPick) {
    this.bundle = bundle;
    this.tag = tag;
    this.onPick = onPick;
    this.input = /** @type {HTMLInputElement} */ (root.querySelector("input"));
    const id = `${this.input.id}-list`;
    this.list = element("ul", { id, role: "listbox", "aria-label": "Matching items", hidden: true });
    const attributes = {
      role: "combobox",
      "aria-autocomplete": "list",
      "aria-expanded": "false",
      "aria-controls": id,
      autocomplete: "off",
      spellcheck: "false",
    };
    for (const [name, value] of Object.entries(attributes)) this.input.setAttribute(name, value);
    root.append(this.list);
    this.input.addEventListener("input", () => this.#open());
    this.input.addEventListener("click", () => this.#open());
    this.input.addEventListener("blur", () => this.#close());
    this.input.addEventListener("keydown", (event) => this.#onKey(event));
    this.list.addEventListener("pointerdown", (event) => event.preventDefault()); // the input keeps the focus
    this.list.addEventListener("click", (event) => {
      const option = event.target instanceof Element ? event.target.closest("[role=option]") : null;
      if (option) this.#pick(Array.from(this.list.children).indexOf(option));
    });
  }

  #open() {
    this.#rows = findTitles(this.bundle, this.input.value).slice(0, MOST_SHOWN);
    const options = this.#rows.map((row, i) =>
      element(
        "li",
        { role: "option", id: `${this.list.id}-${i}`, "aria-selected": "false" },
        element("span", {}, this.bundle.titles[row - 1] || this.bundle.ids[row - 1]),
        this.tag(row),
      ),
    );
    const nothing = element("li", { class: "nothing" }, "No title has all of these words");
    this.list.replaceChildren(...(options.length ? options : [nothing]));
    this.list.hidden = false;
    this.list.scrollTop = 0;
    this.input.setAttribute("aria-expanded", "true");
    this.#activate(this.input.value.trim() && options.length ? 0 : -1);
  }

  #close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.#activate(-1);
  }

  /** @param {number} place */
  #activate(place) {
    this.list.children[this.#active]?.setAttribute("aria-selected", "false");
    this.#active = place;
    const option = this.list.children[place];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) this.input.setAttribute("aria-activedescendant", option.id);
    else this.input.removeAttribute("aria-activedescendant");
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (this.list.hidden) this.#open();
      const n = this.#rows.length;
      const step = event.key === "ArrowDown" ? 1 : this.#active < 0 ? 0 : -1;
      if (n) this.#activate((this.#active + step + n) % n);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (!this.list.hidden && this.#active >= 0) this.#pick(this.#active);
    } else if (event.key === "Escape" && !this.list.hidden) {
      event.preventDefault(); // the first closes the list, the next one clears the box
      this.#close();
    }
  }

  /** @param {number} place */
  #pick(place) {
    const row = this.#rows[place];
    this.input.value = "";
    this.#close();
    this.onPick(row);
  }
}

/**
 * Rows of the items whose title has every word of a text, whatever the case, most popular first.
 *
 * @param {Bundle} bundle
 * @param {string} text
 * @returns {number[]}
 */
export function findTitles(bundle, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = bundle.titles.flatMap((title, i) => {
    const lower = title.toLowerCase();
    return words.every((word) => lower.includes(word)) ? [i + 1] : [];
  });
  return rows.sort((a, b) => bundle.itemCounts[b] - bundle.itemCounts[a] || a - b);
}
