"""Every table and figure of the paper, at any scale: one page of numbers with intervals, and the runs behind them.

    python evaltools/tables.py out=runs/tables
    python evaltools/tables.py mllm=FOLDER out=runs/tables resume=true 'parts=[table4,table6]' training.steps=300
    python evaltools/tables.py mllm=qwen_vl_chat mllm.path=DIR segmenter=sam segmenter.path=FILE baseline=box \
        'datasets=["refcoco: data=refcoco data.root=DIR","thin: data=thinobject5k data.root=DIR"]' \
        easy=refcoco hard=thin 'filtering.data="data=refcoco data.root=DIR"' \
        'filtering.train="data=refcoco data.root=DIR data.split=train"' out=runs/paper

A cell of a table is a run of another command, kept under `out`/cells with all that it writes. A killed run goes on
with resume=true: finished cells are not run again. Parts can be run one after the other; the page (`page`.md and .html)
shows all that are there, and says of the others that they were not run. docs/tables.md.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from segagent.entry import RUN_KEYS, claim_output, differing_settings, git_hash, refuse_own_start, run_entry, write_text
from segagent.tables.cells import Cells
from segagent.tables.clicking import table1, table2
from segagent.tables.difficulty import fig3
from segagent.tables.improving import improvement
from segagent.tables.judging import table3
from segagent.tables.page import write_pages
from segagent.tables.searching import cost, fig4
from segagent.tables.section import Section
from segagent.tables.setup import Setup
from segagent.tables.training import table4, table5, table6

# In the order of the page.
PARTS: dict[str, Callable[[Setup], Section]] = {
    part.__name__: part for part in (table1, table2, table3, table4, table5, table6, fig3, fig4, improvement, cost)
}

# Settings that are of some parts only: they may change until one of these is begun.
OWN = {
    "filtering": ("table3",),
    "complexity": ("fig3",),
    "cost": ("cost",),
    "training": ("table4", "table5", "table6"),
    "improvement": ("improvement",),
}


def claim_parts(config: DictConfig, folder: Path) -> None:
    """Keeps the own settings of the parts that begin now as `KEY.settings.yaml` in `folder`. Raises `ValueError` where
    they were begun with others."""
    for key, parts in OWN.items():
        own = config[key]
        file = folder / f"{key}.settings.yaml"
        left_out = own.get("steps") == 0 and not file.is_file()  # once begun it is not left out by forgetting `steps`
        if left_out or not set(parts) & set(config.parts):
            continue
        if file.is_file():
            changed = differing_settings(OmegaConf.load(file), own, but=())
            if changed:
                raise ValueError(f"{file}: cannot resume {', '.join(parts)} with other settings: {'; '.join(changed)}")
        else:
            write_text(file, OmegaConf.to_yaml(own, resolve=True))


def claim_weights(setup: Setup, file: Path) -> None:
    """Keeps what tells the weights of this run in `file`. Raises `ValueError` where its cells were made with others:
    names of models stay what they are when a training writes over them."""
    now, then = setup.weights(), {}
    if file.is_file():
        then = json.loads(file.read_text(encoding="utf-8"))
        changed = [part for part in now if then.get(part, now[part]) != now[part]]
        if changed:
            raise ValueError(
                f"{file}: the weights of {' and '.join(changed)} are others than when these runs were made; choose "
                "another out=, or say overwrite=true"
            )
    write_text(file, json.dumps(then | now) + "\n")


def page_of(config: DictConfig) -> Path:
    return Path(config.out) / "page" if config.page is None else Path(config.page)


def facts(setup: Setup) -> list[str]:
    """What holds for the whole page."""
    config = setup.config
    model = " ".join(setup.mllm) if config.mllm is not None else "none"
    return [
        f"Model: {model}. Segmenter: {' '.join(setup.segmenter)}. Reward: {' '.join(setup.reward)}.",
        *(f"{name}: {' '.join(words)}" for name, words in setup.datasets.items()),
        f"Seed {config.seed}; 95% intervals: percentile bootstrap over pictures, {config.resamples} resamples, of "
        "differences with both runs on the same pictures (paired).",
        f"Written by `python evaltools/tables.py` at commit {git_hash()}, of runs at the commits that each part names. "
        "OUT in the commands is the folder of the runs.",
    ]


def write(setup: Setup) -> None:
    """The page of all parts that are there."""
    kept = {name: setup.folder / f"{name}.json" for name in PARTS}
    sections = [Section.load(file) for file in kept.values() if file.is_file()]
    absent = [name for name, file in kept.items() if not file.is_file()]
    told = [f"Not run: {', '.join(absent)}; 'parts=[{','.join(absent)}]' makes them."] if absent else []
    about, title = [*facts(setup), *told], setup.config.title
    write_pages(page_of(setup.config), title=title, facts=about, sections=sections, folder=setup.folder)


def main(config: DictConfig) -> int:
    out = Path(config.out)
    unknown = [part for part in config.parts if part not in PARTS]
    if unknown or not config.parts:
        raise ValueError(f"parts={list(config.parts)}: choose some of {', '.join(PARTS)}")
    start = [config.training.start, None if config.mllm is None else config.mllm.get("path")]
    refuse_own_start(config, start, [out / "cells"])
    cells = Cells(out / "cells")
    setup = Setup(config, cells)
    free = (*RUN_KEYS, *OWN, "parts", "page", "title")
    claim_output(out / "tables.json", config, out / "cells", but=free)
    if config.overwrite:
        shutil.rmtree(out / "cells", ignore_errors=True)
        for name in (*PARTS, "weights"):
            (out / f"{name}.json").unlink(missing_ok=True)
    (out / "cells").mkdir(exist_ok=True)  # from now on the run is there
    claim_parts(config, out / "cells")
    claim_weights(setup, out / "weights.json")
    for name in config.parts:
        began = time.perf_counter()
        section = PARTS[name](setup)
        section.save(out / f"{name}.json")
        write(setup)
        now = time.perf_counter() - began
        runs = f"its runs {section.seconds:.0f} s in all, {section.cpu_seconds:.0f} s of CPU"
        print(f"\n=== {section.title}: {now:.0f} s now; {runs}")
        print("\n".join(f"  {finding}" for finding in section.findings), flush=True)
    skipped = sorted({done.name for done in cells.ran if done.skipped})
    if skipped:
        print(f"samples that could not be loaded were left out of {', '.join(skipped)}", file=sys.stderr)
    page = page_of(config)
    print(f"\npage {page}.md, {page}.html\nruns {out / 'cells'}")
    return 1 if skipped else 0


if __name__ == "__main__":
    run_entry(main, "tables", __doc__)
