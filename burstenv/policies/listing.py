"""The list of rules and modes as text, for ``burstenv policies`` and docs/policies.md."""

from __future__ import annotations

from burstenv.errors import unknown_name
from burstenv.policies.background import BACKGROUND_RULES
from burstenv.policies.batching import BATCHING_RULES, BatchingRule
from burstenv.policies.flow import FLOW_RULES
from burstenv.policies.health_rules import HEALTH_RULES
from burstenv.policies.lookahead.policy import RULES as LOOKAHEAD_RULES
from burstenv.policies.migration import MIGRATION_RULES
from burstenv.policies.placement import PLACEMENT_RULES
from burstenv.policies.registry import admission_rules, python_policies, routing_rules
from burstenv.policies.rule import Parameter, Range, Rule
from burstenv.policies.scaling import SCALING_RULES

Entry = Rule | BatchingRule

TITLES = {
    "admission": "Admission rules",
    "routing": "Routing rules",
    "health": "Health rules",
    "batching": "Batching modes",
    "migration": "Migration rules",
    "scaling": "Scaling rules",
    "placement": "Placement rules",
    "background": "Background rules",
    "flow": "Queue rules at the gateway",
    "lookahead": "Look-ahead",
    "policy": "Policies in Python",
}
FIRST_LINE = "A policy is written admission/routing/batching, such as queue-cap(limit=8)/lmetric/edf-512."


def catalogue() -> dict[str, tuple[Entry, ...]]:
    """Return all rules by component, and whole policies; the user's own after the shipped ones."""
    return {
        "admission": admission_rules(),
        "routing": routing_rules(),
        "health": HEALTH_RULES,
        "batching": BATCHING_RULES,
        "migration": MIGRATION_RULES,
        "scaling": SCALING_RULES,
        "placement": PLACEMENT_RULES,
        "background": BACKGROUND_RULES,
        "flow": FLOW_RULES,
        "lookahead": LOOKAHEAD_RULES,
        "policy": tuple(policy.rule for policy in python_policies().values()),
    }


def explained(name: str) -> list[tuple[str, Entry]]:
    """Return the entries of a name, one for each component that has it.

    Raises:
        BurstenvError: If the name is unknown.
    """
    plain = name.partition("(")[0].strip()
    found = [(kind, entry) for kind, entries in catalogue().items() for entry in entries if entry.name == plain]
    if not found:
        raise unknown_name("rule or mode", plain, [entry.name for entries in catalogue().values() for entry in entries])
    return found


def _groups(entries: tuple[Entry, ...]) -> list[tuple[str, list[Entry]]]:
    plain = [entry for entry in entries if not (entry.oracle or entry.floor)]
    oracles = [entry for entry in entries if entry.oracle]
    floors = [entry for entry in entries if entry.floor and not entry.oracle]
    return [("", plain), ("with hidden facts or the future, not ranked", oracles), ("bad on purpose", floors)]


def _number(value: float) -> str:
    return "unset" if value != value else f"{value:g}"


def _default(entry: Entry, parameter: Parameter) -> str:
    value = entry.parameters[parameter.name]
    return parameter.written(value) if parameter.choices else _number(value)


def _limits(parameter: Parameter) -> str:
    if parameter.choices:
        return ", ".join(parameter.choices)
    least, most = parameter.limits
    return f"{least:g} to {most:g}"


def _tuned(parameter: Parameter) -> str:
    return ", ".join(parameter.tuned) if parameter.choices else _range(parameter.range)


def _range(where: Range) -> str:
    scale = {"linear": "", "log": ", log scale", "integer": ", whole numbers"}[where.scale]
    return f"{where.low:g} to {where.high:g}{scale}"


def overview() -> list[str]:
    """Return the list of all rules and modes, two lines each."""
    lines = [FIRST_LINE, "`burstenv policies NAME` prints a rule's source and the meaning of its parameters."]
    for kind, entries in catalogue().items():
        for title, group in _groups(entries):
            if not group:
                continue
            lines += ["", TITLES[kind] + (f" {title}" if title else "")]
            for entry in group:
                shown = ""
                if kind != "batching" and entry.parameters:
                    shown = "(" + ", ".join(f"{p.name}={_default(entry, p)}" for p in entry.declared) + ")"
                lines += [f"  {entry.name}{shown}", f"      {entry.summary}"]
    return lines


def page(kind: str, entry: Entry) -> list[str]:
    """Return the full text of one rule."""
    what = TITLES[kind].lower().removesuffix("s").replace("policies in python", "policy in Python")
    knows = {"scaling": "the future", "health": "hidden faults and speeds"}.get(kind, "true output lengths")
    marks = [text for text, on in ((knows, entry.oracle), ("bad on purpose", entry.floor)) if on]
    lines = [f"{entry.name}: {what}" + (f" ({', '.join(marks)})" if marks else ""), f"  {entry.summary}"]
    if entry.source:
        lines.append(f"  Source: {entry.source}")
    if entry.differs:
        lines.append(f"  Here: {entry.differs}")
    for parameter in entry.declared:
        meaning = f"  {parameter.meaning}" if parameter.meaning else ""
        limits = f"{_limits(parameter)}; tuned from {_tuned(parameter)}"
        lines.append(f"  {parameter.name} = {_default(entry, parameter)}{meaning} [{limits}]")
    if isinstance(entry, BatchingRule) and entry.mode.needs_general_engine:
        lines.append("  Runs in the general engine, iteration by iteration: about twenty times slower.")
    return lines


_HEAD = """\
# Policies

Made from the registry by `python -m burstenv.policies.listing > docs/policies.md`; do not edit.

A policy is written `admission/routing/batching`, such as `queue-cap(limit=8)/lmetric/edf-512`; parameters left out have
their defaults. The routing rule acts first, then the admission rule for the chosen replica, then the batching mode. All
have an agent's information, published and causal: the gateway's own log where the scenario has one, the metrics of each
replica (the state at the end of its last iteration and what was sent to it since, or the last reading), its prefix
cache at that instant (from KV events, which are never stale), predicted output lengths. `source` says from which of
these a rule knows the replicas' load ([what a gateway knows](gateway.md)).
Under asynchronous scheduling the iteration that follows is part of that state, as in vLLM. A rule chooses among the
replicas that hold the prompt and the whole predicted answer; where none does, among those that accept the prompt.
`burstenv policies NAME` prints a rule. A *health rule* may stand beside the routing rule, with a plus:
`always/jsq+outlier-ejection(factor=3)/vllm`. It leaves replicas out that fare badly by the gateway's log, and the
routing rule chooses among the others; where none of them would hold the request, none is left out. Further parts
say by which rule requests [migrate](transfers.md), the [number of replicas](scaling.md) changes, [prefilled
requests](disaggregation.md) are placed and replicas [fine-tune in the slack](background.md):
`always/freeness/vllm/llumnix(low=5)`, `always/jsq/vllm/kpa(target=20)`, `always/jsq/vllm/dynamo(queue=8)`,
`always/jsq/vllm/dcb(bound=0.5)`. Policies that simulate every choice are on a separate page:
[look-ahead](lookahead.md).

## Your own heuristic

One decorated function in one file:

```python
from burstenv import admission_rule, policy, routing_rule


@routing_rule(name="emptiest")
def emptiest(view):
    "The replica with the fewest waiting requests."
    return view.least(lambda replica: replica.waiting)


@admission_rule(name="short-only", parameters={"limit": (2000, 100, 8000, "log")})
def short_only(view, replica, limit):
    "Admit prompts of at most `limit` tokens."
    return view.request.prompt_tokens <= limit


@policy(name="mine", parameters={"cap": (8, 1, 64)}, modes=("edf-512",))
def mine(view, cap):
    "The emptiest replica, while it has fewer than `cap` waiting."
    replica = view.least(lambda replica: replica.waiting)
    return ("admit", replica, "edf-512") if replica.waiting < cap else "reject"
```

```bash
burstenv evaluate --policy mine.py:mine --policy mine.py:short-only/emptiest/edf-512
burstenv simulate trace.csv --policy "mine(cap=3)" --policy-file mine.py
burstenv policies short-only --policy-file mine.py
```

`env.unwrapped.policy_action("mine.py:mine")` calls it inside an environment. Equal decisions give the same records as
in compiled code; a decision takes tens of microseconds instead of less than one. `view` has the request
(`view.request.prompt_tokens`, `predicted_tokens`, `streamed_tokens` by a replica that is lost, `class_name`, `session`,
`ttft_left_s`, `tpot_slo_s`, `may_defer`),
the replicas (`view.replicas[i].waiting`, `running`, `kv_used`, `kv_demand`, `prefill_backlog_tokens`,
`expected_ttft_s`, `prefix_hit_tokens`, `mode`, ...; by the gateway's own log `view.replicas[i].log.in_flight`,
`unanswered`, `recent_ttft_s`, `kv_demand`, ...), the time, recent rates, `view.memory` (a dict for the episode),
`view.random()` and `view.least(score)`, which break ties like compiled rules. Parameters are `{name: default}` or
`{name: (default, low, high, scale)}`; `burstenv tune` searches that range.
"""


def document() -> str:
    """Return docs/policies.md: the shipped rules, each with its source, parameters and differences from the source."""
    parts = [_HEAD]
    for kind, entries in catalogue().items():
        shipped = tuple(e for e in entries if not (isinstance(e, Rule) and e.function is not None))
        for title, group in _groups(shipped):
            if group:
                parts.append(f"## {TITLES[kind]}{', ' + title if title else ''}\n")
                parts += [_section(entry) for entry in group]
    return "\n".join(parts)


def _section(entry: Entry) -> str:
    lines = [f"### `{entry.name}`", "", entry.summary, "", f"Source: {entry.source}"]
    if entry.differs:
        lines.append(f"Here: {entry.differs}")
    if isinstance(entry, BatchingRule) and entry.mode.needs_general_engine:
        lines.append("Runs in the general engine, iteration by iteration.")
    if entry.declared:
        lines += ["", "| parameter | default | accepted | tuned from | meaning |", "|---|---|---|---|---|"]
        for p in entry.declared:
            cells = p.name, _default(entry, p), _limits(p), _tuned(p), p.meaning
            lines.append("| `{}` | {} | {} | {} | {} |".format(*cells))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")
