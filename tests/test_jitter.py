"""The receiving buffer: all that is complete comes out, in order; what is missing is not waited for long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("aiortc", reason="the live server's extra is missing: pip install 'personalive[server]'")

from aiortc import RTCPeerConnection
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtp import RtpPacket
from hypothesis import given
from hypothesis import strategies as st

from personalive.server.jitter import CLOCK_RATE, HOLE_TICKS, MOST_WAITING, CurrentBuffer, keep_current

VP8 = 97
FRAME = CLOCK_RATE // 30


@pytest.fixture(autouse=True, scope="module")
def _event_loop() -> Iterator[None]:
    """aiortc's connections ask for one where they are made; tests before these may have closed theirs."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


class Bench:
    """A buffer, what it gave to the decoder, and whether it asked for a key frame."""

    def __init__(self, first: int = 0) -> None:
        receiver: Any = RTCPeerConnection().addTransceiver("video").receiver
        receiver._RTCRtpReceiver__codecs[VP8] = "VP8"
        assert keep_current(receiver), "aiortc has changed: see server/jitter.py"
        self.buffer: CurrentBuffer = receiver._RTCRtpReceiver__jitter_buffer
        self._waiting = receiver._RTCRtpReceiver__decoder_queue
        self._first = first
        self.asked = 0
        self.out: list[bytes] = []

    def come(self, number: int, frame: int) -> None:
        """The packet of this number comes, which belongs to this frame."""
        packet = RtpPacket(
            payload_type=VP8, sequence_number=(self._first + number) & 0xFFFF, timestamp=(frame * FRAME) & 0xFFFFFFFF
        )
        packet._data = b"%d " % number  # type: ignore[attr-defined]
        asked, given = self.buffer.add(packet)
        self.asked += asked
        while not self._waiting.empty():
            self.out.append(self._waiting.get()[1].data)
        if given is not None:
            self.out.append(given.data)

    @property
    def numbers(self) -> list[int]:
        """Of the packets that came out."""
        return [int(number) for data in self.out for number in data.split()]


def test_a_packet_that_comes_late_leaves_nothing_behind_it_waiting() -> None:
    bench = Bench()
    for number in (0, 1, 3, 4, 5, 6, 2, 7):
        bench.come(number, frame=number)
    assert bench.numbers == [0, 1, 2, 3, 4, 5, 6], "frame 7 is complete with the first packet of frame 8"
    assert bench.asked == 0


def test_a_packet_that_never_comes_is_given_up() -> None:
    bench, theirs = Bench(), JitterBuffer(512, is_video=True)
    last = HOLE_TICKS // FRAME + 20
    for number in range(last + 1):
        if number != 5:
            bench.come(number, frame=number // 2)
            packet = RtpPacket(sequence_number=number, timestamp=number // 2 * FRAME)
            packet._data = b""  # type: ignore[attr-defined]
            theirs.add(packet)
    assert bench.numbers == [number for number in range(last - last % 2) if number not in (4, 5, 6, 7)], "whole frames"
    assert bench.asked == 1
    assert sum(packet is not None for packet in theirs._packets) > 10, "what this is good for"


@given(
    first=st.sampled_from([0, 65_530, 40_000]),
    lost=st.sets(st.integers(0, 150)),
    shuffled=st.lists(st.integers(0, 4), min_size=150, max_size=150),
    size=st.integers(1, 4),
)
def test_whatever_is_lost_or_out_of_order(first: int, lost: set[int], shuffled: list[int], size: int) -> None:
    bench = Bench(first)
    order = sorted((number + late, number) for number, late in enumerate(shuffled) if number not in lost)
    for _, number in order:
        bench.come(number, frame=number // size)
        held = sum(packet is not None for packet in bench.buffer._packets)
        assert held <= size * (HOLE_TICKS // FRAME + 8), "what is held back is bounded"
    assert bench.numbers == sorted(set(bench.numbers) - lost), "in order, each once"


def test_a_decoder_that_cannot_follow_is_not_flooded() -> None:
    bench = Bench()
    bench._waiting.qsize = lambda: MOST_WAITING + 1
    for number in range(10):
        bench.come(number, frame=number)
    assert bench.out == []
    assert bench.asked == 9
