"""Figure 3: clicks that the simulated annotator needs, on the easy and on the hard dataset."""

from __future__ import annotations

import json

from segagent.metrics.noc import LEVELS
from segagent.tables import plots
from segagent.tables.arms import Interval
from segagent.tables.cells import Cell, named
from segagent.tables.section import Section, Table, made_by
from segagent.tables.setup import Setup, limited


def fig3(setup: Setup) -> Section:
    config, rows, dones = setup.config, [], []
    groups: dict[str, dict[str, Interval]] = {}
    for dataset in (config.easy, config.hard):
        words = [*setup.datasets[dataset], *limited(config.complexity.limit), *setup.segmenter, *setup.common]
        words += [f"max_clicks={config.complexity.max_clicks}", f"resamples={config.resamples}"]
        done = setup.cells.run(Cell("complexity", f"complexity/{dataset}", tuple(words)))
        dones.append(done)
        content = json.loads(done.path.read_text(encoding="utf-8"))
        if len(content["datasets"]) != 1:
            raise ValueError(f"{dataset}: is several datasets ({', '.join(content['datasets'])}); figure 3 takes one")
        (found,) = content["datasets"].values()
        groups[dataset] = {
            f"IoU {level}%": Interval(*(_number(found[f"noc{level}{end}"]) for end in ("", "_low", "_high")))
            for level in LEVELS
        }
        cells = [
            f"{one.value:.2f} [\N{EN DASH}]" if one.untold else f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
            for one in groups[dataset].values()
        ]
        rows.append([dataset, str(found["n"]), *cells, str(found[f"never{LEVELS[-1]}"]), named([done])])
    caption = f"Clicks needed (limit {config.complexity.max_clicks}), 95% intervals"
    head = ["data", "n", *(f"NoC{level}" for level in LEVELS), f"never {LEVELS[-1]}%", "run"]
    easy, hard = (groups[name][f"IoU {LEVELS[-1]}%"] for name in (config.easy, config.hard))
    return Section(
        name="fig3",
        title="Figure 3: clicks needed",
        claim="Referring segmentation takes one or two clicks, thin structures several.",
        findings=[
            f"To 90% IoU: {config.easy} {easy.value:.2f} clicks, {config.hard} {hard.value:.2f}; {_apart(easy, hard)}."
        ],
        tables=[Table(head, rows, caption)],
        plots=[plots.bars(setup.folder, "fig3", caption, groups, ylabel="clicks needed", scale=1)],
        **made_by(dones),
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _apart(easy: Interval, hard: Interval) -> str:
    if easy.untold or hard.untold:
        return "too few pictures for intervals"
    if hard.low > easy.high:
        return "intervals apart"
    return "intervals apart, the other way round" if easy.low > hard.high else "intervals overlap"
