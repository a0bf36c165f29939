"""An open-loop load generator: every request is sent when the trace says, whatever the answers do."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from burstenv.cluster.requests import number_streams
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError
from burstenv.files import write_atomic
from burstenv.gateway.endless import text_of
from burstenv.gateway.incoming import (
    CLASS_HEADER,
    COMPLETIONS,
    PREDICTED_HEADER,
    SESSION_HEADER,
    TPOT_HEADER,
    TTFT_HEADER,
)
from burstenv.workload import CLASSES, EpisodeRequests

LATE_S = 0.010  # a request sent later than this after its time is counted as late
EARLY = "the answer ended early"  # without an error that says why
DONE = b"data: [DONE]"
IDLE_S = 3.0  # a connection idle for longer is not used again: vLLM closes it after 5 s, and a request on it is lost
_USAGE = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')


@dataclass(frozen=True)
class Planned:
    """One request to send.

    Attributes:
        at_s: Time after the begin [s].
        prompt_tokens: Length of the prompt.
        output_tokens: Length of the answer, which is forced.
        stream: Its tokens after the prefix are those of this stream at the same places: that of its conversation.
        headers: Class, conversation, objectives, predicted length.
        ttft_slo_s: Objective on the time to first token [s].
        tpot_slo_s: Objective on the time per output token [s].
        prefix_stream: Stream of a prefix that it shares with other conversations.
        prefix_tokens: Length of that prefix.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int
    stream: int
    headers: dict[str, str]
    ttft_slo_s: float
    tpot_slo_s: float
    prefix_stream: int = 0
    prefix_tokens: int = 0


@dataclass
class Sent:
    """What became of a request; times in seconds after the begin, NaN where there was none."""

    at_s: float
    sent_s: float = math.nan
    first_token_s: float = math.nan
    end_s: float = math.nan
    status: int = 0  # of HTTP; 0: no answer
    prompt_tokens: int = 0
    output_tokens: int = 0  # received
    whole: bool = False  # with its end
    attained: bool = False
    problem: str = ""


def plan_of(drawn: EpisodeRequests, scenario: Scenario, seed: int, speed: float = 1.0) -> list[Planned]:
    """Return the requests of an episode as a client sends them.

    Args:
        drawn: The episode.
        scenario: Its objectives and its predictions of lengths.
        seed: Of the predictions.
        speed: Share of real time at which the engines are paced; times and objectives are stretched by its inverse.
    """
    requests = scenario.requests_from(drawn, seed)
    number_streams(requests)
    planned = []
    for k in range(len(requests)):
        row = requests[k]
        ttft_s, tpot_s = float(row["ttft_slo_s"]) / speed, float(row["tpot_slo_s"]) / speed
        headers = {
            CLASS_HEADER: CLASSES[int(row["class_code"])],
            TTFT_HEADER: f"{1000 * ttft_s:.6g}",
            TPOT_HEADER: f"{1000 * tpot_s:.6g}",
            PREDICTED_HEADER: f"{float(row['predicted_tokens']):.6g}",
        }
        session = int(row["session"])
        if session >= 0:
            headers[SESSION_HEADER] = f"s{session}"
        planned.append(
            Planned(
                float(row["arrival_s"]) / speed, int(row["prompt_tokens"]), int(row["output_tokens"]),
                int(row["stream"]), headers, ttft_s, tpot_s, int(row["prefix_stream"]), int(row["prefix_tokens"]),
            )
        )  # fmt: skip
    return planned


def prompt_ids(request: Planned) -> list[int]:
    """Return the token ids of a prompt: those of its prefix, then those of its stream at the same places."""
    shared = min(request.prefix_tokens, request.prompt_tokens)
    own = text_of(request.stream, shared, request.prompt_tokens)
    return [*text_of(request.prefix_stream, 0, shared), *own] if shared else own


async def send_all(
    planned: Sequence[Planned],
    url: str,
    *,
    model: str | None = None,
    token: str | None = None,
    grace_s: float = 120.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Sent]:
    """Send requests at their times and return what became of each.

    Args:
        planned: The requests, by time.
        url: Address of the gateway or engine.
        model: Name of the model; None: the first that the address offers.
        token: Bearer token.
        grace_s: Answers not over so long after the last request was sent are given up.
        progress: Called with the requests over and their number.

    Raises:
        BurstenvError: If nothing answers at the address.
    """
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as client:
        name = model or await _first_model(client, url)
        begun_s = time.monotonic() + 0.05
        over = 0

        async def one(request: Planned, sent: Sent) -> None:
            nonlocal over
            await _send(client, url, name, request, sent, begun_s)
            over += 1
            if progress is not None:
                progress(over, len(planned))

        results, tasks = [], []
        for request in planned:
            left_s = begun_s + request.at_s - time.monotonic()
            if left_s > 0.0:
                await asyncio.sleep(left_s)
            results.append(Sent(request.at_s))
            tasks.append(asyncio.create_task(one(request, results[-1])))
        _, waiting = await asyncio.wait(tasks, timeout=grace_s)
        for task in waiting:
            task.cancel()
        for task, sent in zip(tasks, results, strict=True):
            if task in waiting:
                sent.problem = f"not over {grace_s:g} s after the last request was sent"
        await asyncio.gather(*tasks, return_exceptions=True)
    return results


async def _first_model(client: aiohttp.ClientSession, url: str) -> str:
    try:
        async with client.get(f"{url}/v1/models") as answer:
            return str((await answer.json())["data"][0]["id"])
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise BurstenvError(f"{url} does not answer ({type(error).__name__})") from None
    except (ValueError, TypeError, KeyError, IndexError):
        raise BurstenvError(f"{url}/v1/models offers no model; name one with --model") from None


async def _send(
    client: aiohttp.ClientSession, url: str, model: str, request: Planned, sent: Sent, begun_s: float
) -> None:
    said: dict[str, Any] = {
        "model": model,
        "prompt": prompt_ids(request),
        "max_tokens": request.output_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body = json.dumps(said, separators=(",", ":"))
    sent.prompt_tokens = request.prompt_tokens
    sent.sent_s = time.monotonic() - begun_s
    events, tail = 0, b""
    try:
        kind = {"Content-Type": "application/json"}
        async with client.post(url + COMPLETIONS, data=body, headers={**kind, **request.headers}) as answer:
            sent.status = answer.status
            if answer.status != 200:
                sent.problem = (await answer.text())[:200]
                return
            async for chunk in answer.content.iter_any():
                now_s = time.monotonic() - begun_s
                if events == 0:
                    sent.first_token_s = now_s
                events += chunk.count(b"\n\n")
                sent.end_s = now_s
                tail = (tail + chunk)[-4096:]
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        sent.problem = type(error).__name__
    finally:
        sent.whole = DONE in tail[-64:]
        told = _USAGE.findall(tail)  # an event may bring several tokens
        sent.output_tokens = int(told[-1]) if told else max(0, events - 2 * sent.whole)
        if not sent.whole and not sent.problem and sent.status == 200:
            sent.problem = _told_error(tail) or EARLY
        ttft_s, tpot_s = sent.first_token_s - sent.at_s, tpot_of(sent)
        in_time = ttft_s <= request.ttft_slo_s and not tpot_s > request.tpot_slo_s
        sent.attained = sent.whole and sent.output_tokens == request.output_tokens and in_time


def _told_error(tail: bytes) -> str:
    """Return the message of the error that ends a stream; empty if there is none."""
    try:
        return str(json.loads(tail.rpartition(b"data: ")[2])["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return ""


def tpot_of(sent: Sent) -> float:
    """Return the time per output token after the first [s]; NaN for fewer than two."""
    if sent.output_tokens < 2:
        return math.nan
    return (sent.end_s - sent.first_token_s) / (sent.output_tokens - 1)


def summary(results: Sequence[Sent]) -> dict[str, Any]:
    """Return counts, latencies and the lateness of the generator itself."""
    late_s = np.array([sent.sent_s - sent.at_s for sent in results])
    whole = [sent for sent in results if sent.whole]
    values: dict[str, Any] = {
        "sent": len(results),
        "answered": len(whole),
        "rejected": sum(sent.status == 429 for sent in results),
        "failed": sum(not sent.whole and sent.status != 429 for sent in results),
        "attainment": sum(sent.attained for sent in results) / max(1, len(results)),
        "late": int((late_s > LATE_S).sum()),
        "late_s_mean": float(late_s.mean()),
        "late_s_max": float(late_s.max()),
    }
    times = {
        "ttft_s": [sent.first_token_s - sent.at_s for sent in whole],
        "tpot_s": [tpot_of(sent) for sent in whole if sent.output_tokens > 1],
        "e2e_s": [sent.end_s - sent.at_s for sent in whole],
    }
    for name, found in times.items():
        for kind, value in _spread(found).items():
            values[f"{name}_{kind}"] = value
    problems = [sent.problem for sent in results if sent.problem and sent.status != 429]
    values["problems"] = {text: problems.count(text) for text in dict.fromkeys(problems)}
    return values


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return dict.fromkeys(("mean", "p50", "p99"))
    return {
        "mean": float(np.mean(values)),
        "p50": float(np.percentile(values, 50)),
        "p99": float(np.percentile(values, 99)),
    }


def write_results(results: Sequence[Sent], path: Path) -> None:
    """Write one row a request as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(asdict(results[0])), lineterminator="\n")
    writer.writeheader()
    for sent in results:
        writer.writerow({name: "" if value != value else value for name, value in asdict(sent).items()})
    write_atomic(path, text.getvalue())
