/** The driver: a camera or a video file, seen in the preview element and handed to the transports. */

/** The camera or the file cannot be used; the message names the remedy. */
export class DriverError extends Error {}

const REMEDIES = {
  NotAllowedError: "The browser may not use the camera. Allow it (the camera sign in the address bar), then press Start.",
  NotFoundError: "No camera was found. Plug one in, or choose a video file as the driver.",
  NotReadableError: "The camera is in use by another program. Close that program, then press Start.",
  OverconstrainedError: "That camera is not there any more. Choose another one.",
};

function inWords(error) {
  return new DriverError(REMEDIES[error.name] ?? `The camera does not start (${error.message}). Try another one.`);
}

/** The camera's stream. Raises DriverError in words. */
export async function openCamera(deviceId = "") {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new DriverError(
      "The browser gives cameras only to pages from this machine (localhost) or over https. Open the page so, " +
      "for example through an SSH tunnel, or choose a video file as the driver.");
  }
  const wanted = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } };
  if (deviceId) wanted.deviceId = { exact: deviceId };
  else wanted.facingMode = { ideal: "user" };
  try {
    return await navigator.mediaDevices.getUserMedia({ video: wanted });
  } catch (error) {
    throw inWords(error);
  }
}

/** The cameras that the browser tells of: [{id, name}]; names come only after permission. */
export async function cameras() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices.filter((device) => device.kind === "videoinput" && device.deviceId)
    .map((device, index) => ({ id: device.deviceId, name: device.label || `Camera ${index + 1}` }));
}

export function stopStream(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

export class Driver {
  #video;
  #stream = null;
  #captured = null;
  #address = null;

  /** Called without arguments when the camera is unplugged or taken away. */
  onEnded = () => {};

  constructor(video) {
    this.#video = video;
    this.#watch();
  }

  async useCamera(deviceId) {
    const stream = await openCamera(deviceId);
    this.close();
    this.#stream = stream;
    stream.getVideoTracks()[0].addEventListener("ended", () => this.onEnded());
    this.#video.muted = true;
    this.#video.srcObject = stream;
    await this.#play("The camera gives no picture. Try another one.");
  }

  async useFile(file) {
    this.close();
    this.#address = URL.createObjectURL(file);
    this.#video.src = this.#address;
    this.#video.loop = true;
    await this.#play(`The browser cannot play ${file.name}. Convert it to MP4 (H.264) or WebM, or choose another video.`);
    if (this.#video.videoWidth === 0) {
      this.close();
      throw new DriverError(`${file.name} has no picture. Choose a video with one.`);
    }
  }

  async #play(remedy) {
    try {
      await this.#video.play();
    } catch (error) {
      if (error.name === "AbortError") return; // closed meanwhile
      this.close();
      throw new DriverError(remedy);
    }
  }

  /** The moving picture as a video track for WebRTC; null where the browser cannot make one (a file, in Safari). */
  track() {
    if (this.#stream === null) this.#stream = this.#video.captureStream?.() ?? this.#video.mozCaptureStream?.() ?? null;
    return this.#stream?.getVideoTracks()[0] ?? null;
  }

  get element() {
    return this.#video;
  }

  /** (width, height) of the picture; zeros before the first one. */
  get size() {
    return [this.#video.videoWidth, this.#video.videoHeight];
  }

  /** When the picture that is shown now was captured, on the clock of performance.now(). */
  captured() {
    const now = performance.now();
    // In a hidden tab no frame callbacks come, though the picture moves on: then it is taken as of now.
    return this.#captured !== null && now - this.#captured < 200 ? this.#captured : now;
  }

  #watch() {
    this.#video.requestVideoFrameCallback?.((now, frame) => {
      this.#captured = frame.captureTime ?? now;
      this.#watch();
    });
  }

  close() {
    stopStream(this.#stream);
    this.#stream = null;
    this.#captured = null;
    this.#video.pause();
    this.#video.srcObject = null;
    this.#video.removeAttribute("src");
    this.#video.load();
    if (this.#address) URL.revokeObjectURL(this.#address);
    this.#address = null;
  }
}
