"""Policies from a user's text: composites, names of Python policies, and files of user heuristics."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from pathlib import Path

from burstenv.arguments import checked
from burstenv.errors import BurstenvError, unknown_name
from burstenv.policies.batching import BATCHING_MODES
from burstenv.policies.composite import Composite, parse_composite, parse_parameters
from burstenv.policies.lookahead.policy import LookaheadPolicy, is_lookahead, parse_lookahead
from burstenv.policies.network.policy import PREFIX, NetworkPolicy, load_network_policy
from burstenv.policies.python_policy import PythonPolicy, where
from burstenv.policies.registry import admission_rules, python_policies, routing_rules

Heuristic = Composite | PythonPolicy | LookaheadPolicy
Policy = Heuristic | NetworkPolicy

_FILE = re.compile(r"^(?P<path>.+\.py)(?::(?P<rest>.*))?$", re.DOTALL)
_NAMED = re.compile(r"^(?P<name>[a-z0-9-]+)(?:\((?P<parameters>[^()]*)\))?$")
_loaded: dict[Path, str] = {}  # digest of each loaded file


@checked()
def load_policy(text: str) -> Policy:
    """Return the policy of a user's text.

    Args:
        text: ``admission/routing/batching``; look-ahead over one, such as ``lookahead(futures=8):always/jsq/vllm``; the
            name of a Python policy, such as ``mine`` or ``mine(cap=3)``; ``mine.py``, a file with one policy in it;
            ``mine.py:NAME``, a file and a name in it, or a composite:
            ``mine.py:short-only/jsq/vllm``; or ``agent:NAME``, a shipped agent, and ``agent:FILE.npz`` or
            ``agent:FILE.onnx``, an exported one.

    Returns:
        A policy; this function also reads its ``name`` once its file has been loaded.

    Raises:
        BurstenvError: On an unknown name, or a file that cannot be loaded; names its line.
    """
    text = text.strip()
    if text.startswith(PREFIX) and text != PREFIX:
        return load_network_policy(text)
    match = _FILE.match(text)
    if match is not None:
        names = load_policy_file(match["path"])
        if match["rest"]:
            _check_not_a_rule(match["rest"], match["rest"].partition("(")[0], f"{match['path']}:")
            return load_policy(match["rest"])
        own = [name for name in names if name in python_policies()]
        if len(own) != 1:
            rules = [name for name in names if name not in own]
            what = f"the policies {', '.join(own)}" if own else f"no policy but the rules {', '.join(rules)}"
            write = f"{match['path']}:{own[0]}" if own else f"{match['path']}:{_example(rules[0])}"
            raise BurstenvError(f"{match['path']} holds {what}; name one, such as {write}")
        return python_policies()[own[0]]
    if is_lookahead(text):
        return parse_lookahead(text)
    if "/" in text:
        return parse_composite(text)
    named = _NAMED.match(text)
    known = python_policies()
    if named is None or named["name"] not in known:
        _check_not_a_rule(text, named["name"] if named else text)
        if not known:
            raise BurstenvError(
                f"policy {text!r} needs three parts, admission/routing/batching, such as always/lmetric/vllm, "
                f"or a file of your own, such as mine.py:{text or 'name'}"
            )
        raise unknown_name("policy", named["name"] if named else text, known)
    policy = known[named["name"]]
    return policy.with_parameters(parse_parameters(policy.rule, named["parameters"]))


def _check_not_a_rule(text: str, name: str, file: str = "") -> None:
    """Raise on a rule or a mode, which is only a part of a policy."""
    parts = {
        "an admission rule": ([rule.name for rule in admission_rules()], f"{text}/jsq/vllm"),
        "a routing rule": ([rule.name for rule in routing_rules()], f"always/{text}/vllm"),
        "a batching mode": (list(BATCHING_MODES), f"always/jsq/{text}"),
    }
    for kind, (names, write) in parts.items():
        if name in names and name not in python_policies():
            raise BurstenvError(f"policy {text!r} is {kind}, one of the three parts of a policy: write {file}{write}")


def named_in_data(text: str) -> str:
    """Return a policy's name from a data file; only the command line may name code.

    Raises:
        BurstenvError: If it is a Python file.
    """
    if _FILE.match(text.strip()):
        raise BurstenvError(
            f"policy {text!r:.80} is a Python file, which a data file must not name; "
            "load it with --policy-file and write the name that it registers"
        )
    return text


@checked()
def load_policy_file(path: str | Path) -> list[str]:
    """Run a Python file that registers heuristics; return their names.

    An unchanged file is not run again.

    Raises:
        BurstenvError: If the file is missing, fails (with the line), or registers nothing.
    """
    file = Path(path).expanduser().resolve()
    if file.suffix != ".py":
        raise BurstenvError(f"{path}: a policy file is a Python file and ends in .py")
    try:
        source = file.read_bytes()
    except OSError as error:
        raise BurstenvError(f"{path}: cannot be read ({error.strerror}); a policy file is a Python file") from None
    digest = hashlib.sha256(source).hexdigest()
    if _loaded.get(file) != digest:
        name = f"burstenv_policies_{file.stem}_{digest[:8]}"
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            exec(compile(source, str(file), "exec"), module.__dict__)
        except BurstenvError as error:
            message = str(error)
            raise BurstenvError(message if str(file) in message else f"{where(error, str(file))}: {message}") from None
        except SyntaxError as error:
            raise BurstenvError(f"{file}, line {error.lineno}: {error.msg}") from None
        except Exception as error:
            raise BurstenvError(f"{where(error, str(file))}: {type(error).__name__}: {error}") from None
        _loaded[file] = digest
    names = _names_in(file)
    if not names:
        raise BurstenvError(
            f"{path} registers no heuristic; decorate a function with @policy, @admission_rule or @routing_rule "
            f"of burstenv.policies"
        )
    return names


def loaded_files() -> list[Path]:
    """Return the loaded policy files, for another process to load."""
    return list(_loaded)


def _names_in(file: Path) -> list[str]:
    rules = [*admission_rules(), *routing_rules(), *(policy.rule for policy in python_policies().values())]
    return [r.name for r in rules if r.function is not None and r.function.__code__.co_filename == str(file)]


def _example(name: str) -> str:
    admission = any(rule.name == name for rule in admission_rules())
    return f"{name}/jsq/vllm" if admission else f"always/{name}/vllm"
