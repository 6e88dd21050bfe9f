"""Received video that stays current after lost packets: aiortc's own buffer falls behind for good.

aiortc (1.16; github.com/aiortc/aiortc, pull request 1418) waits for a packet that never comes until 512 others have
come, and afterwards gives out one frame for each packet: where a frame is one packet, as in small or still pictures,
what has piled up stays. There is no public place for another buffer; where aiortc changes what is used here, its own
stays.
"""

from __future__ import annotations

from typing import Any

from aiortc import RTCRtpReceiver
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtp import RtpPacket

CLOCK_RATE = 90_000
HOLE_TICKS = CLOCK_RATE // 3
"""How much video may pile up behind a missing packet (of which the sender was told), before it is given up."""

MOST_WAITING = 30
"""Frames that may wait for the decoder; beyond, they are left out."""


class CurrentBuffer(JitterBuffer):
    """Gives out all that is complete at once, and does not wait long for what is missing."""

    def __init__(self, receiver: RTCRtpReceiver) -> None:
        """Raises AttributeError where the receiver is not made as it was in the aiortc that this was written for."""
        super().__init__(capacity=512, is_video=True)
        inside: Any = receiver
        self._codecs: dict[int, Any] = inside._RTCRtpReceiver__codecs
        self._mapper: Any = inside._RTCRtpReceiver__timestamp_mapper
        self._decoder: Any = inside._RTCRtpReceiver__decoder_queue

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        """A packet that came: whether a key frame should be asked for, and the newest frame that is complete."""
        ask, frame = super().add(packet)
        if frame is None and self._piled_up() > HOLE_TICKS:
            self._give_up_the_hole(packet)
            ask, frame = True, self._remove_frame(packet.sequence_number)
        while frame is not None and (later := self._remove_frame(packet.sequence_number)) is not None:
            self._decode(packet, frame)
            frame = later
        if frame is not None and self._decoder.qsize() > MOST_WAITING:
            return True, None
        return ask, frame

    def _decode(self, packet: RtpPacket, frame: JitterFrame) -> None:
        if self._decoder.qsize() <= MOST_WAITING:
            frame.timestamp = self._mapper.map(frame.timestamp)
            self._decoder.put((self._codecs[packet.payload_type], frame))

    def _present(self) -> list[tuple[int, RtpPacket]]:
        """What is there, in order, and how far from the beginning."""
        places = ((self._origin or 0) + count for count in range(self._capacity))
        packets = ((count, self._packets[place % self._capacity]) for count, place in enumerate(places))
        return [(count, packet) for count, packet in packets if packet is not None]

    def _piled_up(self) -> int:
        """Ticks of video between the first and the last packet that are there."""
        present = self._present()
        return (present[-1][1].timestamp - present[0][1].timestamp) & 0xFFFFFFFF if present else 0

    def _give_up_the_hole(self, newest: RtpPacket) -> None:
        """Leaves out the first hole and the frames on both its sides that it has damaged."""
        after = next((count for step, (count, _) in enumerate(self._present()) if count != step), None)
        if after is not None and self.smart_remove(after + 1):
            self._origin = (newest.sequence_number + 1) & 0xFFFF


def keep_current(receiver: RTCRtpReceiver) -> bool:
    """Gives a video receiver that has not begun the buffer above; False where it has to keep its own."""
    try:
        setattr(receiver, "_RTCRtpReceiver__jitter_buffer", CurrentBuffer(receiver))  # noqa: B010 - a private name
    except AttributeError:
        return False
    return True
