"""DTLS with peers whose certificate is an RSA one: GStreamer's are, and aiortc offers them no cipher.

Asked for in aiortc (github.com/aiortc/aiortc, pull request 1392 and issue 1434; open as of 1.16). There is no public
place for it; where aiortc changes what is used here, such peers are refused again and everybody else notices nothing.
"""

from __future__ import annotations

from typing import Any

from aiortc import RTCCertificate, RTCPeerConnection
from OpenSSL import SSL

CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA:"
    b"ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305"
)
"""aiortc's own, then two for RSA: with forward secrecy and authenticated encryption, too."""


class Certificate(RTCCertificate):
    """This server's certificate (ECDSA, as ever); its connections can also check an RSA one."""

    def _create_ssl_context(self, *args: Any, **kwargs: Any) -> SSL.Context:
        context = super()._create_ssl_context(*args, **kwargs)
        context.set_cipher_list(CIPHERS)
        return context


def accept_rsa(peer: RTCPeerConnection) -> None:
    """Lets a connection that has no transport yet take peers with RSA certificates."""
    setattr(peer, "_RTCPeerConnection__certificates", [Certificate.generateCertificate()])  # noqa: B010 - a private name
