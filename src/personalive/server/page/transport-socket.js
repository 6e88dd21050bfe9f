/** Frames as JPEG over a WebSocket, both ways: for networks that block WebRTC. */

import { frames } from "./api.js";

const TIMEOUT = 5000;
const SILENCE = 10_000;
const UNANSWERED = 2;
const SLOWEST = 3; // frames a second: fewer would look to the server like a camera that has stopped

export class SocketTransport {
  static label = "WebSocket";
  #hooks;
  #socket = null;
  #ticker = null;
  #canvas = new OffscreenCanvas(1, 1);
  #encoding = false;
  #pings = 0;
  #heard = 0;
  #interval = 0;
  #width = 480;
  #end;

  /** Settles with a reason when the connection is lost. */
  closed = new Promise((resolve) => (this.#end = resolve));

  /** hooks: onMessage(object), onFrame(bitmap, captured), onSkipped(). */
  constructor(hooks) {
    this.#hooks = hooks;
  }

  /** Connect to a session and send the driver's frames, `rate` a second. Rejects when it cannot within five seconds. */
  async open(session, driver, rate) {
    const socket = new WebSocket(frames(session));
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error("the WebSocket does not answer")), TIMEOUT);
      socket.onopen = () => (clearTimeout(timer), resolve());
      socket.onclose = (event) => (clearTimeout(timer), reject(new Error(event.reason || "the WebSocket was refused")));
    }).catch((error) => {
      this.close();
      throw error;
    });
    this.#heard = performance.now();
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = (event) => this.#finish(event.reason || "the WebSocket closed");
    this.#ticker = new Worker(new URL("./ticker.js", import.meta.url));
    this.#ticker.onmessage = () => this.#tick(driver);
    this.setRate(rate);
  }

  /** Frames a second to send from now on. */
  setRate(rate) {
    const interval = 1000 / Math.min(30, Math.max(SLOWEST, rate));
    if (Math.abs(interval - this.#interval) < 2) return;
    this.#interval = interval;
    this.#ticker?.postMessage(interval);
  }

  /** The quality in [0, 1]: how wide the pictures are that are sent. */
  setQuality(quality) {
    this.#width = Math.round(320 + 320 * quality);
  }

  send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  /**
   * One frame, the newest, and only when the ones before have left: nothing may wait in the browser (bufferedAmount),
   * and at most two may be under way (the server answers the ping behind each one), wherever they wait.
   */
  async #tick(driver) {
    if (performance.now() - this.#heard > SILENCE) return this.#finish("the server fell silent");
    const [width, height] = driver.size;
    if (width === 0 || this.#encoding) return undefined;
    if (this.#socket.bufferedAmount > 0 || this.#pings >= UNANSWERED) return this.#hooks.onSkipped();
    this.#encoding = true;
    try {
      const captured = driver.captured();
      const scale = Math.min(1, this.#width / Math.max(width, height));
      this.#canvas.width = Math.round(width * scale);
      this.#canvas.height = Math.round(height * scale);
      this.#canvas.getContext("2d").drawImage(driver.element, 0, 0, this.#canvas.width, this.#canvas.height);
      const jpeg = await this.#canvas.convertToBlob({ type: "image/jpeg", quality: 0.8 });
      if (this.#socket.readyState !== WebSocket.OPEN) return undefined;
      const time = new DataView(new ArrayBuffer(8));
      time.setFloat64(0, captured);
      this.#socket.send(new Blob([time.buffer, jpeg]));
      this.#pings += 1;
      this.send({ type: "ping", time: performance.now() });
    } finally {
      this.#encoding = false;
    }
    return undefined;
  }

  async #receive(data) {
    this.#heard = performance.now();
    if (typeof data === "string") {
      const message = JSON.parse(data);
      if (message.type === "pong") this.#pings = Math.max(0, this.#pings - 1);
      else this.#hooks.onMessage(message);
      return;
    }
    const captured = new DataView(data).getFloat64(0);
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 8)], { type: "image/jpeg" }));
    this.#hooks.onFrame(bitmap, captured);
  }

  #finish(reason) {
    this.close();
    this.#end(reason);
  }

  close() {
    this.#ticker?.terminate();
    this.#ticker = null;
    if (this.#socket) {
      this.#socket.onclose = this.#socket.onmessage = null;
      this.#socket.close();
    }
  }
}
