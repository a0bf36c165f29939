"""Declarations of the rules by which replicas fine-tune in the slack of inference: names, parameters, sources.

A rule is a few numbers that the engine acts by, a :class:`~burstenv.engine.background_rule.BackgroundRule`; their code
is in ``engine/background.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from burstenv.engine.background_rule import (
    DECODES_ALONE,
    LOOKS_AHEAD,
    ONE_BY_ONE,
    PAUSED,
    WHOLE_STEPS,
    BackgroundRule,
)
from burstenv.policies.rule import Parameter, Range, Rule

_FINEINFER = "FineInfer (He, Lu, Alonso, EuroMLSys'24: Deferred Continuous Batching)"
_BOUND = Parameter(
    "bound", 1.0, Range(0.0, 4.0), "time that the oldest waiting request waits before inference goes on, in seconds",
    0.0, math.inf,
)  # fmt: skip
_TOKENS = Parameter(
    "tokens", 512.0, Range(0.0, 2048.0, "integer"), "prefill tokens of the job in an iteration, at most"
)
_TARGET = Parameter(
    "target", 0.05, Range(0.01, 0.5, "log"), "longest iteration that takes any of them, in seconds", 1e-4, math.inf
)
_PREFILLS = Parameter(
    "prefills", 1.0, Range(0.0, 1.0, "integer"), "1: iterations that compute a part of a prompt take some, too; 0: none"
)

PAUSED_RULE, IDLE_ONLY, DCB, DCB_FUSED, DCB_LOOKAHEAD, LLMSTATION, TOKEN_BUDGET, SLACK, ALL_IN = range(9)

BACKGROUND_RULES = (
    Rule(PAUSED_RULE, "paused", "No fine-tuning.", "Every cluster without a background job."),
    Rule(
        IDLE_ONLY,
        "idle-only",
        "Steps run back to back while a replica is idle; an arriving request waits for the end of one.",
        f"{_FINEINFER}, the baseline of benchmarks/fineinfer (deferral bound 0).",
    ),
    Rule(
        DCB,
        "dcb",
        "Requests are held until the oldest has waited for `bound`; then inference runs until the batch is empty, and "
        "each iteration admits one of them at most.",
        f"{_FINEINFER}, benchmarks/fineinfer/fi-ht.py (1.0 s).",
        "A prompt shares its iterations with the decodes (chunked prefill); there it has a step of its own.",
        (_BOUND,),
    ),
    Rule(
        DCB_FUSED,
        "dcb-fused",
        "Requests start at once; each iteration shares the forward pass of a step, and the backward pass follows it "
        "alone, until backward passes have delayed an unfinished request by `budget`.",
        f"{_FINEINFER}, benchmarks/fineinfer/fi-offload-ht.py (60 s, for weights in host memory).",
        "Weights stay on the GPU; tokens come out behind the backward pass. On an idle replica steps run apart.",
        (
            Parameter(
                "budget",
                60.0,
                Range(0.1, 120.0, "log"),
                "time of backward passes for each request, in seconds",
                0.0,
                math.inf,
            ),
        ),
    ),
    Rule(
        DCB_LOOKAHEAD,
        "dcb-lookahead",
        "As dcb, and a request is due if it would be after the next step: waited + step - its iteration >= `bound`; "
        "iterations of inference share `tokens` of the job.",
        f"{_FINEINFER}, section 4: d_r + t_f - t_i >= d_rb, which no code of theirs has.",
        "t_i is the prefill of what waits, t_f a step, or a layer where steps can be interrupted there.",
        (_BOUND, Parameter("tokens", 256.0, _TOKENS.range, _TOKENS.meaning)),
    ),
    Rule(
        LLMSTATION,
        "llmstation",
        "Iterations that only decode share as much of the job as keeps them within `target`; the job gives way to a "
        "waiting prompt.",
        "LLMStation (He et al., USENIX ATC'25): as many pieces of a step as the objective for time per token leaves.",
        "The latency model in place of measured pieces; prompts wait for a layer only in a scenario with "
        "`interruptible: layer`, otherwise for a step.",
        (_TOKENS, _TARGET),
    ),
    Rule(
        TOKEN_BUDGET,
        "token-budget",
        "Every iteration is filled with tokens of the job up to `target`; on an idle replica steps run back to back.",
        "FlexLLM (arXiv 2402.18789): token-level co-serving up to the latency objective.",
        "Forward and backward tokens cost the same; multiples of 16.",
        (_TOKENS, _TARGET),
    ),
    Rule(
        SLACK,
        "slack",
        "Requests are held for `bound`, if at all, and iterations share `tokens` of the job within `target`.",
        "burstenv's own: the numbers that the others are made of.",
        declared=(
            Parameter("bound", 0.0, Range(0.0, 2.0), _BOUND.meaning, PAUSED, math.inf),
            _TOKENS,
            _TARGET,
            _PREFILLS,
        ),
    ),
    Rule(
        ALL_IN,
        "all-in",
        "Requests wait until the job is done.",
        "A deferral bound of infinity.",
        floor=True,
    ),
)

# An agent's choices for the job of a replica: a bound and a budget, bound by bound, a budget after the other; then the
# rule that its environment names.
BOUNDS_S = (PAUSED, 0.0, 0.1, 0.25, 0.5, 1.0, 2.0, math.inf)  # deferral bounds; PAUSED: no step runs apart
BUDGETS_TOKENS = (0, 64, 128, 256, 512)  # prefill tokens of the job in an iteration of inference
BY_RULE = len(BOUNDS_S) * len(BUDGETS_TOKENS)
LEVELS = BY_RULE + 1

_MADE: dict[int, Callable[..., BackgroundRule]] = {
    PAUSED_RULE: lambda: BackgroundRule(PAUSED),
    IDLE_ONLY: BackgroundRule,
    DCB: lambda bound: BackgroundRule(bound, flags=ONE_BY_ONE),
    DCB_FUSED: lambda budget: BackgroundRule(allowance_s=budget, flags=WHOLE_STEPS),
    DCB_LOOKAHEAD: lambda bound, tokens: BackgroundRule(bound, int(tokens), flags=ONE_BY_ONE | LOOKS_AHEAD),
    LLMSTATION: lambda tokens, target: BackgroundRule(0.0, int(tokens), target, flags=DECODES_ALONE),
    TOKEN_BUDGET: lambda tokens, target: BackgroundRule(0.0, int(tokens), target),
    SLACK: lambda bound, tokens, target, prefills: BackgroundRule(
        PAUSED if bound < 0.0 else bound, int(tokens), target, flags=0 if prefills else DECODES_ALONE
    ),
    ALL_IN: lambda: BackgroundRule(math.inf),
}


def background_rule(code: int, parameters: Mapping[str, float]) -> BackgroundRule:
    """Return what the engine acts by under the rule of a code, with its parameters by name."""
    return _MADE[code](**parameters)
