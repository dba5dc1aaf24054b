"""Figure 4, search: SFT, its PRM as a stop, K candidates a step on the hard dataset; and what K candidates cost."""

from __future__ import annotations

import json
from statistics import median

from segagent.tables import plots
from segagent.tables.arms import verdict
from segagent.tables.cells import named
from segagent.tables.section import Section, Table, made_by
from segagent.tables.setup import Setup, run_of


def fig4(setup: Setup) -> Section:
    config = setup.config
    one, several = setup.hard(1), setup.hard(config.k)
    runs = run_of(one), run_of(several)
    arms = {
        "SFT": (runs[0].arm("final"), one, None),
        "SFT + PRM stop": (runs[0].arm("best_predicted"), one, "SFT"),
        f"SFT + search K={config.k}": (runs[1].arm("best_predicted"), several, "SFT + PRM stop"),
    }
    rows, findings = [], []
    for name, (arm, done, base) in arms.items():
        over_sft = "" if base is None else setup.gain(arms["SFT"][0], arm).percent(True)
        step = None if base is None else setup.gain(arms[base][0], arm)
        gained = "" if step is None else step.percent(True)
        rows.append([name, str(len(arm.keys)), setup.ciou(arm).percent(), over_sft, gained, named([done])])
        if step is not None:
            findings.append(f"{name} over {base}: {verdict(step)}.")
    clicks = config.hard_max_clicks
    series = {
        "SFT: last mask": [setup.ciou(runs[0].arm(f"step:{step}")) for step in range(clicks + 1)],
        "PRM: best so far": [setup.ciou(runs[0].best_within(step)) for step in range(clicks + 1)],
        f"K={config.k}: best so far": [setup.ciou(runs[1].best_within(step)) for step in range(clicks + 1)],
    }
    return Section(
        name="fig4",
        title=f"Figure 4: process reward and search on {config.hard}, {clicks} clicks",
        claim="SFT < + PRM as stop < + search with three candidates a step.",
        findings=findings,
        tables=[
            Table(
                ["policy", "n", "cIoU", "gain over SFT", "gain over the row above", "run"],
                rows,
                "cIoU in percent with 95% intervals; gains are paired",
            )
        ],
        plots=[plots.curves(setup.folder, "fig4", f"{config.hard}: cIoU by clicks", series, ylabel="cIoU in %")],
        notes=["PRM stop: the mask with the highest predicted IoU of the whole run, the start included."],
        **made_by([one, several]),
    )


def cost(setup: Setup) -> Section:
    """The same few samples with one candidate and with K, by turns."""
    config = setup.config
    settings, dones = config.cost, {1: [], config.k: []}
    if settings.repeats < 1:
        raise ValueError(f"cost.repeats={settings.repeats}: at least 1")
    for turn in range(settings.repeats):
        for k in dones:
            words = ["policy=greedy", f"search.k={k}", f"rollout.max_clicks={config.max_clicks}"]
            words.append(f"batch_size={settings.batch_size}")
            name = f"cost/k{k}_{turn + 1}"
            dones[k].append(setup.evaluate(name, config.hard, *words, limit=settings.limit, whole=True))
    metrics = {
        k: [json.loads(done.path.with_name(f"{done.path.stem}.metrics.json").read_text()) for done in made]
        for k, made in dones.items()
    }
    rows = []
    for k, made in metrics.items():
        counts = {name: made[0][f"search_{name}"] / made[0]["n"] for name in ("states_seen", "clicks", "coinciding")}
        calls = [str(made[0][f"search_{name}"]) for name in ("policy_calls", "segmenter_calls")]
        seconds = [one["seconds"] / one["n"] for one in made]
        spread = f"{median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"
        each = [f"{count:.2f}" for count in counts.values()]
        cpu = f"{median(done.cpu_seconds for done in dones[k]):.1f}"
        rows.append([f"K={k}", str(made[0]["n"]), *each, *calls, spread, cpu, named(dones[k])])
    pairs = zip(metrics[config.k], metrics[1], strict=True)
    ratios = [several["seconds"] / one["seconds"] for several, one in pairs]
    cpu_ratios = [several.cpu_seconds / one.cpu_seconds for several, one in zip(dones[config.k], dones[1], strict=True)]
    passes = metrics[config.k][0]["search_states_seen"] / metrics[1][0]["search_states_seen"]
    lengths = {k: float(run_of(made[0]).scores.counted.table.counts.mean() - 1) for k, made in dones.items()}
    head = ["search", "n", "prompt passes", "segmenter passes", "coinciding", "model calls", "segmenter calls"]
    head += ["seconds a sample", "CPU seconds of the run", "run"]
    return Section(
        name="cost",
        title=f"Cost of K={config.k}",
        claim="Three candidates a step take three looks, not six: at most 3.0 times the time of one.",
        findings=[
            f"K={config.k} over K=1, batch {settings.batch_size}: wall time {median(ratios):.2f} ({min(ratios):.2f} to "
            f"{max(ratios):.2f} in {len(ratios)} turns), CPU time of the whole run {median(cpu_ratios):.2f}, prompt "
            f"passes {passes:.2f} times. The lines that are kept have {lengths[config.k]:.1f} steps (K=1: "
            f'{lengths[1]:.1f}): one that a sampled "Finish" ends early saves the rest; time a prompt pass '
            f"{median(ratios) / passes:.2f} times that of K=1."
        ],
        tables=[Table(head, rows, "passes are per sample, calls are of all batches")],
        notes=[
            "Seconds are of the whole loop, loading the pictures included; CPU seconds also of loading the weights and "
            "scoring. K=1 and K by turns on the same machine."
        ],
        **made_by([done for made in dones.values() for done in made]),
    )
