"""The page in a real browser, as a person goes through it; the server is a fake that gives the camera's frames back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright", reason="the tests in a browser need playwright: pip install playwright")
pytest.importorskip("fastapi", reason="the tests in a browser need the server's packages")
pytest.importorskip("aiortc", reason="the tests in a browser need the server's packages")

import av
from fake_server import Fake, FakeServer, Visit
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from browser import PATIENCE, Faults, colour, likeness, text, watch
from personalive import gallery
from personalive.media.video_writer import AI_COMMENT

OUTPUT = {"socket": "#result-canvas", "webrtc": "#result-video"}
WAYS = tuple(OUTPUT)
MOTION = 0.5
"""Correlation in time of output and driver: a page that lags evenly well exceeds it, a frozen one or noise does not."""


@pytest.fixture
def page(browser: Browser, server: FakeServer) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1000, "height": 640}, accept_downloads=True)
    opened.set_default_timeout(PATIENCE)
    faults = Faults(opened)
    opened.goto(server.address)
    yield opened
    opened.close()
    assert faults.seen == []


def start(page: Page, way: str = "socket") -> str:
    """Press Start, and wait for the first picture; gives the selector of the output."""
    page.select_option("#way", way)
    page.click("#start")
    expect(page.locator("#snapshot")).to_be_enabled(timeout=PATIENCE)
    return OUTPUT[way]


def visit(fake: Fake) -> Visit:
    """The one session that is open."""
    (only,) = fake.visits.values()
    return only


@pytest.mark.parametrize("way", WAYS)
def test_a_person_s_way_through(page: Page, fake: Fake, way: str, tmp_path: Path) -> None:
    page.get_by_role("radio", name="Clara").check(force=True)
    output = start(page, way)
    expect(page.locator("#state")).to_have_text("Running")
    assert visit(fake).portrait == "clara"

    driver, result = watch(page, output)
    best, lag = likeness(driver, result, most_lag=30)
    assert best > MOTION, f"the output follows the camera by {best:.2f} at {lag} samples"
    assert likeness(driver[::-1], result, most_lag=30)[0] < best - 0.2, "anything would look alike"
    expect(page.locator("#statistic-fps")).to_contain_text("frames/s")
    expect(page.locator("#statistic-delay")).to_contain_text("ms")
    assert text(page, "#statistic-way") == {"socket": "WebSocket", "webrtc": "WebRTC"}[way]
    assert any(message["type"] == "shown" for message in visit(fake).messages)

    before = colour(page, output)
    page.get_by_role("radio", name="Ada").check(force=True)
    for _ in range(200):
        after = colour(page, output)
        assert max(after) > 20, "a black frame between the portraits"
        if after[0] > after[2]:
            break
        page.wait_for_timeout(50)
    assert before[2] > before[0]
    assert after[0] > after[2], "the new portrait came"
    assert len(fake.ever) == 1, "in the same session"

    page.click("#record")
    expect(page.locator("#record")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(2500)
    with page.expect_download() as download:
        page.click("#record")
    film = tmp_path / download.value.suggested_filename
    download.value.save_as(film)
    check_recording(film)
    with page.expect_download() as download:
        page.click("#snapshot")
    picture = tmp_path / "snapshot.png"
    download.value.save_as(picture)
    with Image.open(picture) as image:
        assert image.size == (128, 128)
        assert image.info["Comment"] == AI_COMMENT

    page.reload()
    expect(page.locator("#start")).to_be_enabled(timeout=PATIENCE)
    expect(page.get_by_role("radio", name="Ada")).to_be_checked()
    assert page.input_value("#way") == way
    assert fake.visits == {}, "the session was given back"
    start(page, way)
    page.click("#start")
    expect(page.locator("#state")).to_contain_text("Stopped")


def check_recording(film: Path) -> None:
    """A film that plays, moves, and says how it was made."""
    assert "ai-generated" in film.name
    with av.open(str(film)) as container:
        assert container.metadata["COMMENT"] == AI_COMMENT
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert len(frames) > 4
    assert frames[0].shape[0] == frames[0].shape[1]
    assert np.abs(frames[-1].astype(float) - frames[0]).max() > 20


def test_the_model_loads_with_a_percentage(browser: Browser, server: FakeServer, fake: Fake) -> None:
    fake.loading_polls = 3
    page = browser.new_page()
    page.goto(server.address)
    expect(page.locator("#state")).to_have_text("Loading the model: 42 %", timeout=PATIENCE)
    expect(page.locator("#start")).to_be_disabled()
    expect(page.locator("#state")).to_contain_text("Ready", timeout=PATIENCE)
    expect(page.locator("#start")).to_be_enabled()
    page.close()


def test_controls_reach_the_server(page: Page, fake: Fake) -> None:
    start(page)
    assert visit(fake).controls["rotation_gain"] is None, "the model's own until the user moves it"
    page.locator("#rotation-gain").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.locator("#smoothing").fill("0.4")
    page.select_option("#driving-rate", "6")
    page.uncheck("#mirror")
    page.click("#recalibrate")
    wanted = {"rotation_gain": 1.2, "translation_gain": None, "smoothing": 0.4, "driving_rate": 6, "mirror": False}
    until(page, lambda: wanted.items() <= visit(fake).controls.items())
    until(page, lambda: {"type": "recalibrate"} in visit(fake).messages)
    assert page.locator("#rotation-gain").get_attribute("aria-valuetext") == "1.20 ×"
    page.click("#reset")
    until(page, lambda: visit(fake).controls["rotation_gain"] is None)
    assert visit(fake).controls["driving_rate"] == 6, "speed is no motion"


def until(page: Page, holds: Any) -> None:
    """Wait until something holds outside of the page."""
    for _ in range(PATIENCE // 50):
        if holds():
            return
        page.wait_for_timeout(50)
    assert holds()


def test_at_most_two_frames_are_under_way(page: Page, fake: Fake) -> None:
    """A server that takes frames but answers none gets two, and then nothing until it answers."""
    start(page)
    fake.deaf = True
    until(page, lambda: fake.unanswered >= 2)
    page.wait_for_timeout(1000)
    assert fake.unanswered <= 2


def test_own_picture_and_crop_by_keys(page: Page, fake: Fake, tmp_path: Path) -> None:
    picture = tmp_path / "me.png"
    Image.open(gallery.portraits()["greta"]).resize((300, 300)).crop((0, 0, 300, 200)).save(picture)
    page.set_input_files("#picture", picture)
    square = page.locator("#crop-square")
    expect(square).to_be_focused()
    assert fake.crops["own-0"] == [0, 0, 200]
    for key in ("-", "-", "ArrowRight", "Shift+ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("radio", name="Your picture")).to_be_checked()
    until(page, lambda: fake.crops["own-0"] != [0, 0, 200])
    x, y, side = fake.crops["own-0"]
    assert 170 <= side < 200
    assert x > 20
    assert y + side <= 200
    start(page)
    assert visit(fake).portrait == "own-0"


def test_crop_by_mouse(page: Page, fake: Fake, tmp_path: Path) -> None:
    picture = tmp_path / "me.jpg"
    Image.new("RGB", (400, 200), "orange").save(picture)
    page.set_input_files("#picture", picture)
    expect(page.locator("#crop-square")).to_be_focused()
    drag(page, "#crop-handle", -0.25)
    drag(page, "#crop-square", 0.5)
    page.click("#crop-use")
    expect(page.get_by_role("radio", name="Your picture")).to_be_checked()
    x, _, side = fake.crops["own-0"]
    assert 130 <= side <= 170
    assert 75 <= x <= 130


def drag(page: Page, selector: str, part: float) -> None:
    """Pull an element sideways and down by this part of the square's side."""
    square = page.locator("#crop-square").bounding_box()
    box = page.locator(selector).bounding_box()
    assert square is not None
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    way = part * square["width"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + way / 2, y + min(way / 2, 0), steps=2)
    page.mouse.move(x + way, y + min(way, 0), steps=2)
    page.mouse.up()


def test_a_dropped_file_that_is_no_picture(page: Page) -> None:
    page.evaluate(
        """() => {
          const files = new DataTransfer();
          files.items.add(new File(["words"], "letter.txt", { type: "text/plain" }));
          document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: files }));
        }"""
    )
    expect(page.locator("#problem")).to_have_text("letter.txt is not a picture. Choose a JPEG, PNG or WebP file.")
    page.click("#problem-close")
    expect(page.locator("#problem")).to_be_hidden()


def test_a_picture_from_the_camera(page: Page, fake: Fake) -> None:
    page.click("#take")
    expect(page.locator("#take-now")).to_be_enabled(timeout=PATIENCE)
    page.click("#take-now")
    expect(page.locator("#crop-square")).to_be_focused()
    assert fake.uploads["own-0"].size == (320, 240)
    page.click("#crop-cancel")
    expect(page.get_by_role("radio", name="Your picture")).to_have_count(0)


@pytest.mark.parametrize("way", WAYS)
def test_a_video_file_drives(page: Page, way: str, tmp_path: Path) -> None:
    film = make_webm(tmp_path / "driver.webm")
    page.locator("#source-file").check(force=True)
    page.click("#start")
    expect(page.locator("#problem")).to_contain_text("Choose a video first")
    page.set_input_files("#video-file", film)
    expect(page.locator("#video-name")).to_have_text("driver.webm")
    output = start(page, way)
    assert not page.is_checked("#mirror")
    best, _ = likeness(*watch(page, output, count=30), most_lag=20)
    assert best > MOTION
    page.click("#record")
    page.wait_for_timeout(2000)
    with page.expect_download() as download:
        page.click("#record")
    recording = tmp_path / "recording.webm"
    download.value.save_as(recording)
    with av.open(str(recording)) as container:
        sound = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
    assert np.abs(sound).max() > 0.05, "the driving file's sound is in the recording"


def make_webm(path: Path) -> Path:
    """A film with a moving square and a tone."""
    with av.open(str(path), "w") as film:
        video, sound = film.add_stream("libvpx", rate=15), film.add_stream("libopus", rate=48000, layout="mono")
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        for index in range(45):
            picture = np.full((120, 160, 3), 40, np.uint8)
            at = int(40 + 35 * np.sin(index / 45 * 2 * np.pi))
            picture[40:80, at : at + 40] = 220
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            film.mux(video.encode(frame))
        tone = 0.5 * np.sin(np.arange(3 * 48000) * 2 * np.pi * 440 / 48000).astype(np.float32)
        for at in range(0, len(tone), 960):
            part = av.AudioFrame.from_ndarray(tone[None, at : at + 960], format="flt", layout="mono")
            part.sample_rate, part.pts = 48000, at
            film.mux(sound.encode(part))
        film.mux(video.encode(None))
        film.mux(sound.encode(None))
    return path


# What can go wrong is said, with the remedy


def test_the_server_is_full(page: Page, fake: Fake) -> None:
    fake.capacity = 1
    fake.visits["another"] = Visit("ada", {})
    page.click("#start")
    expect(page.locator("#problem")).to_contain_text("Server full: 1 of 1 sessions are taken")
    expect(page.locator("#state")).to_contain_text("Server full")
    del fake.visits["another"]
    start(page)


def test_the_camera_is_refused(browser: Browser, server: FakeServer, fake: Fake) -> None:
    page = browser.new_page()
    page.add_init_script(
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('no', 'NotAllowedError'); };"
    )
    page.goto(server.address)
    page.locator("#start").click(timeout=PATIENCE)
    expect(page.locator("#problem")).to_contain_text("Allow it", timeout=PATIENCE)
    expect(page.locator("#start")).to_have_text("Start")
    assert fake.ever == []
    page.close()


def test_a_lost_connection_comes_back(page: Page, server: FakeServer, fake: Fake) -> None:
    start(page)
    server.run(visit(fake).sockets[-1].close())
    expect(page.locator("#state")).to_contain_text("Lost the connection")
    expect(page.locator("#state")).to_have_text("Running")
    assert len(fake.visits) == 1


def test_without_webrtc_the_socket_is_taken(page: Page, fake: Fake) -> None:
    fake.webrtc = False
    page.click("#start")
    expect(page.locator("#snapshot")).to_be_enabled(timeout=PATIENCE)
    assert text(page, "#statistic-way") == "WebSocket"
    assert len(fake.ever) == 1, "in the same session"


def test_two_tabs_have_two_sessions_and_the_third_none(browser: Browser, server: FakeServer, fake: Fake) -> None:
    context = browser.new_context(viewport={"width": 600, "height": 500})
    tabs = [context.new_page() for _ in range(3)]
    for tab in tabs:
        tab.set_default_timeout(PATIENCE)
        tab.goto(server.address)
        expect(tab.locator("#start")).to_be_enabled(timeout=PATIENCE)
    for tab in tabs[:2]:
        tab.bring_to_front()
        start(tab)
    assert len(fake.visits) == 2
    tabs[2].bring_to_front()
    tabs[2].click("#start")
    expect(tabs[2].locator("#problem")).to_contain_text("2 of 2")
    hidden = fake.ever[0].frames
    until(tabs[2], lambda: fake.ever[0].frames > hidden + 2)  # a tab behind another goes on
    tabs[0].close(run_before_unload=True)
    until(tabs[2], lambda: len(fake.visits) == 1)
    context.close()


def test_the_view_page_plays_a_session(page: Page, browser: Browser, server: FakeServer) -> None:
    start(page)
    link = page.input_value("#view-link")
    watcher = browser.new_page(viewport={"width": 320, "height": 240})
    watcher.goto(link)
    expect(watcher.locator("#view-canvas")).to_be_visible(timeout=PATIENCE)
    assert max(colour(watcher, "#view-canvas")) > 20
    watcher.goto(server.address + "view/nothing")
    expect(watcher.locator("#view-state")).to_contain_text("Trying again", timeout=PATIENCE)
    watcher.close()
