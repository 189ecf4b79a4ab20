/** The page: what is picked, and asking anew whenever it changes. */

import { Combobox } from "./combobox.js";
import { button, byId, element } from "./elements.js";
import { loadExamples } from "./examples.js";
import { Recommender } from "./recommender.js";
import {
  answerNote,
  domainTag,
  influenceList,
  pseudoItems,
  pythonCall,
  recommendationList,
  what,
  whyNoPseudoItems,
} from "./view.js";

/** @typedef {import("./recommender.js").Options} Options */

const MAX_K = 100;

/** What is picked on the page, and what is shown for it. */
class App {
  /** @type {string[]} ids, oldest first */
  history = [];
  /** @type {string[]} ids that pseudo items are recalled for */
  names = [];
  #asked = 0;

  /** @param {Recommender} recommender */
  constructor(recommender) {
    this.recommender = recommender;
    this.bundle = recommender.bundle;
    this.#makeDomainChoice();
    for (const [id, list] of /** @type {const} */ ([
      ["history", this.history],
      ["names", this.names],
    ])) {
      const tag = (/** @type {number} */ row) => domainTag(this.bundle, row);
      const root = byId(`${id}-search`, HTMLElement);
      new Combobox(root, this.bundle, tag, (row) => {
        list.push(this.bundle.ids[row - 1]);
        this.update();
      });
    }
    byId("settings", HTMLFormElement).addEventListener("input", () => this.update());
    byId("settings", HTMLFormElement).addEventListener("submit", (event) => event.preventDefault());
    byId("clear", HTMLButtonElement).addEventListener("click", () => {
      this.history.length = 0;
      this.update();
      byId("history-input", HTMLInputElement).focus();
    });
  }

  /**
   * Begin with what an example has.
   *
   * @param {import("./examples.js").Example} example
   */
  show(example) {
    this.history.splice(0, this.history.length, ...example.history);
    if (example.domain !== null) this.#radio("domain", example.domain).checked = true;
    this.update();
  }

  /** Show what is picked, ask, and show the answer unless something else has been asked meanwhile. */
  async update() {
    this.#showPicked();
    const options = this.#options();
    const history = [...this.history];
    const asked = ++this.#asked;
    document.documentElement.dataset.ready = "false";
    const start = performance.now();
    try {
      const answer = await this.recommender.recommend(history, options);
      if (asked !== this.#asked) return;
      byId("answer-note", HTMLElement).textContent = answerNote(answer, performance.now() - start);
      byId("recommendations", HTMLElement).replaceChildren(
        ...recommendationList(this.bundle, answer, !options.domain),
      );
      byId("influences", HTMLElement).replaceChildren(...influenceList(answer));
      const none = whyNoPseudoItems(this.bundle, history, options);
      if (answer.explanation) {
        byId("pseudo-items", HTMLElement).replaceChildren(
          ...pseudoItems(this.bundle, answer.explanation, !options.domain, none),
        );
      }
      byId("python", HTMLElement).textContent = pythonCall(history, options);
      document.documentElement.dataset.ready = "true"; // for those who wait for the answer: tests
    } catch (error) {
      showError(error);
    }
  }

  /** @returns {Options & {domain: string | null}} */
  #options() {
    const domain = this.#chosen("domain") || null;
    const pseudo = this.#chosen("pseudo");
    const k = Math.trunc(byId("k", HTMLInputElement).valueAsNumber);
    return {
      domain,
      k: Math.min(Math.max(k || 1, 1), MAX_K),
      excludeSeen: byId("exclude-seen", HTMLInputElement).checked,
      // without a domain there is none to recall names for
      pseudo: pseudo === "off" ? "off" : pseudo === "auto" || !domain ? "auto" : [...this[namesOf(pseudo)]],
      explain: true,
    };
  }

  #showPicked() {
    const byNames = this.#chosen("pseudo") === "names";
    const noDomain = this.#chosen("domain") === "";
    for (const value of ["history", "names"]) {
      this.#radio("pseudo", value).disabled = noDomain || !this.bundle.recall;
    }
    byId("names-part", HTMLElement).hidden = !byNames || noDomain;
    byId("pseudo-note", HTMLElement).textContent = noDomain
      ? "By history and by names need one catalogue to recall items of."
      : PSEUDO_NOTES[this.#chosen("pseudo")];
    const { maxLength } = this.bundle;
    byId("history-note", HTMLElement).textContent = !this.history.length
      ? "Empty. Oldest first: the order matters."
      : this.history.length > maxLength
        ? `The model looks back on the newest ${maxLength} of ${this.history.length}.`
        : "";
    byId("clear", HTMLButtonElement).hidden = !this.history.length;
    this.#showList("history", this.history, true);
    this.#showList("names", this.names, false);
  }

  /**
   * @param {"history" | "names"} id
   * @param {string[]} list
   * @param {boolean} ordered
   */
  #showList(id, list, ordered) {
    const { bundle } = this;
    const items = list.map((itemId, i) => {
      const row = bundle.rowOfId.get(itemId) ?? 0;
      const title = bundle.titles[row - 1] || itemId;
      /** @type {(to: number, name: string) => void} */
      const change = (to, name) => {
        const [taken] = list.splice(i, 1);
        if (to >= 0) list.splice(to, 0, taken);
        this.update();
        this.#focus(id, to >= 0 ? to : Math.min(i, list.length - 1), name);
      };
      const buttons = [
        button("✕", { "data-name": "remove", "aria-label": `Remove ${title}` }, () => change(-1, "remove")),
      ];
      if (ordered) {
        const [up, down] = [`Move ${title} up`, `Move ${title} down`];
        const last = i === list.length - 1;
        buttons.unshift(
          button("↑", { "data-name": "up", "aria-label": up, disabled: i === 0 }, () => change(i - 1, "up")),
          button("↓", { "data-name": "down", "aria-label": down, disabled: last }, () =>
            change(i + 1, "down"),
          ),
        );
      }
      return element(
        "li",
        { "data-id": itemId },
        what(bundle, row),
        element("span", { class: "buttons" }, ...buttons),
      );
    });
    byId(id, HTMLElement).replaceChildren(...items);
  }

  /**
   * Keep the focus where the keyboard was: on that button, or the first there is, or the search box.
   *
   * @param {string} id
   * @param {number} place
   * @param {string} name
   */
  #focus(id, place, name) {
    const item = byId(id, HTMLElement).children[place];
    const found =
      item?.querySelector(`[data-name=${name}]:enabled`) ??
      item?.querySelector("button:enabled") ??
      byId(`${id}-input`, HTMLInputElement);
    /** @type {HTMLElement} */ (found).focus();
  }

  #makeDomainChoice() {
    const names = this.bundle.domains.map((domain) => domain.name);
    const choices = [...names.map((name) => [name, name]), ["", "all"]].map(([value, label], i) =>
      element(
        "label",
        {},
        element("input", {
          type: "radio",
          name: "domain",
          value,
          checked: i === Math.min(1, names.length - 1),
        }),
        element("span", {}, label),
      ),
    );
    const root = byId("domains", HTMLElement);
    root.hidden = names.length === 1; // the one that is checked
    root.querySelector(".segments")?.replaceChildren(...choices);
  }

  /** @param {string} name @returns {string} value of the radio button that is chosen */
  #chosen(name) {
    const found = document.querySelector(`input[name=${name}]:checked`);
    return found instanceof HTMLInputElement ? found.value : "";
  }

  /** @param {string} name @param {string} value @returns {HTMLInputElement} */
  #radio(name, value) {
    const all = document.querySelectorAll(`input[name=${name}]`);
    return (
      /** @type {HTMLInputElement[]} */ ([...all]).find((one) => one.value === value) ??
      document.createElement("input")
    );
  }
}

/** @type {Record<string, string>} */
const PSEUDO_NOTES = {
  auto: "What won on validation for this model, which may be nothing.",
  off: "The history as it is.",
  history: "Recalled for what the history says, whatever won on validation.",
  names: "Recalled for the names that you give.",
};

/** @param {string} pseudo @returns {"history" | "names"} */
function namesOf(pseudo) {
  return pseudo === "names" ? "names" : "history";
}

/** @param {unknown} error */
function showError(error) {
  byId("loading", HTMLElement).hidden = true;
  byId("main", HTMLElement).hidden = true;
  byId("error", HTMLElement).hidden = false;
  byId("error-message", HTMLElement).textContent = error instanceof Error ? error.message : String(error);
}

/** @param {number} milliseconds since the page was asked for */
function showFigures(milliseconds) {
  const entries = /** @type {PerformanceResourceTiming[]} */ (performance.getEntriesByType("resource"));
  /** @type {(part: string) => string} */
  const fetched = (part) => {
    const found = entries.filter((entry) => entry.name.includes(part));
    const bytes = found.reduce((sum, entry) => sum + entry.encodedBodySize, 0);
    return `${Math.round(bytes / 1024).toLocaleString("en")} KB`;
  };
  byId("figures", HTMLElement).textContent =
    `Ready after ${(milliseconds / 1000).toFixed(2)} s: ${fetched("")}, of which ${fetched("/vendor/")} are ` +
    `onnxruntime-web and ${fetched("/bundle/")} the model, every file checked against its SHA-256.`;
}

async function main() {
  try {
    const recommender = await Recommender.load(new URL("bundle/", document.baseURI));
    const app = new App(recommender);
    const examples = await loadExamples(new URL("examples.jsonl", document.baseURI), recommender.bundle);
    const chips = byId("examples", HTMLElement);
    chips.append(
      ...examples.map((example) => button(example.user, { class: "chip" }, () => app.show(example))),
    );
    chips.hidden = !examples.length;
    byId("loading", HTMLElement).hidden = true;
    byId("main", HTMLElement).hidden = false;
    await app.update();
    showFigures(performance.now());
  } catch (error) {
    showError(error);
  }
}

await main();
