"""Fixtures of the tests in a browser. They import what they use: without the packages the tests are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fake_server import Fake, FakeServer
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, whose camera shows the built-in clip."""
    from browser import chromium, make_camera_clip

    with chromium(make_camera_clip(tmp_path_factory.mktemp("camera") / "camera.mjpeg")) as started:
        yield started


@pytest.fixture
def fake() -> Fake:
    """The fake server's state."""
    from fake_server import Fake

    return Fake()


@pytest.fixture
def server(fake: Fake) -> Iterator[FakeServer]:
    """The fake server."""
    from fake_server import FakeServer

    with FakeServer(fake) as running:
        yield running
