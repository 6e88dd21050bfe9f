"""The newest session as a camera of this machine, for programs that know cameras only. Extra: virtualcam."""

from __future__ import annotations

import asyncio
from typing import Protocol

import numpy as np

from personalive.errors import ConfigError
from personalive.media.frames import Pixels, resize_picture
from personalive.server.sessions import Sessions

WIDTH, HEIGHT, RATE = 1280, 720, 30
"""What programs expect of a camera; the square picture stands in the middle."""

LOOK_SECONDS = 0.5


class Camera(Protocol):
    """What is needed of `pyvirtualcam.Camera`."""

    def send(self, frame: Pixels) -> None:
        """Shows a frame (HEIGHT, WIDTH, 3)."""

    def close(self) -> None:
        """Takes the camera away."""


def open_camera() -> Camera:
    """The system's virtual camera. Raises ConfigError where there is none."""
    try:
        import pyvirtualcam
    except ModuleNotFoundError:
        raise ConfigError("the virtual camera needs pyvirtualcam: pip install 'personalive[virtualcam]'") from None
    try:
        camera: Camera = pyvirtualcam.Camera(WIDTH, HEIGHT, RATE)
    except RuntimeError as error:
        what = str(error).splitlines()[0] if str(error) else "no device"
        raise ConfigError(
            f"there is no virtual camera ({what}); install OBS (Windows, macOS) or load v4l2loopback (Linux)"
        ) from None
    return camera


async def film(sessions: Sessions, camera: Camera) -> None:
    """Sends what the newest session shows, until cancelled; the last picture stays while there is none."""
    try:
        while True:
            live = max(sessions, key=lambda one: one.since, default=None)
            if live is None:
                await asyncio.sleep(LOOK_SECONDS)
                continue
            with live.screen.watch() as watcher:
                painted = await watcher.next(LOOK_SECONDS)
                while painted is not None:
                    await asyncio.to_thread(camera.send, fit(painted.pixels))
                    painted = await watcher.next(LOOK_SECONDS)
    finally:
        camera.close()


def fit(pixels: Pixels) -> Pixels:
    """A square picture as high as the camera's, black at its sides."""
    frame = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    left = (WIDTH - HEIGHT) // 2
    frame[:, left : left + HEIGHT] = resize_picture(pixels, HEIGHT)
    return frame
