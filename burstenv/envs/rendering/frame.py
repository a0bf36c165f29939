"""``render_mode="rgb_array"``: one environment as a picture, drawn with Pillow, no display needed.

A frame shows the published state of the replicas (KV blocks used, and those that the waiting requests will take; batch,
queue, batching mode), the request at the gateway, and the outcomes so far. The colours are those of Okabe and Ito,
distinct for colour-blind readers; each one also has a label.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from burstenv.cluster.cluster_config import ROLES
from burstenv.cluster.transfer_config import given_up
from burstenv.engine.enums import ATTAINED, AWAY, REJECTED, SETTLED, STATUS_NAMES
from burstenv.envs.batch import EnvironmentBatch
from burstenv.errors import BurstenvError

WIDTH, HEIGHT = 960, 540
RECENT_S = 60.0  # window of the recent attainment
HISTORY = 240  # points of its course over that window, for any number of frames

_PAPER, _INK, _SOFT, _LINE, _PANEL = "#ffffff", "#1b1f24", "#5f6873", "#d5dae0", "#f4f6f8"
_OF_CLASS = ("#0072b2", "#d55e00")  # conversation, api
_KV, _KV_ASIDE, _KV_QUEUED, _BATCH, _QUEUE = "#0072b2", "#56b4e9", "#8cc4e8", "#009e73", "#e69f00"
_OUTCOMES = (
    ("attained", "#009e73"),
    ("late", "#e69f00"),
    ("rejected", "#8a929c"),
    ("failed", "#1b1f24"),
    ("pending", "#d5dae0"),
)


def need_pillow() -> Any:
    """Return Pillow's ``Image``, ``ImageDraw`` and ``ImageFont``.

    Raises:
        BurstenvError: If Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise BurstenvError("pictures of an environment need Pillow: pip install 'burstenv[render]'") from None
    return Image, ImageDraw, ImageFont


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    return need_pillow()[2].load_default(size)


class ClusterPicture:
    """Draws one environment of a batch, frame after frame.

    Args:
        batch: The environments.
        i: Index of the environment.
    """

    def __init__(self, batch: EnvironmentBatch, i: int):
        self.batch = batch
        self.i = i
        self._then_s = 0.0  # of the frame before
        self._before = -1  # request at the gateway in the previous frame
        self._image, self._draw_on, _ = need_pillow()
        self._classes = batch.scenario.config.class_names

    def frame(self) -> np.ndarray:
        """Return the environment's present state, (540, 960, 3) uint8."""
        image = self._image.new("RGB", (WIDTH, HEIGHT), _PAPER)
        self._d = self._draw_on.Draw(image)
        self._d.fontmode = "L"
        environment = self.batch.cluster.state.environments[self.i]
        now_s = float(environment["now_s"])
        if now_s < self._then_s:  # a new episode
            self._before = -1
        self._then_s = now_s
        self._header(now_s)
        self._gateway(environment, now_s)
        self._replicas()
        self._outcomes(now_s)
        return np.asarray(image)

    # -- helpers -----------------------------------------------------------------------------------

    def _text(self, x: float, y: float, text: str, size: int = 14, fill: str = _INK, anchor: str = "lm") -> None:
        self._d.text((x, y), text, font=_font(size), fill=fill, anchor=anchor)

    def _fitted(self, text: str, width: float, size: int) -> str:
        font = _font(size)
        if font.getlength(text) <= width:
            return text
        while len(text) > 1 and font.getlength(text + "...") > width:
            text = text[:-1]
        return text.rstrip(" -.") + "..."

    def _bar(self, x: float, y: float, width: float, height: float, parts: list[tuple[float, str]]) -> None:
        """Draw shares of a bar side by side; the rest stays empty."""
        self._d.rectangle((x, y, x + width, y + height), fill=_PAPER, outline=_LINE)
        at = x
        for share, colour in parts:
            end = min(x + width, at + max(0.0, share) * width)
            if end - at >= 0.5:
                self._d.rectangle((at, y, end, y + height), fill=colour)
            at = end

    # -- the panels --------------------------------------------------------------------------------

    def _header(self, now_s: float) -> None:
        episode = self.batch.episodes[self.i]
        parts = [self.batch.scenario.config.name]
        if "day" in episode:
            parts.append(f"{episode.get('split', '')} day {episode['day']}")
        if "load" in episode:
            parts.append(f"load {episode['load']:g}")
        if "rate_per_s" in episode:
            parts.append(f"{episode['rate_per_s']:.1f} requests/s")
        self._text(24, 28, "   ·   ".join(parts), 17)
        self._text(WIDTH - 24, 28, f"t = {now_s:,.2f} s", 17, anchor="rm")

    def _gateway(self, environment: Any, now_s: float) -> None:
        top, bottom = 52, 154
        self._d.rounded_rectangle((16, top, WIDTH - 16, bottom), 6, fill=_PANEL)
        at_gateway = self.batch.cluster.at_gateway(self.i)
        requests = self.batch.cluster.state.requests[self.i]
        if at_gateway < 0:
            tick = f"no request at the gateway: {self.batch.without_request(self.i)}"
            text = "the episode is over" if environment["done"] else tick
            self._text(32, top + 22, text, 15, _SOFT)
            if not environment["done"]:
                self._text(32, top + 48, self._fitted(self.batch.in_force(self.i), 700, 14), 14)
        else:
            self._request(requests[at_gateway], at_gateway, top, now_s)
        before = self._before
        if 0 <= before < int(environment["num_requests"]) and before != at_gateway:
            self._text(32, bottom - 16, self._decided(requests[before], before), 13, _SOFT)
        self._before = at_gateway
        rate, slow = float(environment["rate_fast_per_s"]), float(environment["rate_slow_per_s"])
        right = WIDTH - 32
        self._text(right, top + 20, f"arrivals {rate:.1f}/s over 5 s", 13, _SOFT, "rm")
        self._text(right, top + 40, f"{slow:.1f}/s over 60 s", 13, _SOFT, "rm")
        self._text(right, top + 60, f"deferred {int(environment['deferred'])}", 13, _SOFT, "rm")
        age_s = self.batch.metrics_age_s(self.i)
        if age_s is not None:  # policies see the state below
            self._text(right, top + 84, f"replicas as they were {age_s:.1f} s ago", 13, _SOFT, "rm")

    def _request(self, request: Any, number: int, top: int, now_s: float) -> None:
        code = int(request["class_code"])
        colour = _OF_CLASS[code % 2]
        prompt, predicted = int(request["prompt_tokens"]), float(request["predicted_tokens"])
        longest = float(self.batch.scenario.config.episode.max_total_tokens or 4096)
        self._d.ellipse((32, top + 14, 46, top + 28), fill=colour)
        self._text(56, top + 21, f"{self._classes[code]} request {number}", 15)
        self._bar(32, top + 40, 340, 10, [(prompt / longest, colour), (predicted / longest, _lighter(colour))])
        self._text(32, top + 61, f"{prompt:,} prompt + about {predicted:,.0f} output tokens", 13)
        ttft_slo_s = float(request["ttft_slo_s"])
        left_s = float(request["arrival_s"]) + ttft_slo_s - now_s
        self._text(420, top + 21, f"first token within {ttft_slo_s:.2f} s, {max(left_s, 0.0):.2f} s left", 14)
        share = min(1.0, max(0.0, left_s / ttft_slo_s)) if np.isfinite(ttft_slo_s) else 1.0
        self._bar(420, top + 40, 220, 10, [(share, _BATCH if share > 0.34 else _QUEUE)])
        self._text(420, top + 61, f"then {1e3 * float(request['tpot_slo_s']):.0f} ms per token", 13)

    def _decided(self, request: Any, number: int) -> str:
        status, replica = int(request["status"]), int(request["replica"])
        if status == REJECTED:
            return f"request {number} was rejected"
        if status == AWAY:
            return f"request {number} was rejected, its client will send it again"
        if replica >= 0:
            return f"request {number} went to replica {replica}"
        return f"request {number} {'was deferred' if int(request['defers']) else 'is ' + STATUS_NAMES[status]}"

    def _replicas(self) -> None:
        count = len(self.batch.scenario.specs)
        top, bottom = 162.0, 438.0
        columns = 1 if count <= 6 else max(2, -(-count // 16))
        rows = -(-count // columns)
        width = (WIDTH - 32 - 16 * (columns - 1)) / columns
        height = min(62.0, (bottom - top) / rows)
        top += max(0.0, (bottom - top - rows * height) / 2)
        draw = self._wide if columns == 1 else self._narrow
        for r in range(count):
            draw(r, 16 + (r // rows) * (width + 16), top + (r % rows) * height, width, height)

    def _shares(self, r: int) -> tuple[float, float, int, int]:
        replica = self.batch.cluster.state.replicas[self.i, r]
        blocks = float(self.batch.scenario.specs[r].num_blocks)
        used = 1.0 - float(replica["seen_free_blocks"]) / blocks
        queued = float(replica["seen_waiting_blocks"]) / blocks
        return used, queued, int(replica["seen_running"]), int(replica["seen_waiting"])

    def _kv(self, r: int, used: float, queued: float) -> list[tuple[float, str]]:
        """Return the shares of a KV cache: in use by the batch, set aside for requests on the move, queued for."""
        replica = self.batch.cluster.state.replicas[self.i, r]
        blocks = int(replica["reserved_blocks"]) + int(replica["held_blocks"])
        aside = min(used, blocks / self.batch.scenario.specs[r].num_blocks)
        return [(used - aside, _KV), (aside, _KV_ASIDE), (queued, _KV_QUEUED)]

    def _moves(self, r: int) -> str:
        """Return a replica's role, where roles differ, and the transfers that it takes part in."""
        cluster = self.batch.cluster
        replica = cluster.state.replicas[self.i, r]
        role = f", {ROLES[int(replica['role'])]}" if cluster.hands_over else ""
        return role + (f", {int(replica['transfers'])} on the move" if replica["transfers"] else "")

    def _wide(self, r: int, x: float, y: float, width: float, height: float) -> None:
        """Draw one replica as a row: name and mode, KV cache, batch, queue."""
        used, queued, running, waiting = self._shares(r)
        middle = y + height / 2
        mode = self.batch.scenario.mode_names[int(self.batch.cluster.state.replicas[self.i, r]["mode"])]
        name = self.batch.scenario.specs[r].name.replace(":", "  ", 1).replace("@", " on ", 1)
        self._text(x + 8, middle - 10, self._fitted(name, 255, 14), 14)
        self._text(x + 25, middle + 10, self._fitted(mode + self._moves(r), 240, 13), 13, _SOFT)
        self._bar(x + 280, middle - 4, 330, 16, self._kv(r, used, queued))
        self._text(x + 280, middle - 15, f"KV cache {used:.0%} used", 13, _SOFT)
        if queued > 0:
            self._text(x + 610, middle - 15, f"{queued:+.0%} queued for", 13, _SOFT, "rm")
        limit = float(self.batch.cluster.modes["max_num_seqs"].max())
        for left, label, value, full, colour in (
            (640, "running", running, min(limit, 128.0), _BATCH),
            (785, "waiting", waiting, 64.0, _QUEUE),
        ):
            self._text(x + left, middle - 15, f"{label} {value}", 13, _SOFT)
            self._bar(x + left, middle - 4, 128, 16, [(value / full, colour)])

    def _narrow(self, r: int, x: float, y: float, width: float, height: float) -> None:
        """Draw one replica of many as a line: number, KV cache, and counts if they fit."""
        used, queued, running, waiting = self._shares(r)
        middle, size = y + height / 2, 12 if height < 26 else 13
        self._text(x + 22, middle, str(r), size, anchor="rm")
        room = 92 if width > 200 else 62
        self._bar(x + 30, middle - min(8, height / 3), width - 34 - room, min(16, 2 * height / 3),
                  self._kv(r, used, queued))  # fmt: skip
        counts = f"{running} run, {waiting} wait" if width > 200 else f"{running} / {waiting}"
        self._text(x + width, middle, counts, size, _SOFT, "rm")

    def _outcomes(self, now_s: float) -> None:
        counts = self.batch.counts(self.i)
        offered = max(1, counts["offered"])
        at_s, course = self._course(now_s)
        recent = course[-1]
        top = 446
        self._d.line((16, top, WIDTH - 16, top), fill=_LINE)
        shown = "none settled" if np.isnan(recent) else f"{recent:.0%}"
        self._text(24, top + 20, f"attainment, last {RECENT_S:.0f} s: {shown}", 14)
        self._sparkline(24, top + 36, 250, 44, (at_s - now_s) / RECENT_S + 1.0, course)
        self._text(310, top + 20, f"{counts['offered']:,} requests offered so far", 14)
        moved = self.batch.cluster.transfer_counts(self.i)
        if moved is not None:
            done = int(moved["migrations"]) + int(moved["handed_over"])
            text = self._fitted(f"transfers done {done:,}, given up {given_up(moved)}", 420, 13)
            self._text(WIDTH - 24, top + 20, text, 13, _SOFT, "rm")
        self._bar(310, top + 36, 626, 16, [(counts[name] / offered, colour) for name, colour in _OUTCOMES])
        x = 310.0
        for name, colour in _OUTCOMES:
            self._d.rectangle((x, top + 63, x + 11, top + 74), fill=colour)
            label = f"{name} {counts[name]:,}"
            self._text(x + 17, top + 69, label, 13)
            x += 626 / len(_OUTCOMES)

    def _course(self, now_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the attainment of the last minute at instants of the last minute, from the records.

        Returns:
            Instants (HISTORY + 1,) [s] up to now, and at each the attained share of the requests settled in the minute
            before it; NaN for none.
        """
        environment = self.batch.cluster.state.environments[self.i]
        requests = self.batch.cluster.state.requests[self.i, : environment["num_requests"]]
        settled = np.isin(requests["status"], SETTLED)
        ended_s = np.where(np.isnan(requests["finish_s"]), requests["arrival_s"], requests["finish_s"])[settled]
        order = np.argsort(ended_s, kind="stable")
        ended_s, attained = ended_s[order], (requests["status"][settled][order] == ATTAINED).cumsum()
        attained = np.concatenate([[0], attained])
        at_s = now_s - RECENT_S * np.arange(HISTORY, -1, -1) / HISTORY
        first = np.searchsorted(ended_s, at_s - RECENT_S, side="left")
        last = np.searchsorted(ended_s, at_s, side="right")
        with np.errstate(invalid="ignore"):
            return at_s, (attained[last] - attained[first]) / (last - first)

    def _sparkline(
        self, x: float, y: float, width: float, height: float, places: np.ndarray, shares: np.ndarray
    ) -> None:
        self._d.rectangle((x, y, x + width, y + height), fill=_PANEL)
        there = ~np.isnan(shares)
        points = [
            (x + width * place, y + height * (1.0 - share))
            for place, share in zip(places[there].tolist(), shares[there].tolist(), strict=True)
        ]
        if len(points) > 1:
            self._d.line(points, fill=_OUTCOMES[0][1], width=2)


@lru_cache(maxsize=8)
def _lighter(colour: str) -> str:
    """Return a colour half way to white."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"#{(red + 255) // 2:02x}{(green + 255) // 2:02x}{(blue + 255) // 2:02x}"
