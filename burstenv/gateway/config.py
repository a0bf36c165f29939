"""Limits and time-outs of a gateway."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from burstenv.config import Config

Seconds = Annotated[float, Field(gt=0.0, le=1e6)]


class Limits(Config):
    """Sizes, time-outs and retries; the YAML file of ``serve --limits``.

    Attributes:
        max_body_bytes: Greatest body of a request; a larger one is answered with 413.
        max_header_bytes: Greatest size of a request's headers; larger ones are answered with 431.
        max_in_flight: Requests at the gateway and in the engines; further ones are answered with 429.
        retry_after_s: What a rejected client is told to wait.
        connect_s: Longest time to connect to an engine.
        first_byte_s: Longest time from sending a request to an engine to the first byte of its answer.
        between_bytes_s: Longest time between two bytes of an answer.
        retries: How often a request is sent to another engine when an engine failed before its answer began.
        health_period_s: Between two checks of an engine.
        health_timeout_s: An engine that does not answer a check in this time has failed it.
        failures_to_eject: Failed checks in a row after which an engine gets no requests.
        successes_to_return: Checks passed in a row after which it gets them again.
        scrape_period_s: Between two readings of an engine's metrics.
        drain_s: Time that answers under way are given when the gateway ends.
    """

    max_body_bytes: Annotated[int, Field(ge=1_000, le=1 << 30)] = 8 << 20
    max_header_bytes: Annotated[int, Field(ge=1_000, le=1 << 20)] = 32 << 10
    max_in_flight: Annotated[int, Field(ge=1, le=16_384)] = 4096
    retry_after_s: Seconds = 1.0
    connect_s: Seconds = 2.0
    first_byte_s: Seconds = 300.0
    between_bytes_s: Seconds = 60.0
    retries: Annotated[int, Field(ge=0, le=10)] = 1
    health_period_s: Seconds = 1.0
    health_timeout_s: Seconds = 2.0
    failures_to_eject: Annotated[int, Field(ge=1, le=100)] = 2
    successes_to_return: Annotated[int, Field(ge=1, le=100)] = 1
    scrape_period_s: Seconds = 1.0
    drain_s: Seconds = 30.0


class GatewayConfig(Limits):
    """How a gateway treats its clients and its engines.

    Attributes:
        host: Address that it listens on: this machine alone, unless told otherwise.
        port: Port; 0: any free one.
        token: Clients must send it as ``Authorization: Bearer TOKEN``; None: they need none.
        log_prompts: Whether the log holds the bodies of requests.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    token: str | None = None
    log_prompts: bool = False
