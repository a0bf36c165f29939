"""The shipped agents: weights and cards in ``agents/pretrained``, found by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from burstenv.errors import BurstenvError, unknown_name

ENDING, ONNX_ENDING, CARD_ENDING = ".npz", ".onnx", ".md"


def pretrained_folder() -> Path:
    """Return the folder of the shipped agents, and of their cards."""
    return Path(str(resources.files("burstenv.agents"))) / "pretrained"  # files: nothing of it is run


def shipped_agents() -> dict[str, Path]:
    """Return the shipped agents by name."""
    return {path.stem: path for path in sorted(pretrained_folder().glob(f"*{ENDING}"))}


def card_of(name: str) -> str:
    """Return the model card of a shipped agent, in Markdown.

    Raises:
        BurstenvError: When there is no such agent, or it has no card.
    """
    known = shipped_agents()
    if name not in known:
        raise unknown_name("agent", name, known)
    path = known[name].with_suffix(CARD_ENDING)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BurstenvError(f"{path}: cannot be read ({error.strerror})") from None


def listing() -> list[str]:
    """Return a line for each shipped agent: its name, and the first paragraph of its card."""
    lines = []
    for name, path in shipped_agents().items():
        card = path.with_suffix(CARD_ENDING)
        told = card.read_text(encoding="utf-8") if card.is_file() else ""
        paragraphs = [part for part in told.split("\n\n") if part.strip() and not part.startswith("#")]
        lines.append(f"{name}: {' '.join(paragraphs[0].split()) if paragraphs else 'no card'}")
    return lines
