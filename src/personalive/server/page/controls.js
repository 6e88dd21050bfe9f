/**
 * The live controls: every element with data-control, by that name, as one object of values. One with data-own (a gain)
 * is null, which means the model's own, until the user moves it.
 */

import { recall, remember } from "./memory.js";

const QUIET = 60;

function read(element) {
  if (element.dataset.own === "untouched") return null;
  if (element.type === "checkbox") return element.checked;
  if (element.type === "range") return Number(element.value);
  return element.value === "auto" ? "auto" : Number(element.value);
}

function write(element, value) {
  if ("own" in element.dataset) element.dataset.own = value === null ? "untouched" : "moved";
  if (value === null) element.value = element.defaultValue;
  else if (element.type === "checkbox") element.checked = Boolean(value);
  else element.value = String(value);
}

export class Controls {
  #elements;
  #initial;
  #onChange;
  #timer = null;

  /** `onChange(values)` is called soon after a change, not for each pixel of a slider's way. */
  constructor(root, onChange) {
    this.#elements = new Map([...root.querySelectorAll("[data-control]")].map((one) => [one.dataset.control, one]));
    this.#initial = this.values;
    this.#onChange = onChange;
    for (const [name, value] of Object.entries(recall("controls", {}))) {
      if (this.#elements.has(name)) write(this.#elements.get(name), value);
    }
    for (const element of this.#elements.values()) {
      element.addEventListener("input", () => {
        write(element, element.type === "checkbox" ? element.checked : element.value);
        this.#changed();
      });
    }
    this.#describe();
  }

  get values() {
    return Object.fromEntries([...this.#elements].map(([name, element]) => [name, read(element)]));
  }

  /** Where the sliders stand that the user has not moved: the model's own values, by the control's name. */
  setOwn(values) {
    for (const [name, value] of Object.entries(values)) {
      const element = this.#elements.get(name);
      if (element?.dataset.own === undefined) continue;
      element.defaultValue = String(value);
      if (element.dataset.own === "untouched") element.value = element.defaultValue;
    }
    this.#describe();
  }

  set(name, value) {
    write(this.#elements.get(name), value);
    this.#changed();
  }

  /** Back to what the page came with; `kept` names what stays. */
  reset(kept) {
    for (const [name, value] of Object.entries(this.#initial)) {
      if (!kept.includes(name)) write(this.#elements.get(name), value);
    }
    this.#changed();
  }

  #changed() {
    this.#describe();
    remember("controls", this.values);
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#onChange(this.values);
    }, QUIET);
  }

  #describe() {
    for (const element of this.#elements.values()) {
      if (element.type !== "range") continue;
      const value = Number(element.value);
      const words = element.dataset.unit === "%" ? `${Math.round(100 * value)} %` : `${value.toFixed(2)} ×`;
      element.parentElement.querySelector("output").value = words;
      element.setAttribute("aria-valuetext", words);
    }
  }
}
