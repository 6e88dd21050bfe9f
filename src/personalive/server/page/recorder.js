/** Records what the player shows, with sound, into one file in the browser. */

import { markWebm } from "./marks.js";

const KINDS = ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4"];
const MOST_BYTES = 2 ** 30;
const SLICE = 1000;

export class Recorder {
  #recorder = null;
  #parts = [];
  #bytes = 0;
  #since = 0;
  #why = "";

  /** `onDone(blob, extension, why)` is called once per recording; `why` is empty when the user ended it. */
  constructor(onDone) {
    this.onDone = onDone;
  }

  static get possible() {
    return typeof MediaRecorder !== "undefined" && KINDS.some((kind) => MediaRecorder.isTypeSupported(kind));
  }

  get running() {
    return this.#recorder !== null;
  }

  /** Seconds recorded so far. */
  get seconds() {
    return this.running ? (performance.now() - this.#since) / 1000 : 0;
  }

  /** Begin with this video stream and, if not null, this audio track. */
  start(video, audio) {
    const stream = new MediaStream([...video.getVideoTracks(), ...(audio ? [audio] : [])]);
    const kind = KINDS.find((one) => MediaRecorder.isTypeSupported(one));
    const recorder = new MediaRecorder(stream, { mimeType: kind, videoBitsPerSecond: 4_000_000 });
    this.#parts = [];
    this.#bytes = 0;
    this.#since = performance.now();
    this.#recorder = recorder;
    this.#why = "";
    recorder.ondataavailable = ({ data }) => {
      this.#parts.push(data);
      this.#bytes += data.size;
      if (this.#bytes > MOST_BYTES) this.stop("The recording reached 1 GB and was ended; start another one to go on.");
    };
    recorder.onstop = async () => {
      this.#recorder = null;
      const whole = new Blob(this.#parts, { type: kind.split(";")[0] });
      this.#parts = [];
      const webm = kind.startsWith("video/webm");
      this.onDone(webm ? await markWebm(whole) : whole, webm ? "webm" : "mp4", this.#why);
    };
    recorder.start(SLICE);
  }

  /** End the recording; `why` where the user did not ask for it. */
  stop(why = "") {
    if (this.#recorder?.state !== "recording") return;
    this.#why = why;
    this.#recorder.stop();
  }
}
