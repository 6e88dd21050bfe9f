"""Whether a video is all there: asked before minutes of work, by reading its packets without decoding them."""

from __future__ import annotations

from dataclasses import dataclass

import av
from av.error import FFmpegError

from personalive.errors import InputError
from personalive.media.animation import is_webp
from personalive.media.video import VideoInfo, find_video_stream, open_media

_MISSING = 0.5  # seconds; files round their lengths, and some count the sound's
_DECODER_DELAY = 16  # frames before a break that a decoder may not give out


def check_complete(info: VideoInfo, max_frames: int | None = None) -> None:
    """Raises InputError for a video that breaks off before its end, or before `max_frames` frames if that is sooner.

    Reads the file once. Two kinds cannot be asked: WebP, and those that say nothing about their length.
    """
    if is_webp(info.path):
        return
    wanted = None if max_frames is None else max_frames + _DECODER_DELAY
    found = _read_packets(info, wanted)
    missing = found.claimed - found.seconds
    if found.frames == wanted or not (found.broken or missing > _MISSING):
        return
    whole = f" of {found.claimed:.1f}" if missing > 0 else ""
    usable = found.frames - _DECODER_DELAY
    beginning = f", or use its beginning with --max-frames {usable}" if usable > 0 else ""
    raise InputError(
        f"{info.path} is cut short: it breaks off after {found.seconds:.1f}{whole} s; get it whole{beginning}"
    )


@dataclass(frozen=True)
class _Found:
    """What a file holds: whole packets of the picture, where the last packet of picture or sound ends, where the file
    says it ends (0: it does not say), both in seconds, and whether the picture's last packet is damaged."""

    frames: int
    seconds: float
    claimed: float
    broken: bool


def _read_packets(info: VideoInfo, wanted: int | None) -> _Found:
    frames, end, broken = 0, 0.0, False
    with open_media(info.path) as container:
        picture = find_video_stream(container, info.path)
        began, claimed = ((value or 0) / av.time_base for value in (container.start_time, container.duration))
        demuxed = container.demux()
        while frames != wanted:
            try:
                packet = next(demuxed)
            except StopIteration:
                break
            except FFmpegError:  # the container is broken from here on
                broken = True
                break
            if packet.pts is None or packet.time_base is None:  # PyAV's empty flush packets
                continue
            if packet.stream == picture:
                broken = packet.is_corrupt  # only at the end: damage within the video is passed over when it is played
                frames += not broken
            if not packet.is_corrupt:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - began)
    return _Found(frames, end, claimed, broken)
