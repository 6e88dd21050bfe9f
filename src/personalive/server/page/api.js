/** The server's addresses (docs/live.md). All are built from where this file lies, so the page works under any prefix. */

const ROOT = new URL("../", import.meta.url);

/** The server said no (`status` tells how), or did not answer at all (`status` 0). The message can be shown. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.name = "ApiError";
    this.status = status;
  }
}

export function address(path) {
  return new URL(path, ROOT).href;
}

export function socketAddress(path) {
  return address(path).replace(/^http/, "ws");
}

async function request(method, path, { json, body, type, signal, keepalive } = {}) {
  const headers = json !== undefined ? { "Content-Type": "application/json" } : type ? { "Content-Type": type } : {};
  let response;
  try {
    response = await fetch(address(path), {
      method, headers, signal, keepalive, body: json !== undefined ? JSON.stringify(json) : body,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Check that personalive serve is still running.", 0);
  }
  const answer = response.headers.get("Content-Type")?.includes("json") ? await response.json() : await response.text();
  if (!response.ok) throw new ApiError(refusal(response.status, answer), response.status);
  return answer;
}

/** The server's own sentence where it gave one. */
function refusal(status, answer) {
  if (typeof answer?.error === "string") return answer.error;
  if (status === 401 || status === 403) {
    return "The server does not know this browser: open the link with the token that personalive serve printed.";
  }
  return `The server refused (${status}). Reload the page; if it happens again, look at the server's log.`;
}

const part = encodeURIComponent;

export const status = (signal) => request("GET", "api/status", { signal });
export const portraits = () => request("GET", "api/portraits");
export const uploadPortrait = (picture) =>
  request("POST", "api/portraits?crop=auto", { body: picture, type: picture.type || "application/octet-stream" });
export const cropPortrait = (id, crop) => request("PUT", `api/portraits/${part(id)}/crop`, { json: { crop } });
export const portraitImage = (id) => address(`api/portraits/${part(id)}/image`);
export const portraitOriginal = (id) => address(`api/portraits/${part(id)}/original`);

export const openSession = (portrait, controls) =>
  request("POST", "api/sessions", { json: { portrait, controls } });
export const closeSession = (id) => request("DELETE", `api/sessions/${part(id)}`, { keepalive: true });
export const offer = (id, description, signal) =>
  request("POST", `api/sessions/${part(id)}/offer`, { json: description, signal });
export const frames = (id) => socketAddress(`api/sessions/${part(id)}/frames`);
export const watching = (id) => `${frames(id)}?watch=1`;
export const view = (id) => address(`view/${part(id)}`);

/** Ask to play a session (WHEP): SDP offer in, SDP answer out. */
export const play = (id, sdp) => request("POST", `whep/${part(id)}`, { body: sdp, type: "application/sdp" });
