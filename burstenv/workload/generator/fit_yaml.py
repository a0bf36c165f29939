"""A fitted generator as a workload file: readable YAML with its source."""

from __future__ import annotations

from typing import Any

import yaml

from burstenv.workload.generator.fit import Fit

_WIDTH = 116


class _Dumper(yaml.SafeDumper):
    """Writes lists of numbers and small mappings on one line, as the shipped files do."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal tables out in full: every stream can then be changed by itself."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists under their key."""
        return super().increase_indent(flow, False)


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    flow = all(isinstance(value, int | float) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=flow)


def _represent_mapping(dumper: yaml.SafeDumper, values: dict[str, Any]) -> yaml.Node:
    flow = len(values) <= 4 and all(isinstance(value, int | float) for value in values.values())
    return dumper.represent_mapping("tag:yaml.org,2002:map", values, flow_style=flow)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(dict, _represent_mapping)


def workload_yaml(found: Fit, source: str, *, days: int | None = None, seed: int = 0) -> str:
    """Return a fit as the text of a workload of kind ``generated``.

    Args:
        found: The fit.
        source: Source of the fit, for the comment at the top.
        days: Days of the workload; by default those of the trace.
        seed: Seed of the workload.
    """
    streams = [stream.model_dump(mode="json", exclude_none=True) for stream in found.config.streams]
    generator = found.config.model_dump(mode="json", exclude={"streams", "conversation", "api"})
    body = {
        "kind": "generated",
        "days": days or found.days,
        "seed": seed,
        "generator": {**generator, "streams": streams},
    }
    rows = ", ".join(f"{s['stream']} {s['requests']:,} requests" for s in found.streams)
    head = [
        f"# Fitted by `burstenv trace fit` to {source}:",
        *_wrapped(rows),
        *(f"# Left out: {name}, {count} requests." for name, count in found.left_out.items()),
        "# Every parameter below was measured on these rows (docs/generator.md says how). Tables give quantile levels",
        "# and the values there; token tables lie half a token above whole numbers, to which draws round.",
    ]
    text = yaml.dump(body, Dumper=_Dumper, sort_keys=False, width=_WIDTH - 6, allow_unicode=True)
    return "\n".join(head) + "\n" + text


def _wrapped(text: str) -> list[str]:
    import textwrap

    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH - 2)]
