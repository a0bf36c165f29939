"""The folder of running engines: where they listen, what they are, which processes they are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from burstenv.errors import BurstenvError
from burstenv.files import write_atomic
from burstenv.gateway.engines.command import kv_events_of

FILE = "engines.json"
MODEL = "model"  # folder of the model and its tokenizer


@dataclass(frozen=True)
class Engines:
    """Engines that ``burstenv engines up`` has started.

    Attributes:
        folder: Where their logs and this description lie.
        cluster: Name or file of the cluster.
        mode: Batching mode whose limits they run.
        speed: Share of the real GPU's speed at which they are paced.
        urls: Their addresses, in the order of the replicas.
        pids: Their processes, each the leader of its group.
        launcher: The process that watches over them.
    """

    folder: Path
    cluster: str
    mode: str
    speed: float
    urls: list[str]
    pids: list[int]
    launcher: int

    @property
    def model_folder(self) -> Path:
        """Folder of the model and its tokenizer."""
        return self.folder / MODEL

    @property
    def kv_events(self) -> list[str]:
        """Where they publish their KV events."""
        return [kv_events_of(urlsplit(url).port or 0) for url in self.urls]

    def options(self) -> list[str]:
        """Return the options of ``burstenv serve`` for a gateway in front of them."""
        return ["--engines", str(self.folder), "--cluster", self.cluster, "--mode", self.mode]

    def write(self) -> None:
        """Write the description into the folder."""
        values = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_atomic(self.folder / FILE, json.dumps(values, indent=1) + "\n")


def read_engines(folder: Path) -> Engines:
    """Return the engines of a folder.

    Raises:
        BurstenvError: If it holds none, or its description was changed.
    """
    file = folder / FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BurstenvError(f"{folder}: holds no {FILE}; `burstenv engines up` writes it") from None
    except (OSError, ValueError) as error:
        raise BurstenvError(f"{file}: cannot be read ({error})") from None
    names = set(Engines.__dataclass_fields__) - {"folder"}
    if not isinstance(values, dict) or set(values) != names:
        raise BurstenvError(f"{file}: must hold {', '.join(sorted(names))}; start the engines anew")
    return Engines(folder=folder, **values)
