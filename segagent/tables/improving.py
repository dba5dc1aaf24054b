"""Figure 4, policy improvement: one round of StaR, StaR+ and DAgger from the same S_0, with the same reduced recipe."""

from __future__ import annotations

from pathlib import Path

from segagent.configuration import load_named
from segagent.improvement.figures import read_figures
from segagent.improvement.folder import RoundFolder
from segagent.tables import plots
from segagent.tables.arms import Arm, verdict
from segagent.tables.cells import Cell, Done, named
from segagent.tables.section import Section, Table, made_by
from segagent.tables.settings import value_word, words_of
from segagent.tables.setup import TAU_STOP, Setup, limited, run_of
from segagent.tables.training import not_run

_SFT, _LONGER = "SFT", "SFT, as many steps more"


def improvement(setup: Setup) -> Section:
    """S_0, S_0 trained on as before (what more steps alone give), and S_1 of each method."""
    config, settings = setup.config, setup.config.improvement
    title = f"Figure 4: policy improvement on {config.hard}, {config.hard_max_clicks} clicks"
    claim = "SFT < StaR+: a policy learns from its own corrected rollouts."
    if not settings.steps:
        return not_run("improvement", title, claim, "improvement.steps")
    clicks = config.hard_max_clicks
    start = setup.simulate("improvement/trajectories", settings.simulate, settings.limit, clicks)
    learnt = [f"data.trajectories={value_word(str(start.path))}", *words_of(settings.settings, "improvement.settings")]
    recipe = {"model": setup.mllm, "data": settings.data, "seed": config.seed, "steps": settings.steps}
    longer, folder = setup.train("improvement/longer", *learnt, **recipe)
    made: dict[str, tuple[list[Done], str | None]] = {_SFT: ([], None), _LONGER: ([start, longer], folder)}
    nothing: list[str] = []
    for method in settings.methods:
        name = f"improvement/{method}"
        words = [*words_of(settings.data, "improvement.data"), *setup.mllm, *setup.segmenter, f"method={method}"]
        words += [*learnt, "train.epochs=null", f"train.steps={settings.steps}", f"rollout.max_clicks={clicks}"]
        words += ["rounds=1", "wandb.mode=disabled", *limited_to(settings.limit), *setup.common]
        words += [f"rollout.tau_stop={TAU_STOP}"]
        words += [f"method.tau_stop={TAU_STOP}"] if "tau_stop" in load_named("method", method) else []
        cell = Cell("improve", name, tuple(words), ending="")
        done = _improved(setup, cell)
        if done is None:
            nothing.append(f"{method}: none of its rollouts was selected, so that nothing could be learnt.")
        else:
            made[method] = [start, done], str(RoundFolder(done.path, 1).model)
    return _section(setup, title, claim, made, nothing)


def _improved(setup: Setup, cell: Cell) -> Done | None:
    """The round; None where it had nothing to learn from, which is found out once only."""
    path = setup.cells.path(cell)
    if _selected(path) != 0:
        try:
            return setup.cells.run(cell)
        except ValueError:
            if _selected(path) != 0:
                raise
    return None


def _selected(out: Path) -> int | None:
    """Trajectories that the round's method selected; None where it did not come so far."""
    selection = RoundFolder(out, 1).selection
    return read_figures(selection)["selected"] if selection.is_file() else None


def limited_to(limit: int | None) -> list[str]:
    return [word.replace("data.", "", 1) for word in limited(limit)]


def _section(
    setup: Setup, title: str, claim: str, made: dict[str, tuple[list[Done], str | None]], nothing: list[str]
) -> Section:
    settings, arms, dones = setup.config.improvement, {}, []
    series = {}
    for name, (used, folder) in made.items():
        place = None if folder is None else f"improvement/{'longer' if name == _LONGER else name}_evaluated"
        done = setup.hard(1, place, None if folder is None else setup.model(folder))
        run = run_of(done)
        arms[name] = run.arm("final"), run.arm("best_predicted"), done
        series[name] = [setup.ciou(run.arm(f"step:{step}")) for step in range(setup.config.hard_max_clicks + 1)]
        dones += [*used, done]
    rows = [_row(setup, name, arms) for name in arms]
    findings = list(nothing)
    for name in (method for method in settings.methods if method in arms):
        for base in (_SFT, _LONGER):
            one = setup.gain(arms[base][0], arms[name][0])
            findings.append(f"{name} over {base}, last mask: {one.percent(True)}, {verdict(one)}.")
    head = ["model", "n", "last mask", f"gain over {_SFT}", f"gain over {_LONGER}", "best by PRM", "gain", "run"]
    return Section(
        name="improvement",
        title=title,
        claim=claim,
        findings=findings,
        tables=[
            Table(head, rows, "cIoU in percent with 95% intervals over pictures, one training an arm; gains are paired")
        ],
        plots=[
            plots.curves(setup.folder, "improvement", "cIoU of the last mask by clicks", series, ylabel="cIoU in %")
        ],
        notes=[
            f"A reduced recipe, the same in every arm: one round, {settings.steps} steps ({settings.settings}) from "
            f"S_0, {settings.limit} training samples. The row {_LONGER} learns from the simulated annotator's "
            "trajectories of these samples alone (D_0): what remains above it is the method's."
        ],
        **made_by(dones),
    )


def _row(setup: Setup, name: str, arms: dict[str, tuple[Arm, Arm, Done]]) -> list[str]:
    last, best, done = arms[name]
    gains = ["" if base == name else setup.gain(arms[base][0], last).percent(True) for base in (_SFT, _LONGER)]
    over = "" if name == _SFT else setup.gain(arms[_SFT][1], best).percent(True)
    if name == _SFT:
        gains[1] = ""
    values = [setup.ciou(arm).percent() for arm in (last, best)]
    return [name, str(len(last.keys)), values[0], *gains, values[1], over, named([done])]
