"""Tables 1 and 2: what several clicks are worth over one action, and what the process reward model adds."""

from __future__ import annotations

from segagent.tables import plots
from segagent.tables.arms import verdict
from segagent.tables.cells import named
from segagent.tables.section import Section, Table, made_by
from segagent.tables.setup import Setup, run_of

_BASELINES = ("click", "box", "sample_box")


def table1(setup: Setup) -> Section:
    """The agent against one action: its own first click, or a box (`baseline`)."""
    config = setup.config
    if config.baseline not in _BASELINES:
        raise ValueError(f"baseline={config.baseline!r}: choose {', '.join(_BASELINES)}")
    rows, findings, dones = [], [], []
    for dataset in setup.datasets:
        done = setup.agent(dataset)
        run = run_of(done)
        if config.baseline == "click":  # the first mask of the same run is what a run with one click makes
            single, base = done, run.arm("step:1")
        else:
            words = [f"policy={config.baseline}", "rollout.max_clicks=1"]
            single = setup.evaluate(f"{config.baseline}/{dataset}", dataset, *words, limit=config.limit)
            base = run_of(single).arm("final")
        last, best = run.arm("final"), run.arm("best_predicted")
        dones += [done, single]
        gains = setup.gain(base, last), setup.gain(base, best)
        values = [setup.ciou(arm).percent() for arm in (base, last, best)]
        cells = [dataset, str(len(base.keys)), values[0], values[1], gains[0].percent(True)]
        rows.append([*cells, values[2], gains[1].percent(True), named([done, single])])
        findings.append(f"{dataset}: agent over one action: {verdict(gains[0])}; with PRM: {verdict(gains[1])}.")
    first = "one click" if config.baseline == "click" else f"one action ({config.baseline})"
    with_prm = f"{config.max_clicks} clicks, best by PRM"
    head = ["data", "n", first, f"{config.max_clicks} clicks, last mask", "gain", with_prm, "gain", "run"]
    same = "One click is the mask after the first click of the same run (protocol step:1), which is what "
    notes = [same + "rollout.max_clicks=1 makes."] if config.baseline == "click" else []
    return Section(
        name="table1",
        title="Table 1: the agent and one action",
        claim="An agent that looks and clicks again beats the same model with a single action.",
        findings=findings,
        tables=[Table(head, rows, "cIoU in percent with 95% intervals; gains are paired")],
        notes=notes,
        **made_by(dones),
    )


def table2(setup: Setup) -> Section:
    """cIoU by number of clicks: the last mask, and the one that the process reward model says to return."""
    clicks = setup.config.max_clicks
    tables, figures, findings, dones = [], [], [], []
    for dataset in setup.datasets:
        done = setup.agent(dataset)
        run = run_of(done)
        dones.append(done)
        plain = [run.arm(f"step:{step}") for step in range(clicks + 1)]
        judged = [run.best_within(step) for step in range(clicks + 1)]
        series = {name: [setup.ciou(arm) for arm in arms] for name, arms in (("without PRM", plain), ("PRM", judged))}
        gains = [setup.gain(*pair) for pair in zip(plain, judged, strict=True)]
        rows = [
            [str(step), *(series[name][step].percent() for name in series), gains[step].percent(True), named([done])]
            for step in range(1, clicks + 1)
        ]
        head = ["clicks", "without PRM: last mask", "PRM: best predicted so far", "gain", "run"]
        tables.append(Table(head, rows, f"{dataset}: cIoU in percent with 95% intervals; gains are paired"))
        figures.append(plots.curves(setup.folder, f"table2_{dataset}", dataset, series, ylabel="cIoU in %"))
        findings.append(_by_clicks(setup, dataset, plain, judged, clicks))
    return Section(
        name="table2",
        title="Table 2: number of clicks, with and without the process reward model",
        claim="Without the PRM 7 clicks are no better than 5; with it more clicks never hurt.",
        findings=findings,
        tables=tables,
        plots=figures,
        **made_by(dones),
    )


def _by_clicks(setup: Setup, dataset: str, plain: list, judged: list, clicks: int) -> str:
    earlier = max(1, clicks - 2)
    more = setup.gain(plain[earlier], plain[clicks])
    falls = [step for step in range(2, clicks + 1) if judged[step].ciou < judged[step - 1].ciou]
    curve = "never falls" if not falls else f"falls at click {', '.join(map(str, falls))}"
    if falls:
        deepest = min((setup.gain(judged[step - 1], judged[step]) for step in falls), key=lambda one: one.value)
        curve += f" (by at most {-100 * deepest.value:.2f} points)"
    return (
        f"{dataset}: without PRM {clicks} clicks over {earlier}: {more.percent(True)} points; "
        f"with PRM the curve {curve}."
    )
