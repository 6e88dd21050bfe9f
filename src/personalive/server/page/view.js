/** The bare page: plays the session that its address names, over WHEP or the WebSocket, and comes back after a loss. */

import { play, watching } from "./api.js";
import { backoff } from "./pacing.js";
import { Player } from "./player.js";
import { completeOffer, connected } from "./transport-webrtc.js";

const state = document.getElementById("view-state");
const session = decodeURIComponent(location.pathname.split("/").at(-1));
const player = new Player(document.getElementById("view-video"), document.getElementById("view-canvas"), () => {
  state.textContent = "";
});
let webrtc = true;

/** Play over WebRTC until the connection is lost. Rejects when there is none within a few seconds. */
async function playWebrtc() {
  const peer = new RTCPeerConnection({ iceServers: [] });
  try {
    const { receiver } = peer.addTransceiver("video", { direction: "recvonly" });
    const { sdp } = await completeOffer(peer);
    await peer.setRemoteDescription({ type: "answer", sdp: await play(session, sdp) });
    await connected(peer);
    player.showStream(new MediaStream([receiver.track]));
    await new Promise((resolve) => {
      peer.addEventListener("connectionstatechange", () =>
        ["failed", "closed", "disconnected"].includes(peer.connectionState) && resolve());
    });
  } finally {
    peer.close();
  }
}

/** Play over the WebSocket until it closes; gives the server's reason. */
async function playSocket() {
  const socket = new WebSocket(watching(session));
  socket.binaryType = "arraybuffer";
  // The capture times are those of another page's clock: frames are shown as they come.
  socket.onmessage = async ({ data }) => {
    if (typeof data === "string") return;
    player.showFrame(await createImageBitmap(new Blob([new Uint8Array(data, 8)], { type: "image/jpeg" })), NaN);
  };
  return new Promise((resolve) => {
    socket.onclose = ({ reason }) => resolve(reason);
  });
}

/** Play until the connection is lost; gives the reason in words, if there is one. */
async function watch() {
  if (webrtc) {
    try {
      await playWebrtc();
      return "The connection was lost.";
    } catch (error) {
      webrtc = error.status === 404; // no such session, which can change; anything else: WebRTC does not get through
    }
  }
  return (await playSocket()) || "The connection was lost.";
}

for (let attempt = 0; ; attempt += 1) {
  const since = performance.now();
  const reason = await watch();
  if (performance.now() - since > 10_000) attempt = 0;
  state.textContent = `${reason} Trying again …`;
  await new Promise((resolve) => setTimeout(resolve, backoff(attempt, Math.random())));
}
