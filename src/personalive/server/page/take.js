/** A picture taken with the camera, in a dialog that shows what the camera sees. */

import { openCamera, stopStream } from "./camera.js";

/** The picture as a JPEG, or null when the user cancels. Raises DriverError in words when there is no camera. */
export async function takePicture({ dialog, video, now, cancel }, deviceId) {
  const stream = await openCamera(deviceId);
  try {
    now.disabled = true;
    video.srcObject = stream;
    video.onloadeddata = () => (now.disabled = false);
    now.onclick = () => dialog.close("take");
    cancel.onclick = () => dialog.close("");
    dialog.returnValue = "";
    dialog.showModal();
    video.play().catch(() => {}); // closed before it began
    await new Promise((resolve) => (dialog.onclose = resolve));
    if (dialog.returnValue !== "take") return null;
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    return await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  } finally {
    stopStream(stream);
    video.srcObject = null;
  }
}
