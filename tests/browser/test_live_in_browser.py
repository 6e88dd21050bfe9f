"""The page, the real server and the built-in model together: the portrait moves as the person at the camera does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the tests in a browser need playwright: pip install playwright")
pytest.importorskip("aiortc", reason="the live server's extra is missing: pip install 'personalive[server]'")
pytest.importorskip("pydantic_settings", reason="the live server's extra is missing: pip install 'personalive[server]'")
pytest.importorskip("prometheus_client", reason="the live server's extra is missing: pip install 'personalive[server]'")

from fake_server import ServerThread
from playwright.sync_api import Page, expect

from browser import OBSERVE, PATIENCE, Faults, chromium, following, make_camera_clip
from personalive.server.app import create_app
from personalive.server.settings import Settings

FRAMES = 60
SECONDS = 10
"""What is watched: so many frames, and as much of the camera's film (more than once around)."""

MINUTES = 4 * 60_000
"""Milliseconds: a machine that is busy with other things takes its time."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    camera = make_camera_clip(tmp_path_factory.mktemp("camera") / "camera.mjpeg")
    app = create_app(None, Settings(max_sessions=1, runtime="eager"))
    with chromium(camera) as browser, ServerThread(app) as server:
        opened = browser.new_page(viewport={"width": 500, "height": 500})
        opened.set_default_timeout(PATIENCE)
        faults = Faults(opened)
        opened.add_init_script(OBSERVE)
        opened.goto(server.address)
        expect(opened.locator("#start")).to_be_enabled(timeout=MINUTES)
        yield opened
        opened.close()
        server.run(app.state.service.stop())
        assert faults.seen == []


@pytest.mark.parametrize("way", ["socket", "webrtc"])
def test_the_portrait_follows_the_camera(page: Page, way: str, tmp_path: Path) -> None:
    page.get_by_role("radio", name="Clara").check(force=True)
    page.select_option("#way", way)
    page.click("#start")
    expect(page.locator("#state")).to_have_text("Running", timeout=MINUTES)
    page.evaluate("() => { seen.shown.length = 0; }")
    enough = f"seen.shown.length >= {FRAMES} && seen.shown.at(-1)[0] - seen.shown[0][0] > {1000 * SECONDS}"
    page.wait_for_function(
        f"() => {{ seen.shown = seen.shown.filter(([time]) => time); return {enough}; }}", timeout=MINUTES, polling=500
    )
    seen = page.evaluate("seen")
    page.screenshot(path=tmp_path / f"{way}.png")
    followed = following(seen)
    by_chance = max(following(seen, shift) for shift in range(len(seen["shown"]) // 4, 3 * len(seen["shown"]) // 4, 3))
    assert followed > 0.5, "the portrait does not move as the camera's person did at the frame's capture time"
    assert followed > by_chance + 0.1, f"any other moment explains it as well: {by_chance:.2f}"
    assert page.locator("#statistic-delay").inner_text().endswith(" ms")
    page.click("#start")
    expect(page.locator("#state")).to_contain_text("Stopped")
