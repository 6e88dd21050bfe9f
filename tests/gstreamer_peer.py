"""GStreamer's webrtcbin as a WHIP sender or a WHEP player: a program of its own, for the Python that has GStreamer.

    python3 gstreamer_peer.py http://127.0.0.1:8000/whip/studio     sends a test picture until its input ends
    python3 gstreamer_peer.py http://127.0.0.1:8000/whep/studio     writes "frame WIDTH HEIGHT" for each frame

It ends when its standard input does, and takes its connection back with it (DELETE).
"""

from __future__ import annotations

import sys
import threading
import urllib.request
from urllib.parse import urljoin

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402 - once the versions are chosen

VIDEO = "application/x-rtp,media=video,encoding-name=VP8,payload=97,clock-rate=90000"
SENDING = (
    "videotestsrc is-live=true pattern=ball ! video/x-raw,width=64,height=48,framerate=15/1 ! vp8enc deadline=1 "
    f"keyframe-max-dist=15 ! rtpvp8pay pt=97 ! {VIDEO} ! webrtcbin name=peer bundle-policy=max-bundle"
)
PLAYING = "webrtcbin name=peer bundle-policy=max-bundle"


class Connection:
    """One connection to a WHIP or WHEP address."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._sends = "/whip/" in address
        self._resource: str | None = None
        self._asked = False
        self._kept: list[object] = []  # GStreamer goes on using what Python would free
        self.pipeline = Gst.parse_launch(SENDING if self._sends else PLAYING)
        if not self._sends:  # a lone element is no pipeline yet
            peer, self.pipeline = self.pipeline, Gst.Pipeline.new(None)
            self.pipeline.add(peer)
        self._peer = peer if not self._sends else self.pipeline.get_by_name("peer")
        self._peer.connect("on-negotiation-needed", self._offer)
        self._peer.connect("notify::ice-gathering-state", self._gathered)
        self._peer.connect("pad-added", self._play)
        directions = GstWebRTC.WebRTCRTPTransceiverDirection
        if self._sends:
            self._peer.emit("get-transceiver", 0).set_property("direction", directions.SENDONLY)
        else:
            self._peer.emit("add-transceiver", directions.RECVONLY, Gst.Caps.from_string(VIDEO))

    def _offer(self, peer: Gst.Element) -> None:
        peer.emit("create-offer", None, Gst.Promise.new_with_change_func(self._offered, None))

    def _offered(self, promise: Gst.Promise, _data: object) -> None:
        reply = promise.get_reply()
        offer = reply.get_value("offer")
        self._kept += [promise, reply, offer]
        self._describe("local", GstWebRTC.WebRTCSDPType.OFFER, offer.sdp.as_text())

    def _describe(self, side: str, kind: GstWebRTC.WebRTCSDPType, text: str) -> None:
        _, sdp = GstSdp.SDPMessage.new_from_text(text)
        described = GstWebRTC.WebRTCSessionDescription.new(kind, sdp)
        self._kept += [sdp, described]
        self._peer.emit(f"set-{side}-description", described, Gst.Promise.new())

    def _gathered(self, peer: Gst.Element, _property: object) -> None:
        complete = GstWebRTC.WebRTCICEGatheringState.COMPLETE
        if peer.get_property("ice-gathering-state") == complete and not self._asked:
            self._asked = True
            offer = peer.get_property("local-description").sdp.as_text()
            threading.Thread(target=self._ask, args=(offer,), daemon=True).start()

    def _ask(self, offer: str) -> None:
        request = urllib.request.Request(self._address, offer.encode(), {"content-type": "application/sdp"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            self._resource = urljoin(self._address, answer.headers["location"])
            text = answer.read().decode()
        self._describe("remote", GstWebRTC.WebRTCSDPType.ANSWER, text)

    def _play(self, _peer: Gst.Element, pad: Gst.Pad) -> None:
        if pad.direction != Gst.PadDirection.SRC:
            return
        player = Gst.parse_bin_from_description(
            "rtpvp8depay ! vp8dec ! videoconvert ! video/x-raw,format=RGB ! fakesink name=screen signal-handoffs=true",
            True,
        )
        player.get_by_name("screen").connect("handoff", self._show)
        self.pipeline.add(player)
        player.sync_state_with_parent()
        pad.link(player.get_static_pad("sink"))

    def _show(self, _screen: Gst.Element, _buffer: Gst.Buffer, pad: Gst.Pad) -> None:
        picture = pad.get_current_caps().get_structure(0)
        print("frame", picture.get_value("width"), picture.get_value("height"), flush=True)

    def close(self) -> None:
        """Ends the stream and takes the connection back."""
        self.pipeline.set_state(Gst.State.NULL)
        if self._resource is not None:
            urllib.request.urlopen(urllib.request.Request(self._resource, method="DELETE"), timeout=60).close()


def main() -> None:
    Gst.init(None)
    loop = GLib.MainLoop()
    connection = Connection(sys.argv[1])

    def wait_for_the_end() -> None:
        sys.stdin.read()
        loop.quit()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    connection.pipeline.set_state(Gst.State.PLAYING)
    loop.run()
    connection.close()


if __name__ == "__main__":
    main()
