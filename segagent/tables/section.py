"""What one part of the page holds: plain texts and numbers, kept as JSON beside its cells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from segagent.entry import write_text
from segagent.tables.cells import Done


@dataclass(frozen=True)
class Plot:
    """name: of its PNG beside the part's JSON, `NAME.png`. svg: the same for an HTML page, light or dark."""

    name: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Table:
    """rows: texts, as many in each as in head; the last column names the runs."""

    head: list[str]
    rows: list[list[str]]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """name: of the part. claim: what the paper shows. findings: what these runs show, a line each. commands: (cell,
    command). seconds, cpu_seconds: that the cells took, whenever they were run. samples_skipped: cells some samples of
    which could not be loaded. commits: of the checkouts that made the cells.
    """

    name: str
    title: str
    claim: str
    findings: list[str]
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    samples_skipped: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Section:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["tables"] = [Table(**table) for table in content["tables"]]
        content["plots"] = [Plot(**plot) for plot in content["plots"]]
        return cls(**content)


def made_by(dones: Sequence[Done]) -> dict[str, object]:
    """The fields of a section that its cells tell."""
    once = list({done.name: done for done in dones}.values())
    return {
        "commands": [[done.name, done.command] for done in once],
        "seconds": sum(done.seconds for done in once),
        "cpu_seconds": sum(done.cpu_seconds for done in once),
        "samples_skipped": [done.name for done in once if done.skipped],
        "commits": sorted({done.commit for done in once}),
    }
