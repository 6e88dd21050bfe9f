/** Camera in and animated video out over WebRTC, with messages on a data channel. No STUN or TURN: nothing else is asked. */

import { offer } from "./api.js";

const TIMEOUT = 4000;
const GATHERING = 1000;
const PING = 1000;
const SILENCE = 8000;
const SLOWEST = 3; // frames a second: fewer would look to the server like a camera that has stopped

function within(milliseconds, promise, reason) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(reason)), milliseconds);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** The local description when all candidates are in it, or those that came within a second. */
export async function completeOffer(peer) {
  await peer.setLocalDescription(await peer.createOffer());
  const complete = new Promise((resolve) => {
    peer.addEventListener("icegatheringstatechange", () => peer.iceGatheringState === "complete" && resolve());
    if (peer.iceGatheringState === "complete") resolve();
  });
  await Promise.race([complete, new Promise((resolve) => setTimeout(resolve, GATHERING))]);
  return peer.localDescription;
}

/** Settles when the peer is connected, rejects when it cannot be. */
export function connected(peer) {
  return within(TIMEOUT, new Promise((resolve, reject) => {
    const look = () => {
      if (peer.connectionState === "connected") resolve();
      if (peer.connectionState === "failed") reject(new Error("WebRTC does not get through"));
    };
    peer.addEventListener("connectionstatechange", look);
    look();
  }), "WebRTC does not get through in time");
}

export class RtcTransport {
  static label = "WebRTC";
  #hooks;
  #peer = null;
  #channel = null;
  #sender = null;
  #pinging = null;
  #rate = 0;
  #heard = 0;
  #end;

  /** Settles with a reason when the connection is lost. */
  closed = new Promise((resolve) => (this.#end = resolve));

  /** hooks: onMessage(object), onStream(MediaStream). */
  constructor(hooks) {
    this.#hooks = hooks;
  }

  /** Connect to a session and send the driver's video, at most `rate` frames a second. Rejects within a few seconds. */
  async open(session, driver, rate) {
    const track = driver.track();
    if (track === null) throw new Error("this browser cannot send a video file over WebRTC");
    const peer = new RTCPeerConnection({ iceServers: [] });
    this.#peer = peer;
    try {
      this.#channel = peer.createDataChannel("control");
      this.#channel.onmessage = ({ data }) => {
        this.#heard = performance.now();
        this.#hooks.onMessage(JSON.parse(data));
      };
      this.#channel.onclose = () => this.#finish("the server closed the connection");
      const transceiver = peer.addTransceiver(track, { direction: "sendrecv" });
      this.#sender = transceiver.sender;
      if ("jitterBufferTarget" in transceiver.receiver) transceiver.receiver.jitterBufferTarget = 0;
      const ready = new Promise((resolve) => (this.#channel.onopen = resolve));
      const description = await completeOffer(peer);
      await peer.setRemoteDescription(await offer(session, description, AbortSignal.timeout(TIMEOUT)));
      await connected(peer);
      await within(TIMEOUT, ready, "the data channel does not open");
      this.#hooks.onStream(new MediaStream([transceiver.receiver.track]));
    } catch (error) {
      this.close();
      throw error.name === "TimeoutError" ? new Error("the server does not answer the WebRTC offer") : error;
    }
    peer.addEventListener("connectionstatechange", () => {
      if (["failed", "closed"].includes(peer.connectionState)) this.#finish("the WebRTC connection was lost");
    });
    this.#heard = performance.now();
    this.#pinging = setInterval(() => this.#ping(), PING);
    this.setRate(rate);
  }

  /** Frames a second to send at most from now on. */
  setRate(rate) {
    const most = Math.min(30, Math.max(SLOWEST, Math.ceil(rate)));
    if (most === this.#rate || !this.#sender) return;
    this.#rate = most;
    const parameters = this.#sender.getParameters();
    for (const encoding of parameters.encodings) encoding.maxFramerate = most;
    this.#sender.setParameters(parameters).catch(() => {}); // a browser that cannot sends more; the server drops them
  }

  setQuality() {} // the encoder follows the network by itself

  send(message) {
    if (this.#channel?.readyState === "open") this.#channel.send(JSON.stringify(message));
  }

  /** Each ping is answered: a connection that died without a word is noticed by the silence. */
  #ping() {
    if (performance.now() - this.#heard > SILENCE) this.#finish("the server fell silent");
    else this.send({ type: "ping", time: performance.now() });
  }

  #finish(reason) {
    this.close();
    this.#end(reason);
  }

  close() {
    clearInterval(this.#pinging);
    if (this.#channel) this.#channel.onclose = null;
    this.#peer?.close();
  }
}
