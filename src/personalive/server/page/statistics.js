/** What was shown lately: frames a second, and the delay from capture to display. Times are milliseconds of one clock. */

const WINDOW = 10_000;
const KEPT = 600;

/** The value that the given part of the (unsorted) numbers does not exceed; null for none. */
export function quantile(numbers, part) {
  if (numbers.length === 0) return null;
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(part * sorted.length) - 1))];
}

export class Statistics {
  #shown = [];

  /** A frame came on the screen; `captured` is null where its capture time is not known. */
  add(captured, displayed) {
    this.#shown.push({ captured, displayed });
    if (this.#shown.length > KEPT) this.#shown.shift();
  }

  clear() {
    this.#shown = [];
  }

  /** {fps, p50, p95} of the last ten seconds; null where there is nothing to tell. */
  summary(now) {
    const recent = this.#shown.filter(({ displayed }) => now - displayed <= WINDOW);
    const delays = recent.filter(({ captured }) => captured !== null).map((frame) => frame.displayed - frame.captured);
    const span = recent.length > 1 ? recent.at(-1).displayed - recent[0].displayed : 0;
    return {
      fps: span > 0 ? ((recent.length - 1) * 1000) / Math.max(span, now - recent[0].displayed) : null,
      p50: quantile(delays, 0.5),
      p95: quantile(delays, 0.95),
    };
  }
}
