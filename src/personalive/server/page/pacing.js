/** When to show a frame: timing decisions only; every time (milliseconds) is passed in. */

import { quantile } from "./statistics.js";

const REMEMBERED = 32;
const MOST_WAIT = 500;
const MOST_WAITING = 8;

/**
 * Frames come in bursts, because the model makes several at once; they were captured evenly, so they are shown evenly:
 * each one the same time after its capture. That time is what nearly all recent frames needed to get here. A later one is
 * shown at once; whatever is overtaken is left out.
 */
export class Pacer {
  #travels = [];
  #waiting = [];

  /** Keep a frame that came in at `now`. Returns the frames that fell out because too many wait. */
  add(frame, captured, now) {
    this.#travels.push(now - captured);
    if (this.#travels.length > REMEMBERED) this.#travels.shift();
    const wait = Math.min(this.#delay() - (now - captured), MOST_WAIT);
    this.#waiting.push({ frame, due: now + Math.max(0, wait) });
    return this.#waiting.splice(0, Math.max(0, this.#waiting.length - MOST_WAITING)).map((entry) => entry.frame);
  }

  /** {frame, late: [frames overtaken]} for the newest frame that is due at `now`; null when none is. */
  take(now) {
    const due = this.#waiting.filter((entry) => entry.due <= now);
    if (due.length === 0) return null;
    const newest = due.at(-1);
    this.#waiting = this.#waiting.slice(this.#waiting.indexOf(newest) + 1);
    return { frame: newest.frame, late: due.slice(0, -1).map((entry) => entry.frame) };
  }

  get size() {
    return this.#waiting.length;
  }

  #delay() {
    return quantile(this.#travels, 0.9);
  }
}

/**
 * The server's word on each frame (its capture time) comes beside the video, not in it: they are paired by when they
 * arrived. A frame's word is the one that arrived nearest to it.
 */
export class Pairing {
  #words = [];

  /** The server's word about one frame arrived at `now`. */
  add(captured, now) {
    this.#words.push({ captured, arrived: now });
    if (this.#words.length > REMEMBERED) this.#words.shift();
  }

  /** The capture time of the frame that was received at `received`; null while no word has come. */
  find(received) {
    let best = null;
    for (const word of this.#words) {
      if (best === null || Math.abs(word.arrived - received) <= Math.abs(best.arrived - received)) best = word;
    }
    return best?.captured ?? null;
  }
}

/** Milliseconds to wait before the next attempt to connect; `attempt` counts from 0, `chance` is in [0, 1). */
export function backoff(attempt, chance) {
  return Math.min(8000, 500 * 2 ** attempt) * (0.75 + 0.5 * chance);
}
