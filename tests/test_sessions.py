"""All sessions together: admission, leaving, rates; the security layer; settings. Fake model, clock set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic_settings")

from fake_live import FakeClock, FakeModel, InlineExecutor, driven, grey
from personalive.errors import ConfigError
from personalive.server.messages import Controls
from personalive.server.metrics import Metrics
from personalive.server.run import link, with_token
from personalive.server.security import Allowance
from personalive.server.service import warm_up
from personalive.server.sessions import CONNECT_SECONDS, ServerFullError, Sessions, UnknownError
from personalive.server.settings import Settings, load_settings
from personalive.server.throughput import HEADROOM, Throughput


def run(test: Callable[[Sessions, FakeClock], Awaitable[None]], **settings: Any) -> None:
    """An async test with sessions of a fake model, whose worker has no thread."""

    async def body() -> None:
        clock = FakeClock()
        sessions = Sessions(FakeModel(), Settings(**settings), Metrics(), InlineExecutor(), Throughput(4), clock)
        await test(sessions, clock)
        sessions.close_all()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "nothing is left behind"

    asyncio.run(body())


def test_a_full_server_says_so_with_the_number() -> None:
    async def body(sessions: Sessions, clock: FakeClock) -> None:
        sessions.open(grey(1), Controls())
        sessions.open(grey(1), Controls())
        with pytest.raises(ServerFullError, match="server full: 2 of 2 sessions") as full:
            sessions.open(grey(1), Controls())
        assert full.value.capacity == 2
        sessions.close(next(iter(sessions)).session.identity)
        sessions.open(grey(1), Controls())

    run(body, max_sessions=2)


def test_admission_and_rates_follow_the_measured_throughput() -> None:
    async def body(sessions: Sessions, clock: FakeClock) -> None:
        sessions.throughput.record(0.1, 1)  # 40 frames per second
        assert sessions.capacity == int(HEADROOM * 40 / 10)
        first = sessions.open(grey(1), Controls())
        assert first.session.driving_rate == 30
        second = sessions.open(grey(1), Controls(driving_rate=5))
        assert first.session.driving_rate == pytest.approx(HEADROOM * 20)
        assert second.session.driving_rate == 5
        for _ in range(200):
            sessions.throughput.record(4.0, 1)  # the machine has become slow
        sessions.tick()
        assert first.session.driving_rate == second.session.driving_rate == 1
        sessions.close(second.session.identity)
        with pytest.raises(ServerFullError, match="1 of 1"):
            sessions.open(grey(1), Controls())

    run(body, rate=10)


def test_a_rate_at_which_frames_come_too_late_is_eased_and_comes_back() -> None:
    async def body(sessions: Sessions, clock: FakeClock) -> None:
        session = sessions.open(grey(1), Controls()).session
        assert session.driving_rate == 30
        for _ in range(3):
            session.drop()
            sessions.tick()
        assert session.driving_rate == pytest.approx(30 * 0.9**3)
        for _ in range(50):
            session.drop()
            sessions.tick()
        assert session.driving_rate == pytest.approx(15), "never below half of what the throughput allows"
        for _ in range(30):
            sessions.tick()
        assert session.driving_rate == 30

    run(body)


def test_abandoned_sessions_end_and_reconnected_ones_do_not() -> None:
    async def body(sessions: Sessions, clock: FakeClock) -> None:
        never, lost, back = (sessions.open(grey(1), Controls()) for _ in range(3))
        left: list[str] = []
        lost.leaving.append(lambda: left.append("lost"))
        for live in (lost, back):
            live.attach()
            live.detach(clock.now, 4.0)
        clock.now += 3.9
        back.attach()
        sessions.tick()
        assert len(sessions) == 3
        clock.now += 0.2
        sessions.tick()
        assert left == ["lost"]
        assert lost not in sessions
        clock.now += CONNECT_SECONDS
        sessions.tick()
        assert list(sessions) == [back]
        assert never not in sessions
        with pytest.raises(UnknownError, match="no such session"):
            sessions.get(lost.session.identity)
        assert sessions.worker._sessions == [back.session]

    run(body)


def test_what_the_worker_paints_reaches_the_screen_marked_where_asked() -> None:
    async def body(sessions: Sessions, clock: FakeClock) -> None:
        live = sessions.open(grey(1), Controls())
        for start in range(0, 16, 4):
            for i in range(4):
                live.session.put(driven(100 + start + i, clock.now))
            sessions.worker.step([live.session])
        with live.screen.watch() as watcher:
            frame = await watcher.next(30)
        assert frame is not None
        assert frame.pixels[0, 0, 0] == 100
        assert len({int(value) for value in frame.pixels[-8:, -8:].flatten()}) > 2, "there is a badge in the corner"

    run(body, badge=True)


def test_warming_up_measures() -> None:
    throughput = warm_up(FakeModel(), lambda: False)
    assert throughput.chunk_seconds is not None
    assert throughput.chunk_seconds > 0


# Rates of clients, and settings


def test_an_allowance_fills_again_and_clients_do_not_share_it() -> None:
    clock = FakeClock()
    allowance = Allowance(60, clock, clients=2)
    assert [allowance.take("a") for _ in range(61)] == [True] * 60 + [False]
    assert allowance.take("b")
    clock.now += 2.0
    assert [allowance.take("a") for _ in range(3)] == [True, True, False]
    allowance.take("c")
    assert len(allowance._left) == 2, "bounded"


def test_settings_by_flag_environment_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "live.toml"
    file.write_text('port = 1111\nrate = 5\nmax_sessions = 3\nice_servers = ["stun:stun.example.org"]\n')
    monkeypatch.setenv("PERSONALIVE_PORT", "2222")
    monkeypatch.setenv("PERSONALIVE_RATE", "6")
    settings = load_settings({"port": 3333, "rate": None}, file)
    assert (settings.port, settings.rate, settings.max_sessions) == (3333, 6.0, 3)
    assert settings.ice_servers == ["stun:stun.example.org"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("prot = 1", "prot"), ("port = 99999", "port"), ("port = ", "not TOML"), ('token = "a b;c=d,ee"', "token")],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "live.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_settings({}, file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings({}, tmp_path / "nowhere.toml")


def test_a_token_is_made_for_every_address_but_loopback() -> None:
    assert with_token(Settings()).token is None
    opened = with_token(Settings(host="0.0.0.0"))
    assert opened.token is not None
    assert len(opened.token) >= 32
    assert link(opened, 80).endswith(f":80/?token={opened.token}")
    assert with_token(Settings(host="0.0.0.0", token="mine-for-sure")).token == "mine-for-sure"
    assert link(Settings(host="::1"), 80) == "http://[::1]:80/"
