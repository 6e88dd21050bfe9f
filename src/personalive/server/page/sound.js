/** Sound for the recording: the microphone's or the driving file's, held back by as long as the portrait is behind. */

import { stopStream } from "./camera.js";

const LONGEST_DELAY = 20;

export class Sound {
  #context = null;
  #delay;
  #audible;
  #recorded;
  #file = null;
  #microphone = null;

  #open() {
    if (this.#context === null) {
      this.#context = new AudioContext();
      this.#delay = this.#context.createDelay(LONGEST_DELAY);
      this.#audible = new GainNode(this.#context, { gain: 0 });
      this.#recorded = this.#context.createMediaStreamDestination();
      this.#delay.connect(this.#recorded);
      this.#delay.connect(this.#audible).connect(this.#context.destination);
    }
    return this.#context.resume();
  }

  /** Take the sound of the driving file in this element. To be called from a click. */
  async useFile(video) {
    await this.#open();
    this.#file ??= this.#context.createMediaElementSource(video); // an element gives its sound to one source for ever
    this.#file.connect(this.#delay);
    video.muted = false;
  }

  /** Take the microphone. Raises an error in words. */
  async useMicrophone() {
    try {
      this.#microphone = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch {
      throw new Error("The browser may not use the microphone: allow it, or untick its box to record without sound.");
    }
    await this.#open();
    this.#context.createMediaStreamSource(this.#microphone).connect(this.#delay);
  }

  /** Let go of the file and the microphone. */
  release() {
    this.#file?.disconnect();
    stopStream(this.#microphone);
    this.#microphone = null;
  }

  /** How far the portrait is behind, in seconds. */
  setDelay(seconds) {
    this.#delay?.delayTime.setTargetAtTime(Math.min(LONGEST_DELAY, seconds), this.#context.currentTime, 0.5);
  }

  /** Whether it is heard, too. The microphone never is: it would howl. */
  setAudible(audible) {
    if (this.#audible) this.#audible.gain.value = audible ? 1 : 0;
  }

  /** The audio track to record; null when there is no sound. */
  get track() {
    return this.#recorded?.stream.getAudioTracks()[0] ?? null;
  }
}
