"""Others' clients feed and play a session of the running server: ffmpeg by WHIP, GStreamer by WHIP and WHEP.

ffmpeg's WHIP sender comes with PyAV (FFmpeg 8 or newer). GStreamer is the system's, of another Python; on Debian:
apt-get install python3-gst-1.0 gir1.2-gst-plugins-bad-1.0 gstreamer1.0-plugins-bad gstreamer1.0-plugins-good \
    gstreamer1.0-nice
"""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import pytest

pytest.importorskip("aiortc", reason="the live server's extra is missing: pip install 'personalive[server]'")
pytest.importorskip("fastapi", reason="the live server's extra is missing: pip install 'personalive[server]'")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fake_live import FakeModel
from live_server import PATIENCE, Running, running, until
from personalive import gallery
from personalive.server.sessions import Live

HERE = Path(__file__).parent
GSTREAMER = """
import gi
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import Gst, GstSdp, GstWebRTC
Gst.init(None)
names = "webrtcbin nicesrc dtlsenc srtpenc rtpvp8pay rtpvp8depay vp8enc vp8dec videotestsrc".split()
raise SystemExit(not all(Gst.ElementFactory.find(name) for name in names))
"""

pytestmark = pytest.mark.skipif(not gallery.portraits(), reason="the built-in portraits are not in this installation")


@pytest.fixture
def server() -> Iterator[Running]:
    with running(FakeModel()) as started:
        yield started


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A client that runs until its input ends, which is at the block's end; it must then end by itself, and well."""
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def fed(server: Running) -> Live:
    """The session of the name "studio", once painted frames of its driver's go out."""

    def find() -> Live | None:
        live = next(iter(server.service.sessions), None)
        return live if live and live.screen.current and live.screen.current.driven else None

    until(find)
    live = find()
    assert live is not None
    assert (live.session.identity, live.drivers) == ("studio", 1)
    return live


def assert_given_back(live: Live) -> None:
    """The client has told the server that it leaves."""
    until(lambda: (live.drivers, live.connections) == (0, {}))


@pytest.mark.skipif("whip" not in av.formats_available, reason="PyAV's ffmpeg is older than 8: no WHIP sender")
def test_ffmpeg_feeds(server: Running, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    address = f"http://{server.address}/whip/studio"
    with program(sys.executable, str(HERE / "ffmpeg_peer.py"), address, str(certificate), str(key)):
        live = fed(server)
    assert_given_back(live)


def make_certificate(place: Path) -> tuple[Path, Path]:
    """A certificate of a P-256 key, and the key: what ffmpeg built on GnuTLS makes by itself is a weaker one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "whip")])
    today = datetime.datetime.now(datetime.timezone.utc)
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    built = built.not_valid_before(today - datetime.timedelta(1)).not_valid_after(today + datetime.timedelta(1))
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (place / "key.pem").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    (place / "certificate.pem").write_bytes(built.sign(key, hashes.SHA256()).public_bytes(pem))
    return place / "certificate.pem", place / "key.pem"


def test_gstreamer_feeds_and_plays(server: Running) -> None:
    python = shutil.which("python3", path="/usr/bin:/bin")
    if python is None or subprocess.run([python, "-c", GSTREAMER], capture_output=True, check=False).returncode:
        pytest.skip("GStreamer's webrtcbin is not there for the system's Python; see this file's first lines")
    peer, address = str(HERE / "gstreamer_peer.py"), f"http://{server.address}"
    with program(python, peer, f"{address}/whip/studio"):
        live = fed(server)
        with program(python, peer, f"{address}/whep/studio") as player:
            assert player.stdout is not None
            for _ in range(10):
                assert player.stdout.readline() == "frame 32 32\n"
            assert live.drivers == 1, "who plays does not drive"
        until(lambda: len(live.connections) == 1)
    assert_given_back(live)
