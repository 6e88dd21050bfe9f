/** The result on the screen: a video element for WebRTC, a canvas for frames from the WebSocket. */

import { Pacer, Pairing } from "./pacing.js";

export class Player {
  #pacer = new Pacer();
  #pairing = new Pairing();
  #video;
  #canvas;
  #surface = null;
  #onShown;
  #run = 0;
  #painting = false;

  /** `onShown(captured, displayed)` is called for each frame shown; `captured` may be null (see Statistics). */
  constructor(video, canvas, onShown) {
    this.#video = video;
    this.#canvas = canvas;
    this.#onShown = onShown;
  }

  /** Show the server's video. */
  showStream(stream) {
    this.clear();
    const run = this.#run;
    this.#pairing = new Pairing();
    this.#video.srcObject = stream;
    this.#video.play().catch(() => {}); // muted: it may always play; a stream that ends at once is no error
    if (!this.#video.requestVideoFrameCallback) {
      this.#video.onplaying = () => this.#reveal(this.#video);
      return;
    }
    const shown = (now, frame) => {
      if (run !== this.#run) return;
      this.#reveal(this.#video);
      this.#onShown(this.#pairing.find(frame.receiveTime ?? now), frame.expectedDisplayTime ?? now);
      this.#video.requestVideoFrameCallback(shown);
    };
    this.#video.requestVideoFrameCallback(shown);
  }

  /** The server's word that the video frame which arrives now was captured then. */
  announce(captured) {
    this.#pairing.add(captured, performance.now());
  }

  /** Show a decoded frame in its turn. The player owns the bitmap from here on. */
  showFrame(bitmap, captured) {
    const now = performance.now();
    // A frame made up to fill a pause of the driver has no capture time (NaN): it is shown at once.
    const travelled = Number.isNaN(captured) ? now : captured;
    for (const left of this.#pacer.add({ bitmap, captured }, travelled, now)) left.bitmap.close();
    if (document.hidden) this.#paint(); // no animation frames come: keep up, so that coming back shows the present
    else this.#paintSoon();
  }

  #paintSoon() {
    if (this.#painting) return;
    this.#painting = true;
    requestAnimationFrame(() => {
      this.#painting = false;
      this.#paint();
      if (this.#pacer.size > 0) this.#paintSoon();
    });
  }

  #paint() {
    const now = performance.now();
    const next = this.#pacer.take(now);
    if (next === null) return;
    for (const { bitmap } of next.late) bitmap.close();
    const { bitmap, captured } = next.frame;
    if (this.#canvas.width !== bitmap.width || this.#canvas.height !== bitmap.height) {
      this.#canvas.width = bitmap.width;
      this.#canvas.height = bitmap.height;
    }
    this.#canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    this.#reveal(this.#canvas);
    this.#onShown(Number.isNaN(captured) ? null : captured, now);
  }

  #reveal(surface) {
    if (this.#surface === surface) return;
    this.#surface = surface;
    this.#video.hidden = surface !== this.#video;
    this.#canvas.hidden = surface !== this.#canvas;
  }

  /** Whether a picture is to be seen. */
  get showing() {
    return this.#surface !== null;
  }

  /** What is shown, as a video stream to record; null while nothing is. */
  stream() {
    if (this.#surface === null) return null;
    return this.#surface === this.#video ? this.#video.srcObject : this.#canvas.captureStream();
  }

  /** The frame on the screen as a PNG. */
  async picture() {
    const width = this.#surface.videoWidth ?? this.#surface.width;
    const height = this.#surface.videoHeight ?? this.#surface.height;
    const copy = new OffscreenCanvas(width, height);
    copy.getContext("2d").drawImage(this.#surface, 0, 0);
    return copy.convertToBlob({ type: "image/png" });
  }

  /** Let go of the stream; the last picture stays until `hide`. */
  clear() {
    this.#run += 1;
    this.#pacer = new Pacer();
  }

  hide() {
    this.clear();
    this.#video.srcObject = null;
    this.#reveal(null);
  }
}
