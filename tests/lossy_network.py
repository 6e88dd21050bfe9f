"""A bad network between two WebRTC peers of one process: a UDP relay that drops and delays packets, by a seed."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

Address = tuple[str, int]
CANDIDATE = re.compile(r"a=candidate:\S+ 1 udp \d+ (\d+\.\d+\.\d+\.\d+) (\d+) typ host")


class Side(asyncio.DatagramProtocol):
    """One of the relay's two sockets: what comes in here goes out of the other one."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.transport: Any = None
        self.peer: Address | None = None
        self.other: Side | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, _sender: Any) -> None:
        assert self.other is not None
        self._network.carry(data, self.other)

    def send(self, data: bytes) -> None:
        """To the peer, if it is known and the relay still there."""
        if self.peer is not None and not self.transport.is_closing():
            self.transport.sendto(data, self.peer)


class Network:
    """Loses this part of all packets; the others take `delay` seconds, and up to `jitter` more. It can change."""

    def __init__(self, seed: int) -> None:
        self.loss, self.delay, self.jitter = 0.0, 0.0, 0.0
        self.lost = self.carried = 0
        self._random = random.Random(seed)
        self.client_side, self.server_side = Side(self), Side(self)
        self.client_side.other, self.server_side.other = self.server_side, self.client_side

    def be(self, loss: float, delay: float, jitter: float) -> None:
        """From now on."""
        self.loss, self.delay, self.jitter = loss, delay, jitter

    def carry(self, data: bytes, to: Side) -> None:
        """One packet, or not."""
        if self._random.random() < self.loss:
            self.lost += 1
            return
        self.carried += 1
        wait = self.delay + self._random.random() * self.jitter
        asyncio.get_running_loop().call_later(wait, to.send, data)

    def through(self, sdp: str, speaker: Side, mouth: Side) -> str:
        """A description whose only candidate is the relay's `mouth`; where its `speaker` really is, is remembered."""
        found = CANDIDATE.search(sdp)
        assert found, "no IPv4 address of this machine is offered"
        speaker.peer = found[1], int(found[2])
        port = mouth.transport.get_extra_info("sockname")[1]
        ours = f"a=candidate:1 1 udp 2130706431 {found[1]} {port} typ host"
        kept = [line for line in sdp.split("\r\n") if not line.startswith("a=candidate:")]
        place = next(i for i, line in enumerate(kept) if line.startswith("a=ice-ufrag"))
        return "\r\n".join([*kept[:place], ours, *kept[place:]])

    def offer(self, sdp: str) -> str:
        """The client's offer, as the server gets it."""
        return self.through(sdp, self.client_side, self.server_side)

    def answer(self, sdp: str) -> str:
        """The server's answer, as the client gets it."""
        return self.through(sdp, self.server_side, self.client_side)


@asynccontextmanager
async def network(seed: int) -> AsyncIterator[Network]:
    """A network, perfect at first."""
    made = Network(seed)
    loop = asyncio.get_running_loop()
    for side in (made.client_side, made.server_side):
        await loop.create_datagram_endpoint(lambda side=side: side, ("0.0.0.0", 0))  # type: ignore[misc]
    yield made
    for side in (made.client_side, made.server_side):
        side.transport.close()
