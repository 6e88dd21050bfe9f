"""Session, worker and screen with a fake model and a clock set by hand: latest-wins, batches, faults, pacing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

pytest.importorskip("prometheus_client")

from fake_live import SIDE, FakeClock, FakeModel, InlineExecutor, driven, grey
from personalive.errors import InputError
from personalive.media.frames import Pixels
from personalive.motion.keypoints import MotionGains
from personalive.server.intake import Intake, Raw
from personalive.server.messages import Controls, SetControls, read_message
from personalive.server.metrics import Metrics
from personalive.server.screen import Screen
from personalive.server.session import SILENCE, Chunk, Driven, Painted, Session
from personalive.server.throughput import Throughput
from personalive.server.worker import Worker


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def worker(model: FakeModel, clock: FakeClock) -> Iterator[Worker]:
    made = Worker(model, Throughput(4), Metrics(), wait=0.0, clock=clock)
    yield made
    made.stop()


class Viewer:
    """A session of the worker, and everything that it delivered."""

    def __init__(self, worker: Worker, clock: FakeClock, portrait: int = 7) -> None:
        self.session = Session("a", grey(portrait), Controls(), 4, clock)
        self.chunks: list[Chunk] = []
        self.session.deliver = self.chunks.append
        worker.add(self.session)

    def put(self, numbers: range, came: float = 100.0) -> None:
        for number in numbers:
            self.session.wants(came)
            self.session.put(driven(number, came))

    @property
    def shown(self) -> list[int]:
        """The greys of the frames that were delivered."""
        return [int(frame.pixels[0, 0, 0]) for chunk in self.chunks for frame in chunk.frames]


def test_frames_come_out_in_order_with_their_capture_time(worker: Worker, clock: FakeClock) -> None:
    viewer = Viewer(worker, clock)
    for start in range(0, 32, 4):
        viewer.put(range(start, start + 4))
        worker.step([viewer.session])
    assert viewer.shown == list(range(20))
    captured = [frame.driven.captured for chunk in viewer.chunks for frame in chunk.frames if frame.driven]
    assert captured == list(range(20))
    assert len(viewer.session.inside) == 12, "no more than the window needs"


def test_late_frames_are_dropped_and_counted_never_queued(worker: Worker, clock: FakeClock) -> None:
    viewer = Viewer(worker, clock)
    viewer.put(range(100))
    assert (viewer.session.depth, viewer.session.dropped) == (4, 96)
    worker.step([viewer.session])
    stream = viewer.session.stream
    assert stream is not None
    assert [int(frame[0, 0, 0]) for frame in stream.fed] == [96, 97, 98, 99]  # type: ignore[attr-defined]
    worker.step([viewer.session])
    assert viewer.session.depth == 0


def test_what_has_come_of_a_chunk_is_looked_at_before_it_is_full(
    worker: Worker, model: FakeModel, clock: FakeClock
) -> None:
    viewer = Viewer(worker, clock)
    session = viewer.session
    viewer.put(range(3))
    assert not session.begun, "there is no stream yet that could look"
    for start in range(3, 31, 4):
        viewer.put(range(start, start + 1))
        worker.step(worker._gather())
        worker.hurries = True
        viewer.put(range(start + 1, start + 3))
        assert not worker._begun(), "one look for a chunk, when only its last frame is missing"
        viewer.put(range(start + 3, start + 4))
        assert worker._gather() == []
        worker.look([session])
        assert (session.depth, worker._begun(), session.ready) == (3, [], False)
    assert model.looked == [[7 + 4 * i] for i in range(7)]
    assert viewer.shown == list(range(16)), "no frame is lost or comes twice"
    assert session.dropped == 0


def test_the_worker_hurries_where_it_has_time_to_spare(model: FakeModel, clock: FakeClock) -> None:
    throughput = Throughput(4, weight=0.0)
    worker = Worker(model, throughput, Metrics(), wait=0.0, clock=clock)
    viewer = Viewer(worker, clock)
    viewer.session.driving_rate = 10.0
    for seconds, hurries in ((0.26, False), (0.23, True), (0.28, True), (0.31, False), (0.26, False)):
        throughput.chunk_seconds = seconds  # at 0.4 s it does nothing else
        viewer.put(range(4))
        worker.step(worker._gather())
        assert worker.hurries is hurries
        viewer.put(range(3))
        assert worker._begun() == [viewer.session] * hurries
        viewer.put(range(1))
        worker.step(worker._gather())
    assert {len(chunk.frames) for chunk in viewer.chunks} == {1, 4}


def test_of_a_chunk_that_was_begun_the_oldest_frame_not_taken_yet_is_dropped(worker: Worker, clock: FakeClock) -> None:
    viewer = Viewer(worker, clock)
    viewer.put(range(4))
    worker.step([viewer.session])
    viewer.put(range(4, 6))
    worker.look([viewer.session])
    viewer.put(range(6, 12))
    assert (viewer.session.depth, viewer.session.dropped) == (4, 4)
    worker.step([viewer.session])
    stream = viewer.session.stream
    assert stream is not None
    assert [int(f[0, 0, 0]) for f in stream.fed] == [0, 1, 2, 3, 4, 5, 10, 11]  # type: ignore[attr-defined]


def test_a_failing_look_begins_the_session_anew(worker: Worker, model: FakeModel, clock: FakeClock) -> None:
    viewer = Viewer(worker, clock)
    viewer.put(range(4))
    worker.step([viewer.session])
    viewer.put(range(4, 6))

    def fail(_streams: Sequence[object]) -> None:
        raise RuntimeError("a fault on purpose")

    model.look = fail  # type: ignore[method-assign, assignment]
    worker.look([viewer.session])
    assert (viewer.session.stream, viewer.session.depth, len(viewer.session.inside)) == (None, 0, 0)
    for start in range(6, 26, 4):
        viewer.put(range(start, start + 4))
        worker.step([viewer.session])
    assert viewer.shown == [6, 7, 8, 9, 10, 11, 12, 13]


def test_ready_sessions_share_a_batch(worker: Worker, model: FakeModel, clock: FakeClock) -> None:
    viewers = [Viewer(worker, clock) for _ in range(3)]
    for viewer in viewers[:2]:
        viewer.put(range(4))
    viewers[2].put(range(3))
    worker.step(worker._gather())
    assert model.batches == [2]
    worker.remove(viewers[0].session)
    for viewer in viewers:
        viewer.put(range(4))
    worker.step(worker._gather())
    assert model.batches == [2, 2]


def test_the_thread_steps_what_becomes_ready(model: FakeModel, clock: FakeClock) -> None:
    worker = Worker(model, Throughput(4), Metrics(), wait=0.001, clock=clock)
    viewer = Viewer(worker, clock)
    delivered = asyncio.run(_run_until_delivered(worker, viewer))
    worker.stop()
    assert delivered == 4
    assert worker._thread is not None
    assert not worker._thread.is_alive()


async def _run_until_delivered(worker: Worker, viewer: Viewer) -> int:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    stepped = asyncio.Semaphore(0)
    worker.start()
    step = worker.step

    def told(batch: Sequence[Session]) -> None:
        step(batch)
        loop.call_soon_threadsafe(stepped.release)

    worker.step = told  # type: ignore[method-assign]

    def deliver(chunk: Chunk) -> None:
        viewer.chunks.append(chunk)
        loop.call_soon_threadsafe(done.set)

    viewer.session.deliver = deliver
    for _ in range(4):
        viewer.put(range(4))
        worker.wake()
        await asyncio.wait_for(stepped.acquire(), 30)
    await asyncio.wait_for(done.wait(), 30)
    return len(viewer.shown)


def test_controls_portrait_and_recalibration_count_from_the_next_chunk(worker: Worker, clock: FakeClock) -> None:
    viewer = Viewer(worker, clock)
    viewer.put(range(4))
    worker.step([viewer.session])
    stream = viewer.session.stream
    assert stream is not None
    assert stream.gains == MotionGains.of(FakeModel().config.stream)
    viewer.session.controls = Controls(rotation_gain=0.5, smoothing=0.3)
    viewer.session.set_portrait(grey(9))
    viewer.session.set_portrait(grey(11))
    viewer.session.recalibrate()
    assert stream.gains.rotation == 1.0
    viewer.put(range(4))
    worker.step([viewer.session])
    assert viewer.session.stream is stream, "no restart"
    assert (stream.gains.rotation, stream.smoothing) == (0.5, 0.3)
    assert [int(p[0, 0, 0]) for p in stream.portraits] == [7, 11]  # type: ignore[attr-defined]
    assert stream.recalibrated == 1  # type: ignore[attr-defined]


def test_a_failing_session_does_not_take_the_others_with_it(worker: Worker, model: FakeModel, clock: FakeClock) -> None:
    good, bad = Viewer(worker, clock), Viewer(worker, clock, portrait=66)
    for _ in range(12):
        for viewer in (good, bad):
            viewer.put(range(4))
        while batch := [s for s in worker._ready() if s.ready]:
            worker.step(batch)
    assert bad.session.failure is not None
    assert bad.session.state(0.0)[0] == "failed"
    assert good.session.failure is None
    assert len(good.shown) >= 4 * (12 - 4 - 1)
    assert model.batches[-1] == 1


def test_a_silent_driver_lets_the_window_out_and_comes_back(worker: Worker, clock: FakeClock) -> None:
    viewer = Viewer(worker, clock)
    session = viewer.session
    assert not session.hold_if_silent(clock.now + 99, 16), "before the first frame there is nothing to let out"
    for start in range(0, 16, 4):
        viewer.put(range(start, start + 4), clock.now)
        worker.step([session])
    session.put(driven(99, clock.now))
    assert not session.hold_if_silent(clock.now + SILENCE / 2, 16)
    clock.now += SILENCE + 0.1
    rounds = 0
    while session.hold_if_silent(clock.now, 16):
        worker.step([session])
        rounds += 1
    assert rounds == 5
    assert session.state(clock.now)[0] == "no driver"
    assert viewer.shown[:16] == list(range(16))
    assert [frame.driven for chunk in viewer.chunks[-4:] for frame in chunk.frames][1:] == [None] * 3
    viewer.put(range(50, 54), clock.now)
    assert session.state(clock.now)[0] != "no driver"
    assert session.ready


def test_states_are_said_in_words(worker: Worker, clock: FakeClock) -> None:
    viewer = Viewer(worker, clock)
    session = viewer.session
    assert session.state(clock.now)[0] == "waiting"
    viewer.put(range(1), clock.now)
    assert session.state(clock.now)[0] == "waiting"
    session.note_shown(Painted(grey(1), driven(0, clock.now - 1.5)), clock.now)
    assert session.state(clock.now) == ("running", "Running.")
    session.put(Driven(None, 1.0, clock.now))
    assert session.state(clock.now)[0] == "no face"
    figures = session.statistics(clock.now)
    assert (figures["fps"], figures["delay_p50"], figures["delay_p95"]) == (0.5, 1500, 1500)
    session.note_reported(0.25)
    session.note_reported(-3.0)
    session.note_reported(float("inf"))
    assert session.statistics(clock.now)["delay_p95"] == 250, "what the client measured counts more"


def raw(pixels: Pixels, came: float) -> Raw:
    return Raw(lambda: pixels, None, came)


def test_the_intake_keeps_one_frame_waiting_and_drops_the_rest(clock: FakeClock) -> None:
    session = Session("a", grey(1), Controls(), 4, clock)
    session.driving_rate = 60.0
    jobs: list[Callable[[], None]] = []
    intake = Intake(session, SIDE, jobs.append, lambda: None, Metrics())
    for i in range(10):
        intake.offer(raw(grey(i), clock.now + i))
    assert len(jobs) == 1
    assert session.dropped == 9
    jobs[0]()
    assert session.depth == 1
    intake.offer(raw(grey(1), clock.now + 20))
    assert len(jobs) == 2


def test_frames_above_the_driving_rate_are_not_even_decoded(clock: FakeClock) -> None:
    session = Session("a", grey(1), Controls(), 4, clock)
    session.driving_rate = 10.0
    intake = Intake(session, SIDE, InlineExecutor().submit, lambda: None, Metrics())
    decoded = []

    def decode() -> Pixels:
        decoded.append(1)
        return grey(1)

    for i in range(60):
        intake.offer(Raw(decode, None, clock.now + i / 60))
    assert 10 <= len(decoded) <= 12
    assert session.skipped == 60 - len(decoded)


@pytest.mark.parametrize("error", [InputError("no picture"), RuntimeError("a fault")])
def test_a_frame_that_cannot_be_used_does_not_stop_the_next(clock: FakeClock, error: Exception) -> None:
    session = Session("a", grey(1), Controls(), 4, clock)
    came = []
    intake = Intake(session, SIDE, InlineExecutor().submit, lambda: came.append(1), Metrics())

    def broken() -> Pixels:
        raise error

    intake.offer(Raw(broken, None, clock.now))
    sides = [40, 40, 64, 64]  # the resolution changes on the way
    for i, side in enumerate(sides):
        intake.offer(raw(np.zeros((side, side + 8, 3), dtype=np.uint8), clock.now + 1 + i))
    assert session.ready
    assert came == [1] * 4
    assert not session.face_found


def test_a_screen_shows_a_chunk_evenly_and_watchers_see_the_newest(clock: FakeClock) -> None:
    asyncio.run(_watch(clock))


async def _watch(clock: FakeClock) -> None:
    noted: list[float] = []
    screen = Screen(clock, lambda frame, now: noted.append(now))
    frames = [Painted(grey(i), None) for i in range(8)]
    with screen.watch() as watcher:
        assert await watcher.next(0) is None
        screen.plan(Chunk(frames[:4], 0.1))
        assert screen.wait() == 0
        for i in range(4):
            assert screen.show_due()
            assert await watcher.next(0) is frames[i]
            assert not screen.show_due()
            clock.now += 0.1001
        screen.plan(Chunk(frames[4:], 0.1))
        clock.now += 0.25  # the loop was held up
        assert screen.show_due()
        assert await watcher.next(0) is frames[6]
        assert screen.late == 2
    assert screen.watchers == 0
    with screen.watch() as late:
        assert await late.next(0) is frames[6], "who comes later sees at once what is shown"
    assert len(noted) == 5


def test_frames_that_come_one_by_one_are_shown_as_if_they_had_come_together(clock: FakeClock) -> None:
    async def shown(parts: int) -> list[tuple[float, int]]:
        screen = Screen(clock)
        for number in range(3):
            clock.now = 100.0 + 0.35 * number
            frames = [Painted(grey(4 * number + i), None) for i in range(4)]
            for place in range(0, 4, 4 // parts):
                screen.plan(Chunk(frames[place : place + 4 // parts], 0.1, place, 4))
                clock.now += 0.01
        return [(due, int(frame.pixels[0, 0, 0])) for due, frame in screen._plan]

    together = asyncio.run(shown(1))
    assert len(together) == 12
    assert asyncio.run(shown(4)) == together


def test_a_screen_never_plans_further_than_two_chunks(clock: FakeClock) -> None:
    async def flood() -> int:
        screen = Screen(clock)
        for _ in range(50):
            screen.plan(Chunk([Painted(grey(0), None)] * 4, 0.1))
        return len(screen._plan)

    assert asyncio.run(flood()) <= 8


def test_messages() -> None:
    message = read_message('{"type":"controls","rotation_gain":1.5,"mirror":true,"unknown":1}')
    assert isinstance(message, SetControls)
    assert message.rotation_gain == 1.5
    assert "smoothing" not in message.model_fields_set
    for wrong in ("", "[]", "{", '{"type":"x"}', '{"type":"controls","scale_gain":3}', '{"type":"ping","time":NaN}',
                  '{"type":"portrait","portrait":"../../etc"}', '{"type":"ping","time":1}' + " " * 5000):  # fmt: skip
        with pytest.raises(InputError):
            read_message(wrong)
