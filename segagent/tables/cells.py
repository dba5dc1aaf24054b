"""A cell is one run of an entry, kept in its folder: run once, gone on with after a kill, never run again when done."""

from __future__ import annotations

import importlib.util
import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from omegaconf import OmegaConf

from segagent.configuration import CONFIG_DIR, compose_config
from segagent.entry import git_hash, write_text
from segagent.tables.settings import value_word

ROOT = CONFIG_DIR.parent


@cache
def entry_module(entry: str) -> ModuleType:
    """The command of that name, from `scripts/` or `evaltools/`."""
    path = next(path for room in ("scripts", "evaltools") if (path := ROOT / room / f"{entry}.py").is_file())
    spec = importlib.util.spec_from_file_location(entry, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Cell:
    """entry: which command. name: of its output below the folder of cells, `ending` added. settings: its words, beside
    `out`. whole: begun anew where a kill cut it, rather than gone on with: what is timed is one run.
    """

    entry: str
    name: str
    settings: tuple[str, ...]
    ending: str = ".json"
    whole: bool = False


@dataclass(frozen=True)
class Done:
    """path: what the cell wrote. command: that made it, as for a shell, `OUT` being the folder of all cells. seconds,
    cpu_seconds: of its last go, on the wall and of this process. skipped: whether samples could not be loaded (exit
    code 1). commit: of the checkout that ended it.
    """

    name: str
    path: Path
    command: str
    seconds: float
    cpu_seconds: float
    skipped: bool
    commit: str = "unknown"


class Cells:
    """folder: of all cells. tell: is given a line for each cell that is run."""

    def __init__(self, folder: Path, tell: Callable[[str], None] = print) -> None:
        self.folder, self.tell = folder, tell
        self.ran: list[Done] = []

    def path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.name}{cell.ending}"

    def run(self, cell: Cell) -> Done:
        """The cell's output, made now or before. Raises what the entry raises."""
        path, marker = self.path(cell), self.folder / f"{cell.name}.done.json"
        if not marker.is_file():
            self.tell(f"\n--- {cell.name}: {self.command(cell)}")
            marker.parent.mkdir(parents=True, exist_ok=True)
            begin = ["overwrite=true"] if cell.whole else ["resume=true"]
            config = compose_config(cell.entry, [*cell.settings, f"out={value_word(str(path))}", *begin])
            OmegaConf.resolve(config)
            began = time.perf_counter(), time.process_time()
            code = entry_module(cell.entry).main(config)
            seconds, cpu_seconds = time.perf_counter() - began[0], time.process_time() - began[1]
            facts = {"seconds": seconds, "cpu_seconds": cpu_seconds, "skipped": bool(code), "commit": git_hash()}
            write_text(marker, json.dumps(facts) + "\n")
        facts = json.loads(marker.read_text(encoding="utf-8"))
        done = Done(cell.name, path, self.command(cell), **facts)
        if all(other.name != done.name for other in self.ran):
            self.ran.append(done)
        return done

    def command(self, cell: Cell) -> str:
        room = "scripts" if (ROOT / "scripts" / f"{cell.entry}.py").is_file() else "evaltools"
        words = [*cell.settings, f"out=OUT/{cell.name}{cell.ending}"]
        shown = shlex.join(word.replace(f"{self.folder}/", "OUT/") for word in words)
        return f"python {room}/{cell.entry}.py {shown}"


def named(dones: Sequence[Done]) -> str:
    """For a row's last column."""
    return ", ".join(done.name for done in dict.fromkeys(dones))
