"""evaltools/tables.py: every part from tiny runs, what a kill leaves, the page, the statistics."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from segagent.configuration import CONFIG_DIR, build, compose_config, names
from segagent.data.predictions import read_predictions
from segagent.entry import expand_checkpoints, git_hash
from segagent.mllm.testing import write_nano
from segagent.tables import judging, plots
from segagent.tables import setup as shared
from segagent.tables.arms import Arm, Interval, Run, ciou, gain, verdict
from segagent.tables.cells import Cell, Cells, Done, entry_module
from segagent.tables.difficulty import _apart
from segagent.tables.page import html, markdown, write_pages
from segagent.tables.section import Plot, Section, Table, made_by
from segagent.tables.settings import member_words, named_settings, value_word, words_of
from segagent.tables.setup import Setup

ROOT = Path(__file__).resolve().parents[2]
SMALL = "data=refshapes data.size=128"
TRAINED = "train.global_batch=2 train.batch_size=2 train.workers=0 train.precision=float32"
SETTINGS = [
    f'datasets=["refshapes: {SMALL}","thin: {SMALL} data.subset=refshapes-thin"]', "easy=refshapes", "hard=thin",
    "segmenter=graphcut", "segmenter.max_pixels=1024", "limit=3", "hard_limit=2", "max_clicks=2", "hard_max_clicks=2",
    f'filtering.data="{SMALL}"', f'filtering.train="{SMALL} data.split=train"', "filtering.limit=4",
    "filtering.train_limit=4", "filtering.numbers=[expected]", "filtering.attempts=2",
    "complexity.limit=2", "complexity.max_clicks=3",
    "cost.limit=2", "cost.repeats=2", "cost.batch_size=2", "resamples=50", "device=cpu", "batch_size=4", "title=Tiny",
    f'training.data="{SMALL}"', f'training.simulate="{SMALL} data.split=train"', "training.limit=2",
    f'training.settings="{TRAINED}"', "training.samples=2", "training.seeds=[0,1]", "training.colors=[nano_red]",
    "training.coordinates=[nano_row_first]", 'training.box_segmenter="segmenter=graphcut segmenter.max_pixels=1024"',
    f'improvement.data="{SMALL}"', f'improvement.simulate="{SMALL} data.split=train"', "improvement.limit=2",
    f'improvement.settings="{TRAINED}"', "improvement.methods=[star,star_plus]",
    "training.steps=0", "improvement.steps=0",
]  # fmt: skip
LEFT_OUT = ("table5", "table6")
QUICK = "parts=[table1,table2,table3,fig3,fig4,cost,table4,improvement]"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "evaltools" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_nano(folder)
    return folder


def composed(model, out, *overrides):
    given = [f"mllm={model}", f"out={out}", f"page={out}/page/tiny", *SETTINGS, *overrides]
    config = compose_config("tables", expand_checkpoints(given))
    OmegaConf.resolve(config)
    return config


@pytest.fixture(scope="module")
def made(script, model, tmp_path_factory):
    """Folder of a run of all parts that need no training, and of table 4 and the improvement with one step each."""
    out = tmp_path_factory.mktemp("tables")
    assert script.main(composed(model, out, QUICK, "training.steps=1", "improvement.steps=1")) == 0
    return out


def section(out, name):
    return Section.load(out / f"{name}.json")


def test_every_part_stands_on_the_page_with_its_runs_and_what_was_not_run(made, script):
    text, page = (made / "page" / "tiny.md").read_text(), (made / "page" / "tiny.html").read_text()
    absent = [name for name in script.PARTS if name in LEFT_OUT]
    assert all(f"Not run: {', '.join(absent)}; " in written for written in (text, page))
    for name in script.PARTS:
        if name in LEFT_OUT:
            continue
        kept = section(made, name)
        assert kept.title in text and kept.findings and kept.commands and kept.seconds > 0
        for cell, command in kept.commands:
            assert command in text and (made / "cells" / f"{cell}.done.json").is_file()
        named = {run for table in kept.tables for row in table.rows for run in row[-1].split(", ")}
        assert named <= {cell for cell, _ in kept.commands}
        for plot in kept.plots:
            assert (made / "page" / f"tiny_{plot.name}.png").read_bytes()[1:4] == b"PNG"
            assert f"](tiny_{plot.name}.png)" in text and plot.svg in page
    assert "prefers-color-scheme: dark" in page and "src='http" not in page


def test_numbers_are_those_of_the_runs(made):
    metrics = json.loads((made / "cells/agent/thin.metrics.json").read_text())
    row = section(made, "table1").tables[0].rows[1]
    assert row[:2] == ["thin", "3"] and row[-1] == "agent/thin"
    assert row[5].startswith(f"{100 * metrics['ciou']:.2f} [")
    by_step = section(made, "table2").tables[1]
    for step, cells in enumerate(by_step.rows, 1):
        assert cells[1].startswith(f"{100 * metrics['ciou_by_step'][step]:.2f} [")
        assert cells[2].startswith(f"{100 * metrics['best_ciou_by_step'][step]:.2f} [")
    cost = json.loads((made / "cells/cost/k3_1.metrics.json").read_text())
    assert section(made, "cost").tables[0].rows[1][2] == f"{cost['search_states_seen'] / 2:.2f}"
    filtering = json.loads((made / "cells/filtering/expected.json").read_text())
    rows = section(made, "table3").tables[0].rows
    assert rows[0][2].startswith(f"{filtering['mae']:.2f} [")
    second = json.loads((made / "cells/filtering/second_opinion.json").read_text())
    assert [row[0] for row in rows[2:]] == ["second opinion, as announced", "second opinion, calibrated"]
    assert rows[2][2].startswith(f"{second['mae']:.2f} [") and second["opinion_states_seen"]


def test_one_click_is_what_a_run_of_one_click_makes(made, script, tmp_path):
    """Table 1 reads it off the run with more clicks."""
    settings = Path(made / "cells/agent/thin.config.yaml")
    config = OmegaConf.load(settings)
    config.rollout.max_clicks, config.out, config.resume = 1, str(tmp_path / "one.json"), False
    entry_module("evaluate").main(config)
    several, one = Run(made / "cells/agent/thin.json").arm("step:1"), Run(tmp_path / "one.json").arm("final")
    assert several.keys == one.keys and (several.terms == one.terms).all()


def test_arms_of_a_table_differ_in_one_thing(made):
    own, red = (OmegaConf.load(made / f"cells/training/{name}_seed1/train.config.yaml") for name in ("own", "nano_red"))
    assert red.mllm.dialogue == "nano_red" and own.mllm.dialogue is None
    own.mllm.dialogue, own.out = red.mllm.dialogue, red.out
    assert own == red and own.seed == 1 and own.train.steps == 1
    assert "same in every arm" in " ".join(section(made, "table4").notes)


def test_a_method_that_selects_nothing_is_told_and_not_tried_again(made, script, model, capsys):
    """Random weights never end well."""
    findings = section(made, "improvement").findings
    assert findings[0] == "star: none of its rollouts was selected, so that nothing could be learnt."
    assert any(finding.startswith("star_plus over SFT, as many steps more, last mask: ") for finding in findings)
    again = composed(model, made, "parts=[improvement]", "resume=true", "training.steps=1", "improvement.steps=1")
    assert script.main(again) == 0 and "--- " not in capsys.readouterr().out
    assert section(made, "improvement").findings == findings


def test_finished_cells_are_not_run_again_and_cut_ones_go_on(made, script, model, capsys):
    """What a kill leaves: no mark, and a trajectory file cut in a line."""
    lines, mark = (made / f"cells/agent/thin{end}" for end in (".trajectories.jsonl", ".done.json"))
    before = {path: path.stat().st_mtime_ns for path in (made / "cells").rglob("*.done.json")}
    predictions, content = (made / "cells/agent/thin.json").read_bytes(), lines.read_bytes()
    os.truncate(lines, len(content) - 20)
    mark.unlink()
    (made / "cells/agent/thin.json").unlink()
    again = composed(model, made, "parts=[table1,table2]", "resume=true", "training.steps=1", "improvement.steps=1")
    assert script.main(again) == 0
    assert (made / "cells/agent/thin.json").read_bytes() == predictions and lines.read_bytes() == content
    changed = {path for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert changed == {mark}
    shown = capsys.readouterr()
    assert shown.out.count("--- ") == 1 and "--- agent/thin: python scripts/evaluate.py data=refshapes" in shown.out
    assert section(made, "fig3").title in (made / "page" / "tiny.md").read_text()


def test_a_box_first(script, model, tmp_path):
    parts = ["parts=[table5]", "training.steps=1", "training.seeds=[0]", "training.samples=1"]
    assert script.main(composed(model, tmp_path, *parts)) == 0
    assert [row[0] for row in section(tmp_path, "table5").tables[0].rows][::2] == [
        "none", "predicted box", "predicted box alone"
    ]  # fmt: skip
    assert OmegaConf.load(tmp_path / "cells/training/box_seed0/train.config.yaml").tasks.box == 1.0


def test_unsound_settings_are_named(script, model, made, tmp_path):
    with pytest.raises(ValueError, match=r"parts=\['table9'\]: choose some of table1"):
        script.main(composed(model, tmp_path, "parts=[table9]"))
    with pytest.raises(ValueError, match="hard=none: is none of datasets, refshapes, thin"):
        script.main(composed(model, tmp_path, "hard=none"))
    with pytest.raises(ValueError, match=r"cannot resume with other settings: .*limit \(3 then, 2 now\)"):
        script.main(composed(model, made, "resume=true", "limit=2", "training.steps=1", "improvement.steps=1"))
    other = composed(model, made, "resume=true", "parts=[table4]", "training.steps=2", "improvement.steps=1")
    with pytest.raises(ValueError, match=r"training.settings.yaml: cannot .*table4, .*: steps \(1 then, 2 now\)"):
        script.main(other)
    forgotten = composed(model, made, "resume=true", "parts=[table4]")
    with pytest.raises(ValueError, match=r"training.settings.yaml: cannot .*: steps \(1 then, 0 now\)"):
        script.main(forgotten)
    with pytest.raises(ValueError, match="resamples=0: at least 1"):
        script.main(composed(model, tmp_path, "resamples=0"))
    with pytest.raises(ValueError, match="say resume=true to go on"):
        script.main(composed(model, made))
    without = composed(model, tmp_path, "parts=[table1]")
    without.mllm = None
    with pytest.raises(ValueError, match="mllm: no model given"):
        script.main(without)


def test_clicks_needed_are_told_without_a_model(script, tmp_path):
    assert compose_config("tables").mllm._target_.endswith("Osprey.from_checkpoint")
    config = composed("null", tmp_path, "parts=[fig3]")
    assert config.mllm is None and script.main(config) == 0
    assert section(tmp_path, "fig3").tables[0].rows[0][0] == "refshapes"


def test_settings_of_a_part_may_change_until_it_is_begun(script, model, tmp_path):
    assert script.main(composed(model, tmp_path, "parts=[improvement]", "complexity.limit=1")) == 0  # left out
    config = composed(model, tmp_path, "resume=true", "parts=[fig3]", "complexity.limit=2", "improvement.limit=1")
    assert script.main(config) == 0
    with pytest.raises(ValueError, match=r"complexity.settings.yaml: .*fig3 .*settings: limit \(2 then, 3 now"):
        script.main(composed(model, tmp_path, "resume=true", "parts=[fig3]", "complexity.limit=3"))


def test_without_steps_the_trainings_are_left_out(script, model, tmp_path):
    assert script.main(composed(model, tmp_path, "parts=[table4,table5,table6,improvement]")) == 0
    assert not list((tmp_path / "cells").iterdir())
    text = (tmp_path / "page" / "tiny.md").read_text()
    assert text.count("Not run: training.steps=0") == 3 and "Not run: improvement.steps=0" in text


# --- statistics -----------------------------------------------------------------------------------------------------


def arm_of(ious, union=100, keys=None):
    ious = np.asarray(ious, float)
    ones = np.ones_like(ious)
    terms = np.stack([ious * union, ones * union, ious, ones, ious, ones], 1)
    keys = keys or [f"s{number}" for number in range(len(ious))]
    return Arm(keys, terms, np.array([f"{key}.png" for key in keys]))


def test_a_gain_is_paired_by_sample():
    random = np.random.default_rng(0)
    easy = random.uniform(0.2, 0.9, 60)
    base, better = arm_of(easy), arm_of(easy + 0.05 + random.normal(0, 0.01, 60))
    order = random.permutation(60)
    shuffled = Arm([better.keys[k] for k in order], better.terms[order], better.image[order])
    apart, found = ciou(base, 500, 0), gain(base, shuffled, 500, 0)
    assert found == gain(base, better, 500, 0)
    assert 0.04 < found.low < found.value < found.high < 0.06, "the spread of the samples falls out"
    assert apart.high - apart.low > 5 * (found.high - found.low) and verdict(found) == "appears"
    assert verdict(gain(better, base, 500, 0)) == "the opposite appears"
    assert verdict(gain(base, base, 500, 0)) == "not shown: the interval holds 0"
    with pytest.raises(ValueError, match="60 and 59, 59 in both"):
        gain(base, Arm(base.keys[:59], base.terms[:59], base.image[:59]), 10, 0)


def test_a_single_picture_has_no_interval_and_nothing_is_concluded_from_it():
    arms = [arm_of([0.5, 0.7]), arm_of([0.9, 0.8])]
    for arm in arms:
        arm.image[:] = "one.png"
    difference = gain(*arms, 50, 0)
    assert (
        ciou(arms[0], 50, 0).percent() == "60.00 [\N{EN DASH}]" and difference.percent(True) == "+25.00 [\N{EN DASH}]"
    )
    assert verdict(difference) == "not shown: too few pictures for an interval"
    assert not ciou(arm_of([0.5, 0.7]), 50, 0).untold, "two pictures have one"


def test_trainings_of_several_seeds_are_no_further_pictures():
    once = arm_of(np.random.default_rng(1).uniform(0.2, 0.9, 40))
    joined = Arm.joined([once, once, once])
    assert len(joined.keys) == 120 == len(set(joined.keys)) and joined.ciou == pytest.approx(once.ciou)
    alone, together = ciou(once, 500, 0), ciou(joined, 500, 0)
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))


# --- parts ------------------------------------------------------------------------------------------------------------


def test_a_member_and_the_words_that_give_it(model):
    given = expand_checkpoints([f"mllm={model}", "mllm.max_batch=16", "device=cpu", "segmenter.with_flip=true"])
    config = compose_config("tables", [*given, "out=x"])
    OmegaConf.resolve(config)
    words = member_words("mllm", config.mllm, config)
    assert words == ["mllm=nano", f"mllm.path={value_word(str(model))}", "mllm.max_batch=16"]
    assert member_words("segmenter", config.segmenter, config) == [
        "segmenter=simpleclick_nano",
        "segmenter.with_flip=true",
    ]
    again = compose_config("evaluate", ["out=x", "device=cpu", *words])
    OmegaConf.resolve(again)
    assert again.mllm == config.mllm and build(again.mllm).dialogue == "nano"
    added = compose_config("tables", ["mllm=endpoint", "mllm.path=X", "+mllm.extra.repetition_penalty=1.05", "out=x"])
    words = member_words("mllm", added.mllm, added)
    assert "++mllm.extra.repetition_penalty=1.05" in words
    assert compose_config("evaluate", ["out=x", *words]).mllm.extra == added.mllm.extra
    for value in (None, True, 0.5, 3, "a b,[c]", 'it\'s "so"', "null", "True", "nan", "7", [1, "x y"], "runs/a.json"):
        read = compose_config("evaluate", [f"out={value_word(value)}"]).out
        assert read == value and type(read) is type(OmegaConf.create([value])[0])
    with pytest.raises(ValueError, match="'data' is no key=value"):
        named_settings(["a: data"])
    with pytest.raises(ValueError, match="a name of its own"):
        named_settings(["a: data=x", "a: data=y"])


def test_a_timed_cell_begins_anew(tmp_path):
    cells = Cells(tmp_path, tell=lambda line: None)
    words = (*SMALL.split(), "data.limit=2", "policy=center", "segmenter=graphcut", "report=false", "boundary=false")
    cell = Cell("evaluate", "timed", words, whole=True)
    (tmp_path / "timed.trajectories.jsonl").write_text('{"cut')
    done = cells.run(cell)
    assert len(list(read_predictions(done.path))) == 2 and not done.skipped and cells.run(cell) == done
    assert done.command.endswith("boundary=false out=OUT/timed.json") and "python scripts/evaluate.py" in done.command


def test_what_a_page_shows_is_text(tmp_path):
    plot = Plot("p", "a plot", "<svg></svg>")
    (tmp_path / "p.png").write_bytes(b"png")
    table = Table(["a", "run"], [["x_1 | <b>", "cell"]], "c*")
    odd = Section(
        "odd", "Odd", "A < B", ["1 < 2"], [table], [plot], ["note"], [["cell", "python x"]], 2.0, 1.0, ["cell"]
    )
    odd.save(tmp_path / "odd.json")
    assert Section.load(tmp_path / "odd.json") == odd
    write_pages(tmp_path / "docs" / "r", title="T", facts=["f"], sections=[odd], folder=tmp_path)
    text, page = (tmp_path / "docs" / "r.md").read_text(), (tmp_path / "docs" / "r.html").read_text()
    assert "| x\\_1 \\| &lt;b> | cell |" in text and "A &lt; B" in text and "left out of: cell" in text
    assert "x_1 | &lt;b&gt;" in page and "<svg></svg>" in page and "1 &lt; 2" in page
    assert (tmp_path / "docs" / "r_p.png").read_bytes() == b"png"
    assert Interval(0.5, 0.4, 0.6).percent() == "50.00 [40.00, 60.00]"


def test_cells_of_other_weights_are_not_mixed_with_new_ones(script, tmp_path):
    write_nano(tmp_path / "model")
    given = ("parts=[table1]", "limit=1", "max_clicks=1")
    assert script.main(composed(tmp_path / "model", tmp_path / "out", *given)) == 0
    page = tmp_path / "out" / "page" / "tiny.md"
    assert f"at commit {git_hash()}." in page.read_text()
    assert script.main(composed(tmp_path / "model", tmp_path / "out", *given, "resume=true")) == 0
    write_nano(tmp_path / "model", seed=1)
    with pytest.raises(
        ValueError, match=r"weights.json: the weights of mllm are others than when these runs were made"
    ):
        script.main(composed(tmp_path / "model", tmp_path / "out", *given, "resume=true"))


def test_weights_that_are_elsewhere_are_not_looked_for(tmp_path):
    given = ["mllm=endpoint", "mllm.path=Qwen/Qwen3-VL-8B-Instruct", f"out={tmp_path}", *SETTINGS]
    config = compose_config("tables", expand_checkpoints(given))
    OmegaConf.resolve(config)
    assert Setup(config, Cells(tmp_path)).weights() == {}


def test_figure_3_says_which_way_intervals_are_apart():
    low, high, none = Interval(1, 0.9, 1.1), Interval(3, 2.9, 3.1), Interval(1, float("nan"), float("nan"))
    told = [_apart(*pair) for pair in ((low, high), (high, low), (low, low), (low, none))]
    assert told == [
        "intervals apart",
        "intervals apart, the other way round",
        "intervals overlap",
        "too few pictures for intervals",
    ]


def setup_of(tmp_path, *words):
    config = compose_config("tables", expand_checkpoints([*words, f"out={tmp_path / 'out'}"]))
    OmegaConf.resolve(config)
    return Setup(config, Cells(tmp_path))


@pytest.mark.parametrize("reward", ["true_iou", "segmenter_score", "predicted_iou", "expected_iou"])
def test_every_reward_can_be_asked_for(tmp_path, model, reward):
    setup = setup_of(tmp_path, f"mllm={model}", f"reward={reward}")
    assert setup.reward[0] == f"reward={reward}"
    compose_config("evaluate", ["out=x", *setup.reward])


def test_the_models_of_all_arms_are_run_as_the_one_of_the_tables(tmp_path, model):
    setup = setup_of(tmp_path, f"mllm={model}", "mllm.max_batch=16", "mllm.dtype=bfloat16", "mllm.dialogue=nano")
    write_nano(tmp_path / "arm", seed=1)
    words = setup.model(tmp_path / "arm")
    read = compose_config("evaluate", ["out=x", *words]).mllm
    assert (read.path, read.max_batch, read.dtype) == (str(tmp_path / "arm"), 16, "bfloat16")
    assert read.dialogue is None, "an arm may have learnt another one"


def test_table_3_calibrates_by_itself(tmp_path, model, monkeypatch):
    asked = []

    def judged(setup, name, data, limit, reward):
        asked.append(reward)
        raise KeyboardInterrupt  # the first cell is enough

    monkeypatch.setattr(judging, "_judged", judged)
    setup = setup_of(tmp_path, f"mllm={model}", "reward.calibration=FILE", "parts=[table3]")
    with pytest.raises(KeyboardInterrupt):
        judging.table3(setup)
    assert "reward.calibration=FILE" in setup.reward and not any("calibration" in word for word in asked[0])


def test_weights_that_trainings_begin_from_are_among_those_that_may_not_change(tmp_path, model):
    write_nano(tmp_path / "start")
    given = (f"mllm={model}", f"training.start={tmp_path / 'start'}", "training.steps=1", "parts=[table4]")
    before = setup_of(tmp_path, *given).weights()
    write_nano(tmp_path / "start", seed=1)
    after = setup_of(tmp_path, *given).weights()
    assert before["training.start"] != after["training.start"] and before["mllm"] == after["mllm"]
    assert "training.start" not in setup_of(tmp_path, *given, "parts=[table1]").weights()


@pytest.mark.parametrize("name", names("scale"))
def test_a_scale_of_the_paper_names_what_every_run_takes(name):
    given = [f"scale={name}", "mllm.path=/m", "segmenter.path=/s.pth", "root=/data/sets", "out=o", "limit=5"]
    config = compose_config("tables", given)
    OmegaConf.resolve(config)
    assert not OmegaConf.missing_keys(config) and config.limit == 5
    datasets = named_settings(list(config.datasets))
    assert list(datasets) == ["refcoco", "refcoco+", "refcocog", "dis5k", "thinobject5k"]
    assert {config.easy, config.hard} <= set(datasets)
    for words in datasets.values():
        assert compose_config("evaluate", [*words, "out=x"]).data.root == "/data/sets"
    for part, entry in ((config.training, "train"), (config.improvement, "improve")):
        compose_config("simulate", [*words_of(part.simulate, "simulate"), "out=x"])
        words = [*words_of(part.data, "data"), *words_of(part.settings, "settings")]
        learnt = compose_config(entry, [*words, "data.trajectories=x", "out=x"])
        assert learnt.train.epochs == 2 and learnt.train.lr == 1e-5
    for text in (config.filtering.data, config.filtering.train):
        compose_config("filtering", [*words_of(text, "filtering"), "out=x"])
    compose_config("evaluate", [*words_of(config.training.box_segmenter, "box_segmenter"), "out=x"])
    trained = OmegaConf.load(CONFIG_DIR / "tables.yaml")
    assert trained.training.steps and trained.improvement.steps, "one command makes every part"


def test_a_cell_that_several_rows_name_counts_once():
    one, other = (
        Done(name, Path(name), f"python {name}", 2.0, 1.5, name == "a", commit) for name, commit in ("ay", "bx")
    )
    assert made_by([one, other, one]) == {
        "commands": [["a", "python a"], ["b", "python b"]], "seconds": 4.0, "cpu_seconds": 3.0,
        "samples_skipped": ["a"], "commits": ["x", "y"],
    }  # fmt: skip


def test_whiskers_reach_to_the_ends_of_the_interval():
    intervals = Interval(0.5, 0.4, 0.7), Interval(0.5, 0.6, 0.7), Interval(0.5, float("nan"), float("nan"))
    values, errors = plots._errors(intervals, 100)
    assert values.tolist() == [50, 50, 50]
    assert errors == pytest.approx(np.array([[10, 0, 0], [20, 20, 0]]))


def test_weights_are_told_by_name_size_and_either_end(tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "_PROBED", 4)
    names = ("a.safetensors", "a.bin")
    contents = (b"aaaabbbbcccc", b"aaaabbbbcccd", b"xaaabbbbcccc", b"aaaabbbbbcccc")
    made = []
    for number, (name, content) in enumerate((name, content) for name in names for content in contents):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / name).write_bytes(content)
        made.append(shared._digest(tmp_path / str(number)))
    assert len(set(made)) == 8 and shared._digest(tmp_path / "0" / "a.safetensors") == made[0]


def test_columns_of_numbers_stand_on_the_right_and_signs_of_markdown_are_text():
    rows = [["a", "+1.00 [\N{EN DASH}]", "3", "", "*x*"], ["b", "-nan [0.1, 0.2]", "\N{EN DASH}", "", "7"]]
    table = Table(["data", "gain", "n", "none", "run"], rows)
    part = Section("p", "P", "c", [], [table], [Plot("q", "a_b", "")])
    assert html("T", [], [part]).count("<th class='number'>") == 3
    text = markdown("T", [], [part], Path("my page"))
    assert "| b | -nan [0.1, 0.2] | \N{EN DASH} |  | 7 |" in text and "\\*x\\* |" in text
    assert "![a\\_b](my%20page_q.png)" in text and "left out" not in text and "The runs took" not in text
