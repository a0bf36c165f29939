"""Running a gateway: the ASGI server, signals, a clean end."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys

import uvicorn

from burstenv.errors import BurstenvError
from burstenv.gateway.answers import Receive, Scope, Send
from burstenv.gateway.app import Application
from burstenv.gateway.gateway import Gateway

BACKLOG = 2048
KEEP_ALIVE_S = (
    75  # an idle client's connection, longer than clients keep them: one closed as it is used loses a request
)


def run(gateway: Gateway, policy: str) -> None:
    """Serve until a signal: SIGTERM and Ctrl-C end it after the answers under way, SIGHUP loads the policy anew.

    Args:
        gateway: The gateway.
        policy: Name of the policy that SIGHUP loads again, from its file if it has one.

    Raises:
        BurstenvError: If the address cannot be had.
    """
    config = gateway.config
    with _listening(config.host, config.port) as listener:
        host, port = listener.getsockname()[:2]
        print(f"burstenv: {gateway.decider.name} serves http://{host}:{port}, dashboard at /dashboard", file=sys.stderr)
        server = uvicorn.Server(
            uvicorn.Config(
                _reloading(gateway, policy),
                loop="uvloop",
                http="httptools",
                lifespan="on",
                log_level="error",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=max(1, round(config.drain_s)),
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )
        gc.collect()
        gc.freeze()  # what lives as long as the gateway: looking through it again and again would hold all streams up
        server.run(sockets=[listener])
    if not server.started:
        raise BurstenvError("the gateway could not begin; the lines above say why")


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)  # clients that come before the gateway is ready wait for it
    except OSError as error:
        listener.close()
        raise BurstenvError(f"{host}:{port} cannot be listened on ({error.strerror or error})") from None
    return listener


def _reloading(gateway: Gateway, policy: str) -> Application:
    """Return the application, which reloads the policy at SIGHUP."""

    class Reloading(Application):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan" and hasattr(signal, "SIGHUP"):
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, gateway, policy)
            await super().__call__(scope, receive, send)

    return Reloading(gateway)


def _reload(gateway: Gateway, policy: str) -> None:
    try:
        print(f"burstenv: {gateway.reload(policy)} is in force", file=sys.stderr)
    except BurstenvError as error:
        print(f"burstenv: {error}; {gateway.decider.name} stays in force", file=sys.stderr)
