"""Figures of requests: lengths, responses given prompts, and conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.conversations import context_growth, link_turns, think_times
from burstenv.workload.plots.style import (
    Picture,
    Theme,
    blank,
    class_label,
    draw,
    label,
    legend_above,
    plural,
    short,
)
from burstenv.workload.trace import CLASSES, MODELS, Trace

BINS_PER_DECADE = 14
MIN_IN_BIN = 30  # prompts; a band from fewer would be noise
MAX_TURNS_SHOWN = 20


@dataclass(frozen=True, eq=False)
class Group:
    """The requests of one class and model.

    Attributes:
        code: The class.
        model: The model.
        prompt_tokens: Prompt lengths, shape ``(g,)``.
        output_tokens: Response lengths, shape ``(g,)``.
    """

    code: int
    model: int
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]

    @property
    def label(self) -> str:
        """Name in legends."""
        return label(self.code, self.model)


def request_pictures(trace: Trace) -> list[Picture]:
    """Return the pictures of a trace's requests: prompt lengths, response lengths, response given prompt, sessions."""
    key = trace.log_type.astype(np.int16) * len(MODELS) + trace.model
    groups = []
    for place in np.flatnonzero(np.bincount(key, minlength=len(CLASSES) * len(MODELS))):
        rows = np.flatnonzero(key == place)
        code, model = divmod(int(place), len(MODELS))
        groups.append(Group(code, model, trace.prompt_tokens[rows], trace.output_tokens[rows]))
    return [
        _lengths("prompt", [(group, group.prompt_tokens) for group in groups]),
        _lengths("response", [(group, group.output_tokens) for group in groups]),
        _response_given_prompt(groups),
        _conversations(trace),
    ]


def _lengths(kind: str, of_group: Sequence[tuple[Group, NDArray[np.int32]]]) -> Picture:
    counts = [np.bincount(tokens) for _, tokens in of_group]  # exact: lengths are whole numbers
    longest = max(len(count) - 1 for count in counts)

    def plot(panels: Sequence[Any], theme: Theme) -> None:
        edges = _edges(longest)
        for (group, tokens), count in zip(of_group, counts, strict=True):
            colour = theme.of_model[group.code][group.model]
            # Edges lie between whole numbers; per decade, which makes the area under a curve its share.
            below = np.concatenate([[0], np.cumsum(count)])  # below[k]: tokens < k
            inside = np.diff(below[np.minimum(np.ceil(edges).astype(int), len(count))])
            density = 100 * inside / len(tokens) / np.diff(np.log10(edges))
            panels[0].stairs(density, edges, color=colour, lw=1.4, label=group.label)
            panels[0].stairs(density, edges, color=colour, alpha=0.10, fill=True)
            value = np.flatnonzero(count)
            value = np.concatenate([[value[0]], value])  # rises from 0 at the shortest
            share = 100 * np.concatenate([[0], below[value[1:] + 1]]) / len(tokens)
            panels[1].step(value, share, where="post", color=colour, label=group.label)
        for axes in panels:
            axes.set_xscale("log")
            axes.set_xlim(0.9, 1.15 * max(longest, 10))
            axes.xaxis.set_major_formatter(short)
            axes.xaxis.set_minor_formatter("")
            axes.set_ylim(bottom=0)
        panels[0].set_ylabel("requests per decade [%]")
        panels[1].set_ylim(0, 101)
        panels[1].set_ylabel("requests up to it [%]")
        panels[1].set_xlabel(f"{kind} tokens")
        legend_above(panels[0], "histogram")
        panels[1].set_title("cumulative", loc="left")

    parts = []
    for group, tokens in of_group:
        p50, p90, p99 = np.percentile(tokens, [50, 90, 99])
        parts.append(f"{group.label}: mean {tokens.mean():,.0f}, p50/p90/p99 {p50:,.0f}/{p90:,.0f}/{p99:,.0f}")
    title = f"{kind.capitalize()} lengths"
    sentence = f"Tokens of each {kind}. {_joined(parts)}."
    alt = f"Histogram and cumulative distribution of {kind} tokens by class and model"
    return Picture(f"{kind}-lengths", title, sentence, alt, draw(plot, [2.3, 1.9], True))


def _edges(longest: int, per_decade: int = BINS_PER_DECADE) -> NDArray[np.float64]:
    """Return edges of bins in whole numbers plus one half, evenly spaced in the logarithm as far as these allow."""
    whole = np.unique(np.round(10 ** np.arange(0, np.log10(max(longest, 2)) + 1 / per_decade, 1 / per_decade)))
    if whole[-1] < longest:  # the last step was rounded away
        whole = np.append(whole, longest)
    return np.concatenate([[0.5], whole + 0.5])


def _response_given_prompt(groups: Sequence[Group]) -> Picture:
    bands = {  # per class and model: rows of prompt, p5, mean, p95, count
        (group.code, group.model): _band(group.prompt_tokens, group.output_tokens) for group in groups
    }
    shown = [group for group in groups if len(bands[group.code, group.model])]
    classes = sorted({group.code for group in shown})

    def plot(panels: Sequence[Any], theme: Theme) -> None:
        for axes, code in zip(panels, classes, strict=True):
            highest = 10.0
            for group in shown:
                if group.code != code:
                    continue
                prompt, low, mean, high, _ = bands[code, group.model].T
                colour = theme.of_model[code][group.model]
                axes.fill_between(prompt, low, high, color=colour, alpha=0.16, lw=0)
                axes.plot(prompt, mean, color=colour, lw=1.8, label=f"{MODELS[group.model]}: mean, 5 to 95 %")
                highest = max(highest, float(high.max()))
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(short)
            axes.xaxis.set_minor_formatter("")
            low, high = axes.get_xlim()
            if high < 30 * low:  # too few powers of ten for tick labels
                steps = [digit * 10.0**power for power in range(8) for digit in (1, 2, 5)]
                axes.set_xticks([step for step in steps if low <= step <= high])
            axes.set_ylim(0, 1.03 * highest)
            axes.yaxis.set_major_formatter(short)
            axes.set_ylabel("response tokens")
            legend_above(axes, class_label(code))
        panels[-1].set_xlabel("prompt tokens")

    parts = []
    for group in shown:
        prompt, _, mean, _, _ = bands[group.code, group.model].T
        least = int(mean.argmin())
        spread = float(np.std(group.prompt_tokens)) * float(np.std(group.output_tokens))
        together = f"; correlation {np.corrcoef(group.prompt_tokens, group.output_tokens)[0, 1]:.2f}" if spread else ""
        parts.append(
            f"{group.label}: mean response {mean[0]:,.0f} at {prompt[0]:,.0f} prompt tokens, least {mean[least]:,.0f} "
            f"at {prompt[least]:,.0f}, {mean[-1]:,.0f} at {prompt[-1]:,.0f}{together}"
        )
    sentence = (
        f"Mean response by length of the prompt, with its 5 to 95 % band, in bins of at least {MIN_IN_BIN} requests. "
        + (f"{_joined(parts)}." if parts else "No bin of this trace holds as many.")
    )
    alt = "Mean and 5 to 95 percent band of the response length given the prompt length, by class and model"
    images = draw(plot, [2.3] * len(classes), True) if shown else blank("too few requests")
    return Picture("response-given-prompt", "Response given the prompt", sentence, alt, images)


def _band(prompt: NDArray[np.int32], output: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return prompt (geometric middle), p5, mean and p95 of the response, and count, of each bin; ``(bins, 5)``."""
    # Few requests: wide bins, for enough requests in some.
    edges = _edges(int(prompt.max()), BINS_PER_DECADE if len(prompt) >= 5000 else BINS_PER_DECADE // 3)
    lookup = np.searchsorted(edges, np.arange(int(prompt.max()) + 1)).astype(np.int16)
    place = lookup[prompt]  # (g,) bin of each prompt
    order = np.argsort(place, kind="stable")  # 16-bit: a radix sort
    ends = np.cumsum(np.bincount(place))
    rows = []
    for k, (start, end) in enumerate(zip(np.concatenate([[0], ends[:-1]]), ends, strict=True)):
        if end - start >= MIN_IN_BIN:
            values = output[order[start:end]]
            low, high = np.percentile(values, [5, 95])
            rows.append((np.sqrt(edges[k - 1] * edges[k]), low, values.mean(), high, end - start))
    return np.array(rows, dtype=np.float64).reshape(-1, 5)


def _conversations(trace: Trace) -> Picture:
    title = "Conversations"
    talking = np.flatnonzero(trace.session >= 0)
    alt = "Turns per session, think times, and prompt length by turn"
    if len(talking) == 0:
        return Picture("conversations", title, "The trace records no sessions.", alt, blank("no sessions recorded"))
    session, _ = link_turns(trace.session[talking])
    turns = np.bincount(session)  # (sessions,) requests of each
    think_s = think_times(trace)
    think_s = np.sort(think_s[~np.isnan(think_s)])
    turn = trace.turn[talking]
    prompt = trace.prompt_tokens[talking]
    growth, beyond = context_growth(trace)
    by_turn = []
    for k in range(MAX_TURNS_SHOWN):
        values = prompt[turn == k]
        if len(values) >= MIN_IN_BIN:
            by_turn.append((k + 1, *np.percentile(values, [25, 50, 75]), values.mean()))

    def plot(panels: Sequence[Any], theme: Theme) -> None:
        colour = theme.of_class(0)
        length = np.arange(1, turns.max() + 1)
        at_least = 100 * np.cumsum(np.bincount(turns)[::-1])[::-1][1:] / len(turns)
        panels[0].step(length, at_least, where="mid", color=colour)
        panels[0].set_xscale("log")
        panels[0].set_yscale("log")
        panels[0].set_xlabel("turns")
        panels[0].set_ylabel("sessions with at\nleast as many [%]")
        panels[0].set_title("turns per session", loc="left")
        for axis in (panels[0].xaxis, panels[0].yaxis):
            axis.set_major_formatter(short)
            axis.set_minor_formatter("")
        panels[0].set_xlim(0.9, max(12.0, 1.1 * turns.max()))
        if len(think_s):
            at = np.linspace(0, len(think_s) - 1, min(len(think_s), 1000)).astype(int)  # enough points for a line
            panels[1].plot(np.maximum(think_s[at], 1.0), 100 * (at + 1) / len(think_s), color=colour)
        panels[1].set_xscale("log")
        panels[1].set_xlim(1, 1e6)
        panels[1].set_xticks([1, 10, 60, 600, 3600, 21600, 86400, 604800],
                             ["1 s", "10 s", "1 min", "10 min", "1 h", "6 h", "1 d", "1 w"])  # fmt: skip
        panels[1].tick_params(axis="x", which="minor", bottom=False)
        panels[1].xaxis.set_minor_formatter("")
        panels[1].set_ylim(0, 101)
        panels[1].set_ylabel("follow-up turns\nafter at most [%]")
        panels[1].set_title("think time", loc="left")
        if by_turn:
            at, low, middle, high, mean = np.array(by_turn).T
            panels[2].fill_between(at, low, high, color=colour, alpha=0.2, lw=0, label="half of the prompts")
            panels[2].plot(at, middle, color=colour, lw=1.8, marker="o", ms=3.5, label="median")
            panels[2].plot(at, mean, color=colour, lw=1.2, ls="--", label="mean")
            panels[2].set_xticks(np.arange(1, at[-1] + 1, 1 if at[-1] < 12 else 2))
        panels[2].set_ylim(bottom=0)
        panels[2].yaxis.set_major_formatter(short)
        panels[2].set_xlabel("turn")
        panels[2].set_ylabel("prompt tokens")
        legend_above(panels[2], "context growth", columns=3)

    p50, p90 = np.percentile(turns, [50, 90])
    sentence = (
        f"{plural(len(turns), 'session')} of {turns.mean():.2f} turns in the mean (p50 {p50:.0f}, p90 {p90:.0f}, most "
        f"{turns.max():,}); {100 * (turns == 1).mean():.0f} % have one turn only."
    )
    if len(think_s):
        q = np.percentile(think_s, [10, 50, 90])
        recorded = not np.isnan(trace.elapsed_s[talking]).all()
        sentence += (
            f" Think times, from the end of the answer ({'recorded' if recorded else 'estimated'}) to the next turn: "
            f"p10/p50/p90 {q[0]:,.0f}/{q[1]:,.0f}/{q[2]:,.0f} s. A next prompt is {growth.mean():+,.0f} tokens longer "
            f"in the mean; {100 * (beyond >= 0).mean():.0f} % hold at least all that was said before."
        )
    return Picture("conversations", title, sentence, alt, draw(plot, [1.9, 1.9, 2.2]))


def _joined(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]
