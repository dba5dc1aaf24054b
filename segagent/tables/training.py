"""Tables 4, 5 and 6: short trainings that differ in one thing, the same reduced recipe in every arm."""

from __future__ import annotations

from collections.abc import Sequence

from segagent.dialogue import load_dialogue
from segagent.tables.arms import Arm, Interval
from segagent.tables.cells import Done, named
from segagent.tables.section import Section, Table, made_by
from segagent.tables.settings import value_word, words_of
from segagent.tables.setup import Setup, run_of

_OWN = "own"  # the dialogue of the checkpoint that the arms begin from


def not_run(name: str, title: str, claim: str, key: str) -> Section:
    return Section(name, title, claim, [f"Not run: {key}=0 leaves it out."])


def table4(setup: Setup) -> Section:
    """Colour of the mask that is painted over the picture."""
    title, claim = "Table 4: colour of the mask", "Which colour the mask has makes no difference."
    return _dialogues(setup, "table4", title, claim, list(setup.config.training.colors))


def table6(setup: Setup) -> Section:
    """How coordinates are written."""
    title, claim = "Table 6: how coordinates are written", "The format of coordinates makes no difference."
    return _dialogues(setup, "table6", title, claim, list(setup.config.training.coordinates))


def table5(setup: Setup) -> Section:
    """Clicks from the empty mask, or from the box that the model itself gives first."""
    name, title = "table5", "Table 5: initial action"
    claim = "A predicted box as the first action may help: none, box and clicks, box alone."
    settings = setup.config.training
    if not settings.steps:
        return not_run(name, title, claim, "training.steps")
    segmenter = words_of(settings.box_segmenter, "training.box_segmenter")
    trained = [_trained(setup, _OWN, seed, "box", words_of(settings.box, "training.box")) for seed in settings.seeds]
    policies = {"none": "agent", "predicted box": "box_agent", "predicted box alone": "box"}
    arms, dones = {}, [done for used, _ in trained for done in used]
    for label, policy in policies.items():
        words = [f"policy={policy}", f"rollout.max_clicks={setup.config.max_clicks}"]
        arms[label], made = _evaluated(setup, f"box_{policy}", trained, words, segmenter)
        dones += made
    return Section(
        name=name,
        title=title,
        claim=claim,
        findings=_findings(setup, arms),
        tables=[_table(setup, "initial action", arms, trained)],
        notes=[_recipe(setup), f"The segmenter of this table takes boxes: {settings.box_segmenter}."],
        **made_by(dones),
    )


def _dialogues(setup: Setup, name: str, title: str, claim: str, dialogues: Sequence[str]) -> Section:
    settings = setup.config.training
    if not settings.steps:
        return not_run(name, title, claim, "training.steps")
    words = ["policy=agent", f"rollout.max_clicks={setup.config.max_clicks}"]
    arms: dict[str, dict[str, tuple[Arm, list[Done]]]] = {}
    dones, first = [], []
    for dialogue in (_OWN, *dialogues):
        trained = [_trained(setup, dialogue, seed, dialogue, []) for seed in settings.seeds]
        arms[dialogue], made = _evaluated(setup, dialogue, trained, words, setup.segmenter)
        dones += [done for used, _ in trained for done in used] + made
        first = first or trained
    notes = [_recipe(setup)]
    notes += [f"{dialogue}: {_described(dialogue)}." for dialogue in dialogues]
    return Section(
        name=name,
        title=title,
        claim=claim,
        findings=_findings(setup, arms),
        tables=[_table(setup, "dialogue", arms, first)],
        notes=notes,
        **made_by(dones),
    )


def _described(dialogue: str) -> str:
    """What a dialogue paints and writes, as its file says."""
    spoken = load_dialogue(dialogue)
    return (
        f"colour {list(spoken.color)}, coordinates of scale {spoken.scale} with {spoken.decimals} decimals, "
        f"{spoken.first_axis} first"
    )


def _trained(setup: Setup, dialogue: str, seed: int, name: str, words: list[str]) -> tuple[list[Done], str]:
    settings = setup.config.training
    model = setup.model(settings.start)
    if dialogue != _OWN:
        model = [*model, f"mllm.dialogue={dialogue}"]
    used, given = [], settings.trajectories
    if given is None:
        used.append(setup.simulate("training/trajectories", settings.simulate, settings.limit, setup.config.max_clicks))
        given = str(used[0].path)
    recipe = [f"data.trajectories={value_word(given)}", *words_of(settings.settings, "training.settings"), *words]
    place = f"training/{name}_seed{seed}"
    done, folder = setup.train(place, *recipe, model=model, data=settings.data, seed=seed, steps=settings.steps)
    return [*used, done], folder


def _evaluated(
    setup: Setup, name: str, trained: Sequence[tuple[list[Done], str]], words: list[str], segmenter: list[str]
) -> tuple[dict[str, tuple[Arm, list[Done]]], list[Done]]:
    """(dataset -> arm of all seeds, with its runs; all runs)."""
    found: dict[str, tuple[Arm, list[Done]]] = {}
    for dataset in dict.fromkeys((setup.config.easy, setup.config.hard)):
        dones = [
            setup.evaluate(
                f"training/{name}_seed{seed}_{dataset}",
                dataset,
                *words,
                limit=setup.config.training.samples,
                mllm=setup.model(folder),
                segmenter=segmenter,
            )
            for seed, (_, folder) in zip(setup.config.training.seeds, trained, strict=True)
        ]
        found[dataset] = Arm.joined([run_of(done).arm("final") for done in dones]), dones
    return found, [done for _, dones in found.values() for done in dones]


def _gains(setup: Setup, arms: dict[str, dict[str, tuple[Arm, list[Done]]]]) -> dict[str, dict[str, Interval]]:
    """Arm -> dataset -> gain over the first arm."""
    base, *others = arms
    return {
        other: {data: setup.gain(arms[base][data][0], arm) for data, (arm, _) in arms[other].items()}
        for other in others
    }


def _findings(setup: Setup, arms: dict[str, dict[str, tuple[Arm, list[Done]]]]) -> list[str]:
    once = (
        "" if len(setup.config.training.seeds) > 1 else " (one training an arm: how much trainings differ is not in it)"
    )
    lines = []
    for name, gains in _gains(setup, arms).items():
        for data, one in gains.items():
            lines.append(f"{name} over {next(iter(arms))}, {data}: {one.percent(True)}; {_where(one)}{once}.")
    return lines


def _where(difference: Interval) -> str:
    """Of the claim that an arm makes no difference."""
    if difference.untold:
        return "too few pictures for an interval"
    if difference.low > 0:
        return "the interval is above 0"
    return "the interval is below 0" if difference.high < 0 else "the interval holds 0"


def _table(
    setup: Setup,
    what: str,
    arms: dict[str, dict[str, tuple[Arm, list[Done]]]],
    trained: Sequence[tuple[list[Done], str]],
) -> Table:
    gains, rows = _gains(setup, arms), []
    for name, by_data in arms.items():
        for data, (arm, dones) in by_data.items():
            gained = gains[name][data].percent(True) if name in gains else ""
            seeds = ", ".join(f"{100 * run_of(done).arm('final').ciou:.2f}" for done in dones)
            rows.append(
                [name, data, str(len(arm.keys) // len(dones)), setup.ciou(arm).percent(), gained, seeds, named(dones)]
            )
    head = [what, "data", "n", "cIoU, last mask", "gain over the first row's arm", "of each seed", "run"]
    return Table(head, rows, f"cIoU in percent with 95% intervals over pictures; trainings an arm: {len(trained)}")


def _recipe(setup: Setup) -> str:
    settings = setup.config.training
    start = "the model of the other tables" if settings.start is None else str(settings.start)
    return (
        f"A reduced recipe, the same in every arm: {settings.steps} steps ({settings.settings}) from {start}, seeds "
        f"{list(settings.seeds)}. What the arms begin from has learnt the first arm's dialogue already where it is a "
        "trained model: a short training then favours that arm."
    )
