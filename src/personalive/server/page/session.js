/** One stay on the server: opens a session, connects by the first way that works, and comes back after a loss. */

import * as api from "./api.js";
import { backoff } from "./pacing.js";
import { RtcTransport } from "./transport-webrtc.js";
import { SocketTransport } from "./transport-socket.js";

const WAYS = { auto: [RtcTransport, SocketTransport], webrtc: [RtcTransport], socket: [SocketTransport] };
const STEADY = 5000;

export class Session {
  #driver;
  #hooks;
  #portrait;
  #controls;
  #ways;
  #rate;
  #id = null;
  #transport = null;
  #stopped = false;
  #stop;
  #stopping = new Promise((resolve) => (this.#stop = resolve));
  #wake = () => {};

  /**
   * hooks: onOpen(id, way), onLost(seconds until the next attempt, reason), and the transports' onMessage, onStream,
   * onFrame, onSkipped.
   * options: portrait, controls, way ("auto", "webrtc" or "socket"), rate (frames a second to begin with).
   */
  constructor(driver, hooks, { portrait, controls, way, rate }) {
    this.#driver = driver;
    this.#hooks = hooks;
    this.#portrait = portrait;
    this.#controls = controls;
    this.#ways = WAYS[way];
    this.#rate = rate;
  }

  /** Stay until `stop`. Rejects when the first connection fails, or when coming back cannot help. */
  async run() {
    let before = false;
    let attempt = 0;
    while (!this.#stopped) {
      let reason;
      try {
        await this.#connect();
        const since = performance.now();
        before = true;
        reason = await Promise.race([this.#transport.closed, this.#stopping]);
        if (performance.now() - since > STEADY) attempt = 0;
        else this.#leave(); // it did not hold: the session may be gone, try a new one
      } catch (error) {
        if (this.#stopped) return;
        if (!before || final(error)) {
          this.#leave();
          throw error;
        }
        reason = error.message;
      }
      if (this.#stopped) return;
      const pause = backoff(attempt, Math.random());
      attempt += 1;
      this.#hooks.onLost(pause / 1000, reason);
      await this.#pause(pause);
    }
  }

  async #pause(milliseconds) {
    const online = () => this.#wake();
    window.addEventListener("online", online);
    await new Promise((resolve) => {
      this.#wake = resolve;
      setTimeout(resolve, milliseconds);
    });
    window.removeEventListener("online", online);
  }

  /** Back into the session that was lost, else into a new one. */
  async #connect() {
    if (this.#id !== null) {
      try {
        return await this.#open();
      } catch {
        this.#leave();
      }
    }
    if (this.#stopped) return undefined;
    const { session } = await api.openSession(this.#portrait, this.#controls);
    this.#id = session;
    if (this.#stopped) return this.#leave();
    return this.#open();
  }

  async #open() {
    let failure;
    for (const Way of this.#ways) {
      const transport = new Way(this.#hooks);
      this.#transport = transport;
      try {
        await transport.open(this.#id, this.#driver, this.#rate);
        if (this.#stopped) return transport.close();
        this.#ways = [Way]; // what worked once is taken at once the next time
        transport.setQuality(this.#controls.quality);
        this.send({ type: "controls", ...this.#controls });
        this.send({ type: "portrait", portrait: this.#portrait });
        this.#hooks.onOpen(this.#id, Way.label);
        return undefined;
      } catch (error) {
        failure = error;
        if (this.#stopped || error.status === 404) break;
      }
    }
    throw failure;
  }

  send(message) {
    this.#transport?.send(message);
  }

  setPortrait(portrait) {
    this.#portrait = portrait;
    this.send({ type: "portrait", portrait });
  }

  setControls(controls) {
    this.#controls = controls;
    this.#transport?.setQuality(controls.quality);
    this.send({ type: "controls", ...controls });
  }

  /** Frames a second that the server can use. */
  setRate(rate) {
    this.#rate = rate;
    this.#transport?.setRate(rate);
  }

  stop() {
    this.#stopped = true;
    this.#transport?.close();
    this.#stop("stopped");
    this.#wake();
    this.#leave();
  }

  #leave() {
    this.#transport?.close();
    if (this.#id !== null) api.closeSession(this.#id).catch(() => {}); // it is gone already, or will be by its time limit
    this.#id = null;
  }
}

/** Whether trying again cannot help: the server understood and refused. */
function final(error) {
  return error.status >= 400 && error.status < 500 && error.status !== 429;
}
