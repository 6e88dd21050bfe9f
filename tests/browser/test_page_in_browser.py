"""The page's looks on every screen, its use without a mouse, and its own arithmetic, in the browser that runs it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="the tests in a browser need playwright: pip install playwright")
pytest.importorskip("fastapi", reason="the tests in a browser need the server's packages")
pytest.importorskip("aiortc", reason="the tests in a browser need the server's packages")

from fake_server import Fake, FakeServer
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from browser import PATIENCE
from fake_live import FakeModel
from live_server import bystander, running
from personalive import gallery


@pytest.fixture(scope="module")
def idle(browser: Browser) -> Iterator[Page]:
    """A page on which nothing is started, shared."""
    with FakeServer(Fake()) as server:
        opened = browser.new_page(viewport={"width": 1000, "height": 640})
        opened.set_default_timeout(PATIENCE)
        opened.goto(server.address)
        expect(opened.locator("#start")).to_be_enabled(timeout=PATIENCE)
        yield opened
        opened.close()


# Looks, and use without a mouse


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (820, 1100), (390, 844)], ids=["wide", "tablet", "phone"])
def test_it_fits_the_screen(
    browser: Browser, server: FakeServer, scheme: Any, size: tuple[int, int], tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page.goto(server.address)
    expect(page.locator("#start")).to_be_enabled(timeout=PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(","))
    assert (brightness < 150) == (scheme == "dark")
    start_button = page.locator("#start").bounding_box()
    assert start_button
    assert start_button["y"] + start_button["height"] <= size[1], "Start is seen without scrolling"
    for control in page.locator("button:visible, select:visible, input[type=range]:visible").all():
        box = control.bounding_box()
        assert box
        assert box["height"] >= 24, "large enough for a finger (WCAG 2.2, 2.5.8)"
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("size", "shape"),
    [((1280, 800), (400, 300)), ((390, 844), (200, 600)), ((844, 390), (400, 300))],
    ids=["wide", "phone", "sideways"],
)
def test_the_crop_dialog_fits_the_screen(
    browser: Browser, server: FakeServer, scheme: Any, size: tuple[int, int], shape: tuple[int, int], tmp_path: Path
) -> None:
    picture = tmp_path / "me.png"
    with Image.open(gallery.portraits()["greta"]) as portrait:
        portrait.resize(shape).save(picture)
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    page.goto(server.address)
    expect(page.locator("#start")).to_be_enabled(timeout=PATIENCE)
    page.set_input_files("#picture", picture)
    expect(page.locator("#crop-square")).to_be_focused(timeout=PATIENCE)
    for part in ("#crop-use", "#crop-cancel", "#crop-title"):
        box = page.locator(part).bounding_box()
        assert box
        assert 0 <= box["x"] <= box["x"] + box["width"] <= size[0]
        assert 0 <= box["y"] <= box["y"] + box["height"] <= size[1], f"{part} is seen without scrolling"
    assert (
        page.evaluate("(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)(document.all['crop-dialog'])") == 0
    )
    square, area = page.locator("#crop-square").bounding_box(), page.locator("#crop-area").bounding_box()
    assert square
    assert area
    assert square["width"] == pytest.approx(min(area["width"], area["height"]), abs=2), "the largest square at first"
    page.screenshot(path=tmp_path / "crop.png")
    page.close()


def test_everything_is_reached_by_keyboard(idle: Page) -> None:
    reached = set()
    for _ in range(60):
        idle.keyboard.press("Tab")
        reached.add(idle.evaluate("document.activeElement.id || document.activeElement.value || ''"))
    wanted = idle.evaluate(
        """() => [...document.querySelectorAll("button, select, input, a[href]")]
          .filter((one) => one.checkVisibility() && !one.disabled && one.type !== "radio").map((one) => one.id)"""
    )
    assert set(filter(None, wanted)) <= reached
    assert {"source-camera", "ada"} <= reached, "the chosen one of each group"


def test_everything_has_a_name_for_screen_readers(idle: Page) -> None:
    tree = idle.locator("body").aria_snapshot()
    for role in ("button", "slider", "combobox", "checkbox", "radio", "radiogroup"):
        nameless = [line for line in tree.splitlines() if line.strip().rstrip(":") == f"- {role}"]
        assert nameless == []
        assert f"- {role} " in tree
    assert "status: Ready" in tree


# A WHEP player


def test_the_view_page_plays_over_whep(browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 320, "height": 240})
    with running(FakeModel()) as server, bystander(server) as viewer:
        page.goto(f"http://{server.address}/view/{viewer.session}")
        expect(page.locator("#view-video")).to_be_visible(timeout=PATIENCE)
        page.wait_for_function("() => document.querySelector('#view-video').currentTime > 0.5", timeout=PATIENCE)
        live = server.call(lambda: server.service.sessions.get(viewer.session))
        assert (len(live.connections), live.drivers) == (1, 1), "a WebRTC connection that only plays"
        viewer.assert_undisturbed()
        page.close()


# The page's own arithmetic, in the browser that runs it


def call(page: Page, module: str, body: str, argument: Any = None) -> Any:
    """Run a function's body with a module's exports as `m`."""
    script = f"async (given) => {{ const m = await import('/assets/{module}.js'); {body} }}"
    return page.evaluate(script, json.loads(json.dumps(argument)))


def test_bursts_are_shown_evenly(idle: Page) -> None:
    shown = call(
        idle,
        "pacing",
        """
        const pacer = new m.Pacer(), shown = [];
        for (let now = 0; now < 6000; now += 5) {
          // Four frames that were captured 100 ms apart come together, 600 ms after the last of them.
          if (now % 400 === 0 && now >= 1200) {
            for (const age of [900, 800, 700, 600]) pacer.add(now - age, now - age, now);
          }
          const next = pacer.take(now);
          if (next) shown.push([next.frame, now]);
          if (pacer.size > 8) throw new Error("it queues");
        }
        return shown;
        """,
    )
    late = shown[8:]
    assert {moment - captured for captured, moment in late} == {900}, "each one as long after its capture"
    assert {b[1] - a[1] for a, b in itertools.pairwise(late)} == {100}


def test_a_stall_is_caught_up_with_at_once(idle: Page) -> None:
    left, newest, overtaken, waiting = call(
        idle,
        "pacing",
        """
        const pacer = new m.Pacer();
        let left = 0;
        for (let index = 0; index < 30; index += 1) left += pacer.add(index, 1000 + index, 1000 + index).length;
        const next = pacer.take(5000);
        return [left, next.frame, next.late.length, pacer.size];
        """,
    )
    assert (left, newest, overtaken, waiting) == (22, 29, 7, 0)


def test_words_and_frames_are_paired_by_arrival(idle: Page) -> None:
    found = call(
        idle,
        "pacing",
        """
        const pairing = new m.Pairing(), none = pairing.find(0);
        for (let index = 0; index < 100; index += 1) pairing.add(index, 100 * index);
        return [none, pairing.find(9790), pairing.find(9740), pairing.find(99999)];
        """,
    )
    assert found == [None, 98, 97, 99]


def test_waits_between_attempts_grow_and_end_at_eight_seconds(idle: Page) -> None:
    waits = call(idle, "pacing", "return given.map((attempt) => m.backoff(attempt, 0.5));", list(range(8)))
    assert waits == [500, 1000, 2000, 4000, 8000, 8000, 8000, 8000]


def test_figures(idle: Page) -> None:
    summary, empty = call(
        idle,
        "statistics",
        """
        const statistics = new m.Statistics(), empty = statistics.summary(0);
        for (let index = 0; index <= 100; index += 1) statistics.add(100 * index - index, 100 * index);
        statistics.add(null, 10000);
        return [statistics.summary(10000), empty];
        """,
    )
    assert summary["fps"] == pytest.approx(10.1)
    assert (summary["p50"], summary["p95"]) == (50, 95)
    assert empty == {"fps": None, "p50": None, "p95": None}


def test_a_crop_stays_in_the_picture(idle: Page) -> None:
    crops = call(
        idle,
        "crop",
        """
        const found = [];
        for (const [width, height] of [[640, 480], [20, 900], [50, 50]])
          for (const crop of [[-5, -5, 10], [600, 400, 9999], [3.4, 7.7, 100.2], [0, 0, 0]])
            for (const one of [m.constrain(crop, width, height), m.resized(crop, 77, width, height)])
              found.push([one, width, height]);
        return found;
        """,
    )
    for (x, y, side), width, height in crops:
        assert 0 <= x <= width - side
        assert 0 <= y <= height - side
        assert min(32, width, height) <= side <= min(width, height)
