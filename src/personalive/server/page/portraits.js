/** The portraits to choose from: the built-in ones, and the user's own, which the server keeps for a while. */

import * as api from "./api.js";
import { recall, remember } from "./memory.js";

const OWN_KEPT = 6;

export class Portraits {
  #list;
  #onChoose;
  #known = new Map();

  /** `onChoose(portrait)` is called with {id, name, image, own} when another one is chosen. */
  constructor(list, onChoose) {
    this.#list = list;
    this.#onChoose = onChoose;
    list.addEventListener("change", (event) => this.choose(event.target.value));
  }

  /** Fetch the list and choose what was chosen last time, if it is still there. */
  async load() {
    const builtIn = (await api.portraits()).map((one) => ({ ...one, own: false }));
    const listed = new Set(builtIn.map((one) => one.id));
    const own = recall("own", []).filter((one) => !listed.has(one.id)).map((one) => ({ ...one, own: true }));
    for (const one of [...builtIn, ...own]) this.#show(one);
    const last = recall("portrait", null);
    const first = this.#known.has(last) ? last : builtIn[0]?.id;
    if (first !== undefined) this.choose(first);
  }

  /** Put in a picture that was just uploaded (or cropped anew), and choose it. */
  add(id, details) {
    const portrait = { id, name: "Your picture", own: true, details, version: Date.now() };
    this.#show(portrait);
    const own = [...this.#known.values()].filter((one) => one.own).slice(-OWN_KEPT);
    remember("own", own.map(({ id: kept, name }) => ({ id: kept, name })));
    this.choose(id);
  }

  choose(id) {
    const portrait = this.#known.get(id);
    remember("portrait", id);
    this.#radio(id).checked = true;
    this.#onChoose(portrait);
  }

  #radio(id) {
    return [...this.#list.querySelectorAll("input")].find((radio) => radio.value === id);
  }

  #show(portrait) {
    const image = document.createElement("img");
    image.alt = "";
    image.src = portrait.image = api.portraitImage(portrait.id) + (portrait.version ? `?version=${portrait.version}` : "");
    this.#forget(portrait.id);
    this.#known.set(portrait.id, portrait);
    const radio = document.createElement("input");
    Object.assign(radio, { type: "radio", name: "portrait", value: portrait.id, className: "visually-hidden" });
    const name = document.createElement("span");
    name.textContent = portrait.name;
    const label = document.createElement("label");
    label.append(radio, image, name);
    // A picture of an earlier visit that the server has let go of.
    if (portrait.own && !portrait.version) image.addEventListener("error", () => this.#lost(portrait.id));
    this.#list.append(label);
  }

  #forget(id) {
    this.#radio(id)?.closest("label").remove();
    this.#known.delete(id);
  }

  #lost(id) {
    const chosen = this.#radio(id)?.checked;
    this.#forget(id);
    if (chosen && this.#known.size > 0) this.choose(this.#known.keys().next().value);
  }
}

/** Take pictures that are chosen, dropped or pasted; `onPicture(file)` gets the first one. */
export function receivePictures(input, drop, onPicture) {
  const give = (files) => {
    const picture = [...files][0];
    if (picture) onPicture(picture);
  };
  input.addEventListener("change", () => {
    give(input.files);
    input.value = ""; // the same file can be chosen again
  });
  for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    give(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => give(event.clipboardData.files));
}
