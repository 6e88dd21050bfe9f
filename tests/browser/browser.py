"""What the tests in a browser share: Chromium with a fake camera, and whether one picture follows another."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from personalive import gallery

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
PATIENCE = 60_000
"""Milliseconds: for a machine that is busy with other things."""

Series = npt.NDArray[np.float64]
"""Pictures over time: (T, pixels)."""


def make_camera_clip(path: Path) -> Path:
    """The built-in driving clip as a film for Chromium's fake camera, which plays it over and over at 30 a second."""
    with av.open(str(gallery.find_driving(gallery.DRIVING))) as source, av.open(str(path), "w", format="mjpeg") as film:
        stream = film.add_stream("mjpeg", rate=30, options={"qmin": "4", "qmax": "4"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuvj420p"
        for index, frame in enumerate(source.decode(video=0)):
            wide = np.full((240, 320, 3), 128, np.uint8)
            wide[:, 40:280] = frame.reformat(240, 240, format="rgb24").to_ndarray()
            picture = av.VideoFrame.from_ndarray(wide, format="rgb24")
            picture.pts = index
            film.mux(stream.encode(picture))
        film.mux(stream.encode(None))
    return path


@contextmanager
def chromium(camera: Path) -> Iterator[Browser]:
    """A headless Chromium whose camera shows that film, and which asks nobody for permission."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: run `make chromium` as root on Debian, or install it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-video-capture={camera}",
                "--no-sandbox",  # in a container, as root
                "--disable-dev-shm-usage",
            ],
        )
        yield browser
        browser.close()


class Faults:
    """What a page complained of in its console: nothing is expected."""

    def __init__(self, page: Page) -> None:
        self.seen: list[str] = []
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.seen.append(str(error)))

    def _note(self, kind: str, text: str) -> None:
        # The browser itself reports every answer that is no success, also those that a test provokes.
        if kind == "error" and "Failed to load resource" not in text:
            self.seen.append(text)


SAMPLE = """async ([driver, output, count, interval]) => {
  const canvas = new OffscreenCanvas(24, 24);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const look = (surface) => {
    const width = surface.videoWidth ?? surface.width, height = surface.videoHeight ?? surface.height;
    const side = Math.min(width, height);
    context.drawImage(surface, (width - side) / 2, (height - side) / 2, side, side, 0, 0, 24, 24);
    const { data } = context.getImageData(0, 0, 24, 24);
    return Array.from({ length: 576 }, (_, at) => data[4 * at] + data[4 * at + 1] + data[4 * at + 2]);
  };
  const seen = [[], []];
  for (let index = 0; index < count; index += 1) {
    seen[0].push(look(document.querySelector(driver)));
    seen[1].push(look(document.querySelector(output)));
    await new Promise((resolve) => setTimeout(resolve, interval));
  }
  return seen;
}"""


def watch(page: Page, output: str, count: int = 50, interval: int = 100) -> tuple[Series, Series]:
    """What the driver and the output show over time: two series of `count` pictures, taken at the same moments."""
    driver, result = page.evaluate(SAMPLE, ["#driver-video", output, count, interval])
    return np.array(driver, float), np.array(result, float)


def likeness(driver: Series, output: Series, most_lag: int) -> tuple[float, int]:
    """How much the output changes as the driver did a little before: the best correlation, and how many samples before.

    Each pixel's own mean is taken off first: what counts is movement, not what the pictures show at rest.
    """
    found = [(correlation(driver[: len(driver) - lag], output[lag:]), lag) for lag in range(most_lag + 1)]
    return max(found)


def correlation(one: Series, other: Series) -> float:
    """Of two series of the same shape, each pixel's mean over time taken off: -1 to 1; 0 where nothing moves."""
    a, b = one - one.mean(axis=0), other - other.mean(axis=0)
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


OBSERVE = """
const small = new OffscreenCanvas(24, 24).getContext("2d", { willReadFrequently: true });
const look = (surface) => {
  const width = surface.videoWidth ?? surface.width, height = surface.videoHeight ?? surface.height;
  const side = Math.min(width, height);
  small.drawImage(surface, (width - side) / 2, (height - side) / 2, side, side, 0, 0, 24, 24);
  const { data } = small.getImageData(0, 0, 24, 24);
  return Array.from({ length: 576 }, (_, at) => data[4 * at] + data[4 * at + 1] + data[4 * at + 2]);
};
window.seen = { driver: [], shown: [] };
setInterval(() => {
  const driver = document.querySelector("#driver-video");
  if (driver?.videoWidth) seen.driver.push([performance.now(), look(driver)]);
}, 100);
for (const way of [WebSocket, RTCDataChannel]) {
  const send = way.prototype.send;
  way.prototype.send = function (data) {
    if (typeof data === "string" && data.includes('"shown"')) {
      const output = ["#result-canvas", "#result-video"].map((id) => document.querySelector(id));
      seen.shown.push([JSON.parse(data).captured, look(output.find((one) => !one.hidden))]);
    }
    return send.call(this, data);
  };
}
"""
"""A script that notes what the driver shows, with the time; and each frame that the page reports as shown (it does so
in the moment in which it draws it), with the capture time that came with it."""


def following(seen: dict[str, list[tuple[float, list[int]]]], shift: int = 0) -> float:
    """How much of the output's main movement the driver's explains, at the time at which it was captured: 0 to 1.

    The part of the variance of the first principal component of the frames shown that is a linear function of the
    first three of the driver's pictures at their capture times. With a shift, they are compared with the driver's
    pictures of so many frames later, round in a circle: what chance and a mere likeness of the films give.
    """
    times = np.array([time for time, _ in seen["driver"]])
    captured = np.array([time for time, _ in seen["shown"]])
    nearest = np.abs(times[None] - captured[:, None]).argmin(axis=1)
    driver = np.array([pixels for _, pixels in seen["driver"]], float)[np.roll(nearest, -shift)]
    output = np.array([pixels for _, pixels in seen["shown"]], float)
    causes = np.linalg.svd(driver - driver.mean(axis=0), full_matrices=False)[0][:, :3]
    effect = np.linalg.svd(output - output.mean(axis=0), full_matrices=False)[0][:, 0]
    return float(((causes.T @ effect) ** 2).sum())


def text(page: Page, selector: str) -> str:
    """What an element says."""
    return page.locator(selector).inner_text()


def colour(page: Page, selector: str) -> Any:
    """Mean (red, green, blue) of a video or canvas."""
    return page.evaluate(
        """(selector) => {
          const context = new OffscreenCanvas(1, 1).getContext("2d");
          context.imageSmoothingQuality = "high";
          context.drawImage(document.querySelector(selector), 0, 0, 1, 1);
          return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
        }""",
        selector,
    )
