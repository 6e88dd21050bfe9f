/** The page: joins the driver, the session, the player and what the user can press. Every concern has its own module. */

import * as api from "./api.js";
import { cameras, Driver } from "./camera.js";
import { Controls } from "./controls.js";
import { CropEditor } from "./crop.js";
import { markPng } from "./marks.js";
import { recall, remember } from "./memory.js";
import { Player } from "./player.js";
import { Portraits, receivePictures } from "./portraits.js";
import { Recorder } from "./recorder.js";
import { Session } from "./session.js";
import { Sound } from "./sound.js";
import { Statistics } from "./statistics.js";
import { takePicture } from "./take.js";

const $ = (id) => document.getElementById(id);
const POLL = 700;
const FIRST_RATE = 8;

const driver = new Driver($("driver-video"));
const sound = new Sound();
const statistics = new Statistics();
const player = new Player($("result-video"), $("result-canvas"), shown);
const recorder = new Recorder(recorded);
const controls = new Controls(document, (values) => session?.setControls(values));
const portraits = new Portraits($("portraits"), chosen);
const cropEditor = new CropEditor({
  dialog: $("crop-dialog"), image: $("crop-image"), square: $("crop-square"), handle: $("crop-handle"),
  advice: $("crop-advice"), position: $("crop-position"), use: $("crop-use"), cancel: $("crop-cancel"),
});

let session = null;
let portrait = null;
let drivingFile = null;
let server = { rate: FIRST_RATE };
let ready = false;
let told = false; // by the server, what state it is in, since the connection was made
let skipped = 0;
let dropped = 0;

// What is said

/** Say where things stand. tone: "busy", "good", "warn", "bad" or "idle". */
function say(text, tone) {
  if ($("state").textContent !== text) $("state").textContent = text;
  $("state").dataset.tone = tone;
  $("veil-text").textContent = text;
  $("veil").hidden = tone === "good" || (tone === "idle" && portrait !== null);
}

function complain(error) {
  $("problem-text").textContent = error.message ?? String(error);
  $("problem").hidden = false;
}

function forgive() {
  $("problem").hidden = true;
}

/** Run what a button starts, and show what goes wrong in it. */
function guarded(action) {
  return async (...args) => {
    forgive();
    try {
      await action(...args);
    } catch (error) {
      complain(error);
    }
  };
}

function offerButtons() {
  const running = session !== null;
  $("start").disabled = !running && (!ready || portrait === null);
  $("start-text").textContent = running ? "Stop" : "Start";
  $("start-icon").setAttribute("href", `assets/icons.svg#${running ? "stop" : "play"}`);
  $("snapshot").disabled = !player.showing;
  $("record").disabled = !(running && player.showing && Recorder.possible) && !recorder.running;
  $("record").setAttribute("aria-pressed", String(recorder.running));
  $("record-text").textContent = recorder.running ? "End recording" : "Record";
  $("recording-mark").hidden = !recorder.running;
  $("recalibrate").disabled = !running;
  $("view").hidden = !running;
  $("result-still").hidden = player.showing || portrait === null;
  $("driver-empty").hidden = running;
}

function sayReady() {
  if (!ready) return;
  const places = server.capacity ? ` ${server.sessions} of ${server.capacity} places are taken.` : "";
  say(`Ready.${places}`, "idle");
}

// The server's state before the start

async function watchServer() {
  for (;;) {
    try {
      server = { ...server, ...(await api.status()) };
      if (server.state === "ready") break;
      if (server.state === "failed") return say(`The model cannot be used: ${server.error}`, "bad");
      $("progress").hidden = false;
      $("progress").value = server.progress ?? 0;
      say(`Loading the model: ${Math.round(100 * (server.progress ?? 0))} %`, "busy");
    } catch (error) {
      say(error.message, "bad");
      if (error.status === 401 || error.status === 403) return undefined;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL));
  }
  $("progress").hidden = true;
  $("expression-row").hidden = server.expression === false;
  controls.setOwn(Object.fromEntries(Object.entries(server.gains ?? {}).map(([name, own]) => [`${name}_gain`, own])));
  await portraits.load();
  ready = true;
  if (portrait === null) say("Ready. Choose or drop a portrait.", "idle");
  else sayReady();
  return offerButtons();
}

// Portraits

function chosen(next) {
  portrait = next;
  $("portrait-image").src = next.image;
  $("portrait-image").hidden = false;
  $("result-still").src = next.image;
  $("portrait-name").textContent = `: ${next.name}`;
  $("crop-again").hidden = !next.details;
  session?.setPortrait(next.id);
  offerButtons();
}

async function takeIn(picture) {
  if (picture.type && !picture.type.startsWith("image/")) {
    throw new Error(`${picture.name ?? "That"} is not a picture. Choose a JPEG, PNG or WebP file.`);
  }
  const tone = $("state").dataset.tone;
  const before = $("state").textContent;
  say("Looking for the face in your picture …", "busy");
  const details = await api.uploadPortrait(picture).finally(() => say(before, tone));
  await crop(details);
}

async function crop(details) {
  const advice = details.face
    ? "The face was found. Head and shoulders should fill the square."
    : "No human face that can be read was found: place the square around head and shoulders.";
  const wanted = await cropEditor.edit(
    api.portraitOriginal(details.id), details.crop, details.width, details.height, advice);
  if (wanted === null) return;
  const same = wanted.every((value, index) => value === details.crop[index]);
  portraits.add(details.id, same ? details : await api.cropPortrait(details.id, wanted));
}

async function take() {
  const elements = { dialog: $("take-dialog"), video: $("take-video"), now: $("take-now"), cancel: $("take-cancel") };
  const picture = await takePicture(elements, $("camera").value);
  if (picture) await takeIn(picture);
}

// Start and stop

async function start() {
  const stay = new Session(driver, {
    onOpen: (id, way) => opened(id, way), onLost: lost, onMessage: heard, onFrame: (...frame) => player.showFrame(...frame),
    onStream: (stream) => player.showStream(stream), onSkipped: () => (skipped += 1),
  }, { portrait: portrait.id, controls: controls.values, way: $("way").value, rate: drivingRate() });
  session = stay;
  skipped = dropped = 0;
  told = false;
  statistics.clear();
  player.hide();
  offerButtons();
  try {
    await useSource();
    if (session === null) driver.close(); // stopped while the browser asked for permission
    if (session !== stay) return;
    say("Connecting …", "busy");
    await stay.run();
  } catch (error) {
    if (session !== stay) return;
    stop();
    say(error.message, "bad");
    throw error;
  }
}

function stop() {
  const stay = session;
  session = null;
  recorder.stop();
  stay?.stop();
  player.clear();
  driver.close();
  sound.release();
  for (const figure of document.querySelectorAll(".statistics dd")) figure.textContent = "–";
  say("Stopped. Press Start to go on.", "idle");
  offerButtons();
}

async function useSource() {
  if ($("source-file").checked) {
    if (drivingFile === null) throw new Error("Choose a video first, or the camera as the driver.");
    say("Opening the video …", "busy");
    await sound.useFile($("driver-video"));
    await driver.useFile(drivingFile);
    sound.setAudible($("audible").checked);
  } else {
    say("Waiting for permission to use the camera …", "busy");
    await driver.useCamera($("camera").value);
    await listCameras();
  }
}

/** Change the driver while the stream runs: with the same portrait and controls, in a new session. */
const sourceChanged = guarded(async () => {
  if (session === null) return;
  stop();
  await start();
});

function opened(id, way) {
  $("statistic-way").textContent = way;
  $("view-link").value = api.view(id);
  if (!told) say(...SERVER_STATES.waiting);
}

function lost(seconds, reason) {
  told = false;
  recorder.stop("The recording ended when the connection was lost; what came before is saved.");
  $("statistic-way").textContent = "–";
  say(`Lost the connection (${reason.replace(/\.$/, "")}). Reconnecting in ${Math.ceil(seconds)} s …`, "warn");
}

// What comes from the server

const SERVER_STATES = {
  waiting: ["Waiting for the first picture …", "busy"],
  running: ["Running", "good"],
  "no face": ["No face seen. Come into the picture, or turn on more light.", "warn"],
  "no driver": ["No picture comes from the camera. Is it covered, or in use by another program?", "warn"],
  failed: ["The server failed. Stop and start again; if it stays so, look at the server's log.", "bad"],
};

function heard(message) {
  if (session === null) return;
  if (message.type === "frame") player.announce(message.captured);
  else if (message.type === "error") complain(new Error(message.error));
  else if (message.type === "statistics") {
    dropped = message.dropped ?? dropped;
    if (message.driving_rate > 0) server.rate = message.driving_rate;
    session.setRate(drivingRate());
    $("statistic-rate").textContent = `${drivingRate().toFixed(1)}/s`;
  } else if (message.type === "state") {
    told = true;
    const [text, tone] = SERVER_STATES[message.state] ?? [message.text, "warn"];
    say(message.state === "running" ? text : message.text || text, tone);
  }
}

function drivingRate() {
  return controls.values.driving_rate === "auto" ? server.rate || FIRST_RATE : controls.values.driving_rate;
}

function shown(captured, displayed) {
  statistics.add(captured, displayed);
  if ($("snapshot").disabled) offerButtons(); // the first picture
  if (captured !== null) session?.send({ type: "shown", captured, displayed });
}

function refresh() {
  if (recorder.running) {
    const seconds = Math.floor(recorder.seconds);
    $("recording-time").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  }
  if (session === null) return;
  const { fps, p50, p95 } = statistics.summary(performance.now());
  $("statistic-fps").textContent = fps === null ? "–" : `${fps.toFixed(1)} frames/s`;
  $("statistic-delay").textContent = p50 === null ? "–" : `${Math.round(p50)} / ${Math.round(p95)} ms`;
  $("statistic-dropped").textContent = String(dropped + skipped);
  if (p50 !== null) sound.setDelay(p50 / 1000);
}

// Take away: recording, snapshot

function download(blob, name) {
  const link = $("download-link");
  if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.textContent = `${name} (${(blob.size / 2 ** 20).toFixed(1)} MB)`;
  $("download").hidden = false;
  link.click();
}

function fileName(extension) {
  const time = new Date().toISOString().slice(0, 19).replace("T", "-").replaceAll(":", "");
  return `personalive-ai-generated-${time}.${extension}`;
}

async function record() {
  if (recorder.running) return recorder.stop();
  let track = $("source-file").checked ? sound.track : null;
  if (!$("source-file").checked && $("microphone").checked) {
    await sound.useMicrophone();
    track = sound.track;
  }
  if (!player.showing || session === null) return undefined;
  recorder.start(player.stream(), track);
  return offerButtons();
}

function recorded(blob, extension, why) {
  if (!$("source-file").checked) sound.release();
  if (why) complain(new Error(why));
  download(blob, fileName(extension));
  offerButtons();
}

async function fullScreen() {
  if (document.fullscreenElement) return document.exitFullscreen();
  if ($("screen").requestFullscreen) return $("screen").requestFullscreen();
  return $("result-video").webkitEnterFullscreen?.(); // an iPhone lets only a video fill the screen
}

// The driver's settings

async function listCameras() {
  const select = $("camera");
  const wanted = select.value || recall("camera", "");
  const options = (await cameras()).map(({ id, name }) => new Option(name, id, false, id === wanted));
  select.replaceChildren(new Option("Default camera", ""), ...options);
}

function showSource() {
  const file = $("source-file").checked;
  $("camera-settings").hidden = file;
  $("file-settings").hidden = !file;
  $("driver-empty").textContent = file ? "No video playing" : "Camera off";
}

function showMirror() {
  $("driver-video").classList.toggle("mirrored", $("mirror").checked);
}

function listen() {
  $("problem-close").onclick = forgive;
  $("start").onclick = guarded(async () => (session === null ? start() : stop()));
  $("record").onclick = guarded(record);
  $("snapshot").onclick = guarded(async () => download(markPng(await player.picture()), fileName("png")));
  $("fullscreen").onclick = guarded(fullScreen);
  $("recalibrate").onclick = () => session?.send({ type: "recalibrate" });
  $("reset").onclick = () => controls.reset(["mirror", "quality", "driving_rate"]);
  $("take").onclick = guarded(take);
  $("crop-again").onclick = guarded(() => crop(portrait.details));
  $("view-copy").onclick = guarded(async () => {
    $("view-link").select();
    await navigator.clipboard.writeText($("view-link").value);
  });
  receivePictures($("picture"), $("drop"), guarded(takeIn));
  $("mirror").addEventListener("input", showMirror);
  $("audible").addEventListener("change", () => sound.setAudible($("audible").checked));
  $("way").value = recall("way", "auto");
  $("way").addEventListener("change", () => remember("way", $("way").value));
  $("way").addEventListener("change", sourceChanged);
  $("camera").addEventListener("change", () => remember("camera", $("camera").value));
  $("camera").addEventListener("change", sourceChanged);
  $("video-file").addEventListener("change", () => {
    drivingFile = $("video-file").files[0] ?? null;
    $("video-name").textContent = drivingFile?.name ?? "No video chosen";
    sourceChanged();
  });
  for (const id of ["source-camera", "source-file"]) {
    $(id).addEventListener("change", () => {
      showSource();
      controls.set("mirror", $("source-camera").checked); // a camera is a mirror, a film is not
      showMirror();
      if ($("source-camera").checked || drivingFile !== null) sourceChanged();
    });
  }
  driver.onEnded = () => {
    stop();
    complain(new Error("The camera was disconnected. Plug it in again or choose another one, then press Start."));
  };
  navigator.mediaDevices?.addEventListener?.("devicechange", listCameras);
  document.addEventListener("visibilitychange", () => statistics.clear());
  window.addEventListener("pagehide", () => session && stop());
  window.addEventListener("beforeunload", (event) => recorder.running && event.preventDefault());
  setInterval(refresh, 500);
}

listen();
showSource();
showMirror();
listCameras();
guarded(watchServer)();
