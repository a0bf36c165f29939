"""A page per registered id, made from the docstring of its class.

``python -m burstenv.envs.pages [--check] [--picture] [folder]`` writes the pages, or lists the outdated ones; with
``--picture`` it also draws their picture (the extra ``burstenv[render]``).

A class that changes a part of another documents only that part: missing sections come from its base class. The
defaults in the table of arguments are those of the id.
"""

from __future__ import annotations

import importlib
import inspect
import io
import re
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym

from burstenv.envs.registration import ENV_ID, NAMESPACE
from burstenv.errors import BurstenvError
from burstenv.files import write_atomic

FOLDER = Path("docs/environments")
PICTURE = "cluster.png"
PICTURED = "size-aware-kv/expected-ttft/edf-512"
SECTIONS = (
    "Description",
    "Action Space",
    "Observation Space",
    "Rewards",
    "Starting State",
    "Episode End",
    "Arguments",
    "Vectorized environment",
    "Version History",
)


def documented_ids() -> list[str]:
    """Return every registered id of the namespace, the joint task first."""
    ids = [env_id for env_id in gym.registry if env_id.startswith(NAMESPACE)]
    return sorted(ids, key=lambda env_id: (env_id.count("-"), env_id))


def sections_of(kind: type) -> tuple[str, dict[str, str]]:
    """Return the first paragraph of a class's docstring, and its sections with inherited ones, by title.

    Raises:
        BurstenvError: If a section is missing everywhere.
    """
    lead = ""
    sections: dict[str, str] = {}
    for base in kind.__mro__:
        text = base.__dict__.get("__doc__")
        if base is gym.Env or not text:
            continue
        first, *parts = re.split(r"^## ", inspect.cleandoc(text), flags=re.MULTILINE)
        lead = lead or first.strip()
        for part in parts:
            title, _, body = part.partition("\n")
            body = re.split(r"^Example:$", body, flags=re.MULTILINE)[0]
            sections.setdefault(title.strip(), body.strip())
    missing = [title for title in SECTIONS if title not in sections]
    if missing:
        raise BurstenvError(f"{kind.__module__}.{kind.__name__}: the docstring has no section {missing[0]!r}")
    return lead, sections


def page(env_id: str) -> str:
    """Return the page of an id, as Markdown."""
    spec = gym.spec(env_id)
    module, name = str(spec.entry_point).split(":")
    lead, sections = sections_of(getattr(importlib.import_module(module), name))
    sections["Arguments"] = _with_defaults(sections["Arguments"], spec.kwargs)
    sections["Vectorized environment"] = sections["Vectorized environment"].replace(f'"{ENV_ID}"', f'"{env_id}"')
    env = gym.make(env_id)
    actions, observations = env.action_space, env.observation_space
    env.close()
    facts = {
        "Action space": f"`{actions}`",
        "Observation space": f"`{_short(observations)}`",
        "Make": f'`gym.make("{env_id}")`, or `gym.make("burstenv:{env_id}")` without an import',
        "Batch": f'`gym.make_vec("{env_id}", num_envs=256)`' if spec.vector_entry_point else "through `SyncVectorEnv`",
    }
    lines = [
        f"<!-- Made by python -m burstenv.envs.pages from the docstring of {name} in "
        f"{module.replace('.', '/')}.py; edit that. -->",
        f"# {env_id}",
        "",
        _markdown(lead),
        "",
        f"![a cluster: the gateway, replicas with their KV caches, and the outcomes so far]({PICTURE})",
        "",
        f"| | on the scenario `{spec.kwargs.get('scenario', 'default')}` |",
        "|---|---|",
        *(f"| {label} | {value} |" for label, value in facts.items()),
    ]
    if spec.kwargs:
        told = ", ".join(f"`{key}={value!r}`" for key, value in spec.kwargs.items())
        lines += [f"| Arguments of the id | {told} |"]
    for title in [*SECTIONS[:-1], *(t for t in sections if t not in SECTIONS), SECTIONS[-1]]:
        lines += ["", f"## {title}", "", _markdown(sections[title])]
    return "\n".join(lines) + "\n"


def index() -> str:
    """Return the page that lists the others."""
    lines = [
        "<!-- Made by python -m burstenv.envs.pages. -->",
        "# Environments",
        "",
        "One cluster, one dynamics; the ids differ in the agent's decisions. Wrappers are in",
        "`burstenv.envs.wrappers`, training loops for several libraries in [`examples/`](../../examples).",
        "",
        "| id | the agent's decisions |",
        "|---|---|",
    ]
    for env_id in documented_ids():
        module, name = str(gym.spec(env_id).entry_point).split(":")
        lead, _ = sections_of(getattr(importlib.import_module(module), name))
        lines.append(f"| [`{env_id}`]({env_id}.md) | {_markdown(lead).replace(chr(10), ' ')} |")
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Return every page by file name."""
    return {"README.md": index(), **{f"{env_id}.md": page(env_id) for env_id in documented_ids()}}


def _with_defaults(table: str, defaults: dict[str, object]) -> str:
    """Put an id's own defaults into the table of arguments."""
    lines = []
    decided = defaults.get("decide", ())
    assert isinstance(decided, list | tuple)
    for line in table.splitlines():
        cells = line.split("|")
        name = cells[1].strip() if len(cells) > 4 else ""
        if name in defaults and cells[3].strip() not in ("Default", ""):
            cells[3] = f" ``{defaults[name]!r}`` ".replace("'", '"').ljust(len(cells[3]))
        elif name in ("admission", "routing", "batching") and name in decided:
            cells[3] = " (the agent decides)".ljust(len(cells[3]))
        lines.append("|".join(cells))
    return "\n".join(lines)


def _short(space: gym.Space) -> str:
    if isinstance(space, gym.spaces.Box):
        return f"Box({space.low.min():g}, {space.high.max():g}, {space.shape}, {space.dtype})"
    return str(space)


def _markdown(text: str) -> str:
    """Convert reStructuredText markup to Markdown."""
    text = re.sub(r":(?:class|mod|func|meth):`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def draw_cluster(path: Path) -> None:
    """Draw the default scenario in the middle of an episode, as PNG."""
    from PIL import Image  # the extra burstenv[render]

    env = gym.make("BurstGPT-v0", render_mode="rgb_array", load=2.5)
    env.reset(seed=0)
    frame: Any = env.render()
    for _ in range(1_500):
        env.step(env.unwrapped.policy_action(PICTURED))  # type: ignore[attr-defined]
        frame = env.render()
    picture = io.BytesIO()
    Image.fromarray(frame).save(picture, "PNG", optimize=True)
    write_atomic(path, picture.getvalue())


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` list the stale ones."""
    check = "--check" in arguments
    rest = [a for a in arguments if not a.startswith("--")]
    folder = Path(rest[0]) if rest else FOLDER
    if "--picture" in arguments:
        draw_cluster(folder / PICTURE)
    stale = []
    for name, text in pages().items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                write_atomic(path, text)
    if check and stale:
        print(f"{folder}: not up to date: {', '.join(stale)}; run python -m burstenv.envs.pages", file=sys.stderr)
        return 1
    print(f"{folder}: {len(stale)} page(s) {'to write' if check else 'written'}")
    return 0


if __name__ == "__main__":
    import burstenv  # noqa: F401  registers the environments

    sys.exit(main(sys.argv[1:]))
