"""Batching modes by name: the rules by which a replica forms batches. A scenario lists the modes open to policies.

A mode in a composite may carry parameters, ``edf-512(budget=384,seqs=64)``; it is then a mode of that name.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from burstenv.cluster.cluster_config import ModeConfig
from burstenv.config import parse
from burstenv.errors import unknown_name
from burstenv.policies.rule import Parameter, Range

BUDGET = Parameter(
    "budget", math.nan, Range(64.0, 8192.0, "log"), "tokens of an iteration; unset: the hardware's", 1.0, 1e6, True
)
SEQS = Parameter(
    "seqs", math.nan, Range(4.0, 512.0, "log"), "limit of running sequences; unset: the hardware's", 1.0, 8_192.0, True
)
HEADROOM = Parameter("headroom", 0.0, Range(0.0, 0.3), "share of the KV blocks kept free at admission", most=1.0)
COMMON = (BUDGET, SEQS, HEADROOM)
_FIELDS = {
    "budget": "max_num_batched_tokens", "seqs": "max_num_seqs", "headroom": "headroom", "reserve": "reserve_tokens",
    "bound_s": "deferral_s", "quantum_s": "quantum_s", "starve_s": "starve_s",
}  # fmt: skip
_TEXT = re.compile(r"^(?P<name>[a-z0-9-]+)\((?P<parameters>[^()]*)\)$")


@dataclass(frozen=True)
class BatchingRule:
    """Declaration of a batching mode.

    Attributes:
        mode: The engine's settings.
        summary: One line about it.
        source: Paper, system or document that defines it.
        differs: Differences from the source; empty if there are none.
        declared: The parameters accepted after its name; NaN if the mode or the hardware sets the value.
        floor: Whether it is bad on purpose.
    """

    mode: ModeConfig
    summary: str
    source: str
    differs: str = ""
    declared: tuple[Parameter, ...] = COMMON
    floor: bool = False

    @property
    def name(self) -> str:
        """The name in a composite."""
        return self.mode.name

    @property
    def oracle(self) -> bool:
        """Whether it uses true output lengths."""
        return self.mode.oracle

    @property
    def parameters(self) -> dict[str, float]:
        """Names with defaults; NaN if the hardware sets the value."""
        values = {p.name: getattr(self.mode, _FIELDS[p.name]) for p in self.declared}
        return {name: math.nan if value is None else float(value) for name, value in values.items()}

    @property
    def ranges(self) -> dict[str, Range]:
        """The tuner's range of each parameter."""
        return {parameter.name: parameter.range for parameter in self.declared}

    def described(self) -> dict[str, Any]:
        """Return the mode in plain values, as ``burstenv policies --json`` prints it."""
        defaults = {name: None if value != value else value for name, value in self.parameters.items()}
        return {
            "name": self.name,
            "summary": self.summary,
            "source": self.source,
            "differs": self.differs,
            "parameters": {p.name: {"default": defaults[p.name], **p.described()} for p in self.declared},
            "oracle": self.oracle,
            "floor": self.floor,
            "python": False,
            "general_engine": self.mode.needs_general_engine,
            "mode": self.mode.model_dump(),
        }

    def with_parameters(self, text: str) -> ModeConfig:
        """Return the mode with parameters such as ``budget=384,seqs=64``, and the name that includes them.

        Raises:
            BurstenvError: On an unknown parameter, or a value that is no number or out of bounds.
        """
        given: dict[str, float] = {}
        for pair in filter(None, (p.strip() for p in text.split(","))):
            name, _, value = (part.strip() for part in pair.partition("="))
            if name not in self.parameters:
                raise unknown_name(f"parameter of {self.name}", name, self.parameters)
            given[name] = next(p for p in self.declared if p.name == name).read(self.name, value)
        changed = {name: given[name] for name in self.parameters if name in given}
        changed = {name: value for name, value in changed.items() if value != self.parameters[name]}
        if not changed:
            return self.mode
        whole = [p.name for p in self.declared if p.whole]
        shown = ",".join(f"{name}={repr(value).removesuffix('.0')}" for name, value in changed.items())
        values = {_FIELDS[name]: int(value) if name in whole else value for name, value in changed.items()}
        if "budget" in changed and "seqs" not in changed and self.mode.max_num_seqs is not None:
            values["max_num_seqs"] = min(self.mode.max_num_seqs, int(changed["budget"]))  # more cannot run
        name = f"{self.name}({shown})"
        return parse(ModeConfig, {**self.mode.model_dump(), **values, "name": name}, name)


def _chunked(name: str, budget: int, **more: Any) -> ModeConfig:
    return ModeConfig(name=name, max_num_batched_tokens=budget, max_num_seqs=256, **more)


_VLLM = "The scheduler of vLLM V1 (vllm/v1/core/sched/scheduler.py); the engine reproduces its recorded schedules."
_SARATHI = "Sarathi-Serve (OSDI'24): chunked prefill under a budget that keeps decodes moving."
_SARATHI_DIFFERS = (
    "V1's order within an iteration, equal to Sarathi's; no watermark (0.01 there) and a cap of 256 sequences (128 "
    "in Vidur's port). The paper's budgets are 512 (strict) and 2048 (relaxed)."
)
_SPF = "The `sjf` scheduler of BLIS: shortest prompt first; long prompts may starve."
_EDF = "Earliest deadline first (real-time scheduling); the deadline is the latest start that meets the TTFT objective."
_EDF_DIFFERS = "Requests that can no longer start in time go last, preempted ones that already stream go first."
_DROP_DIFFERS = (
    "As edf; an iteration's schedule rejects a request that can no longer start in time, and its client does not retry."
)

BATCHING_RULES = (
    BatchingRule(ModeConfig(name="vllm"), "First come, first served, chunked prefill, the hardware's limits.", _VLLM),
    BatchingRule(_chunked("sarathi-256", 256), "vllm with a budget of 256 tokens.", _SARATHI, _SARATHI_DIFFERS),
    BatchingRule(_chunked("sarathi-512", 512), "vllm with a budget of 512 tokens.", _SARATHI, _SARATHI_DIFFERS),
    BatchingRule(_chunked("sarathi-1024", 1024), "vllm with a budget of 1,024 tokens.", _SARATHI, _SARATHI_DIFFERS),
    BatchingRule(
        ModeConfig(name="prefill-first", batch="prefill-first", headroom=0.01),
        "Iterations of whole prompts while any can be admitted, decodes otherwise.",
        "vLLM V0 (2023), as in Vidur's vllm scheduler; watermark 0.01.",
        "Recompute preemption only; the budget is raised to the model length, V0's max(2048, max_model_len).",
    ),
    BatchingRule(
        ModeConfig(name="orca", batch="whole-prompts", memory="reserved", max_num_seqs=256),
        "Whole prompts and decodes together, first come, first served, KV cache reserved for `reserve` output tokens.",
        "Orca (OSDI'22): iteration-level scheduling, max_tokens slots reserved at admission.",
        "BurstGPT has no max_tokens, so all reserve alike (Orca(Max) of the vLLM paper reserves 2,048); paged "
        "attention stays: the cache is counted in blocks.",
        (
            SEQS,
            Parameter("reserve", 1024.0, Range(64.0, 4096.0, "log"), "reserved output [tokens]", 1.0, 1e6, True),
        ),
    ),
    BatchingRule(
        ModeConfig(name="oracle-orca", batch="whole-prompts", memory="oracle-reserved", max_num_seqs=256),
        "orca, reserving for the true output.",
        "Orca(Oracle) of the vLLM paper (SOSP'23).",
        "",
        (SEQS,),
    ),
    BatchingRule(ModeConfig(name="spf", order="shortest-prompt"), "Shortest prompt first.", _SPF),
    BatchingRule(_chunked("spf-512", 512, order="shortest-prompt"), "spf with a budget of 512 tokens.", _SPF),
    BatchingRule(
        _chunked("sof-512", 512, order="shortest-predicted"),
        "Shortest predicted output first, budget 512 tokens.",
        "SSJF (arXiv 2404.08509).",
        "The scenario's predictor instead of a BERT proxy.",
    ),
    BatchingRule(
        _chunked("oracle-sof-512", 512, order="oracle-shortest"),
        "Fewest true output tokens left first, budget 512 tokens.",
        "Shortest remaining processing time among waiting requests.",
        "Running requests are not preempted for shorter ones.",
    ),
    BatchingRule(ModeConfig(name="edf", order="earliest-deadline"), "Earliest deadline first.", _EDF, _EDF_DIFFERS),
    BatchingRule(
        _chunked("edf-256", 256, order="earliest-deadline"), "edf with a budget of 256 tokens.", _EDF, _EDF_DIFFERS
    ),
    BatchingRule(
        _chunked("edf-512", 512, order="earliest-deadline"), "edf with a budget of 512 tokens.", _EDF, _EDF_DIFFERS
    ),
    BatchingRule(
        ModeConfig(name="edf-drop", order="earliest-deadline", hopeless="drop"),
        "edf, rejecting requests that can no longer start in time.",
        "Deadline check at dequeue, after the arrival check of Mooncake and BLIS.",
        _DROP_DIFFERS,
    ),
    BatchingRule(
        _chunked("edf-drop-512", 512, order="earliest-deadline", hopeless="drop"),
        "edf-drop with a budget of 512 tokens.",
        "Deadline check at dequeue, after the arrival check of Mooncake and BLIS.",
        _DROP_DIFFERS,
    ),
    BatchingRule(
        _chunked("mc-sf-512", 512, order="shortest-predicted", memory="projected"),
        "Shortest predicted output first, admitted if the cache holds all running requests to their ends; budget 512.",
        "MC-SF (Jaillet et al., arXiv 2502.07115), with the test of LightLLM and of VTC's artifact.",
        "Predictions instead of true lengths: overflows are possible and preempt. An idle replica always admits.",
    ),
    BatchingRule(
        _chunked("oracle-mc-sf-512", 512, order="oracle-shortest", memory="oracle-projected"),
        "mc-sf-512 with true output lengths.",
        "MC-SF as analysed (arXiv 2502.07115).",
        "An idle replica admits in any case.",
    ),
    BatchingRule(
        ModeConfig(name="deferral-bound", deferral_s=0.5),
        "vllm, admitting no request until one has waited `bound_s`, then all.",
        "Inspired by Deferred Continuous Batching (FineInfer, EuroMLSys'24, deferral bound 1.0 s).",
        "FineInfer fills the time with fine-tuning steps; here it collects prefills. An idle replica admits at once.",
        (*COMMON, Parameter("bound_s", 0.5, Range(0.02, 4.0, "log"), "longest deferral [s]", least=0.0)),
    ),
    BatchingRule(
        ModeConfig(name="vtc", order="fair"),
        "The class with the least service goes first: prompt tokens + 2 x output tokens.",
        "Virtual token counter (VTC, OSDI'24): w_p 1, w_q 2, counters lifted after idleness.",
        "The two classes are the clients.",
    ),
    BatchingRule(
        ModeConfig(name="vtc-session", order="fair", fair_by="session"),
        "vtc with sessions as clients.",
        "Virtual token counter (VTC, OSDI'24).",
        "Sessions share 15 counters by number; requests without a session are one client.",
    ),
    BatchingRule(
        ModeConfig(name="mlfq", order="mlfq"),
        "The highest level whose quantum holds the prefill goes first; a wait of `starve_s` lifts to the top.",
        "Skip-join multi-level feedback queue of FastServe (arXiv 2305.05920).",
        "Levels order waiting requests; running requests are not demoted in favour of others, as FastServe does by "
        "swapping out their cache; a request leaves a level only by preemption and by starving.",
        (
            *COMMON,
            Parameter("quantum_s", 0.05, Range(0.01, 0.5, "log"), "quantum of the highest level [s]"),
            Parameter("starve_s", 5.0, Range(0.5, 60.0, "log"), "wait after which a request is lifted [s]"),
        ),
    ),
    BatchingRule(
        ModeConfig(name="priority", order="priority"),
        "vllm with the priority of each request: the smallest goes first, and the largest is preempted first.",
        "vLLM V1 with `--scheduling-policy priority`; the engine reproduces its recorded schedules.",
        "Priorities come from the trace (column `priority`) or the class (`slo`); equal ones are ordered by arrival.",
    ),
    BatchingRule(
        ModeConfig(name="longest-prompt", order="longest-prompt"),
        "Longest prompt first.",
        "Bad on purpose: spf reversed.",
        floor=True,
    ),
)
BATCHING_MODES = {rule.name: rule.mode for rule in BATCHING_RULES}


def batching_rule(name: str) -> BatchingRule | None:
    """Return the declaration of a shipped mode, with or without parameters; None for a scenario's own mode."""
    plain = name.partition("(")[0].strip()
    return next((rule for rule in BATCHING_RULES if rule.name == plain), None)


def canonical_mode(text: str) -> str:
    """Return the canonical name of a mode: parameters equal to their defaults are left out."""
    match = _TEXT.match(text.strip())
    return text.strip() if match is None else named_mode(text).name


def named_mode(mode: str | ModeConfig) -> ModeConfig:
    """Return a batching mode by name, with parameters or without, or the one given.

    Raises:
        BurstenvError: On an unknown mode or parameter.
    """
    if isinstance(mode, ModeConfig):
        return mode
    match = _TEXT.match(mode.strip())
    name = mode if match is None else match["name"]
    rule = batching_rule(name)
    if rule is None or (match is None and "(" in mode):
        raise unknown_name("batching mode", name, BATCHING_MODES)
    return rule.mode if match is None else rule.with_parameters(match["parameters"])
