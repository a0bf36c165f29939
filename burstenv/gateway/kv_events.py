"""KV events of vLLM over ZeroMQ: which blocks an engine stores and gives up, as it tells after each step.

A message has three parts: topic, number (8 bytes, big-endian), and a MessagePack batch ``[time, events, rank]`` whose
events are maps with their ``type`` (vLLM 0.33.0, ``vllm/distributed/kv_events.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq.asyncio
from zmq.constants import SocketOption, SocketType
from zmq.error import ZMQError

from burstenv.errors import BurstenvError
from burstenv.gateway.prefixes import ReportedBlocks

ON_GPU = (None, "GPU")


class Listener:
    """Listens to all engines.

    Args:
        places: Where each publishes, such as ``tcp://127.0.0.1:5557``.
        blocks: The blocks of each, kept up to date.
    """

    def __init__(self, places: Sequence[str], blocks: Sequence[ReportedBlocks]):
        self._engines = [(place, Events(known)) for place, known in zip(places, blocks, strict=True)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to listen, also where nothing publishes yet."""
        context = zmq.asyncio.Context.instance()
        for place, events in self._engines:
            socket = context.socket(SocketType.SUB)
            socket.setsockopt(SocketOption.RCVHWM, 0)  # none is lost here; vLLM's own limit is 100,000
            socket.setsockopt(SocketOption.LINGER, 0)
            socket.subscribe(b"")
            try:
                socket.connect(place)
            except ZMQError as error:
                raise BurstenvError(f"{place} is no address of KV events ({error.strerror})") from None
            self._tasks.append(asyncio.create_task(self._listen(socket, events)))

    def stop(self) -> None:
        """End it."""
        for task in self._tasks:
            task.cancel()

    @staticmethod
    async def _listen(socket: Any, events: Events) -> None:
        try:
            while True:
                events.take(await socket.recv_multipart())
        finally:
            socket.close()


class Events:
    """The messages of one engine.

    Args:
        blocks: Kept up to date.

    Attributes:
        missed: How often messages were missed; what was known is forgotten then.
    """

    def __init__(self, blocks: ReportedBlocks):
        self.blocks = blocks
        self.missed = 0
        self._next: int | None = None

    def take(self, parts: list[bytes]) -> None:
        """Take one message."""
        if len(parts) != 3:
            return
        number = int.from_bytes(parts[1], "big")
        if self._next is not None and number != self._next:  # some were missed, or the engine began anew
            self.missed += number > self._next
            self.blocks.clear()
        self._next = number + 1
        for event in msgspec.msgpack.decode(parts[2])[1]:
            self._note(event)

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("type") == "AllBlocksCleared":
            self.blocks.clear()
        elif event.get("medium") in ON_GPU and not event.get("group_idx"):
            if event["type"] == "BlockStored":
                self.blocks.stored(event["block_hashes"], event.get("parent_block_hash"), event["token_ids"])
            elif event["type"] == "BlockRemoved":
                self.blocks.removed(event["block_hashes"])
