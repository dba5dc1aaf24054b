"""The loop: it learns, it can be killed, it writes what it says."""

import csv
import math

import numpy as np
import pytest
import torch

from segagent.segmenters.simpleclick import SimpleClick
from segagent.segmenters.simpleclick_checkpoint import load_simpleclick
from segagent.training.optimization import OptimizerSettings
from segagent.training.training_log import CsvTable


def losses(path):
    with (path / "train.csv").open() as file:
        return [(row["step"], row["loss"], row["iou"], row["lr"], row["gradient_norm"]) for row in csv.DictReader(file)]


def weights(trainer):
    return trainer.network.state_dict()


def same(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.usefixtures("blank_plots")
def test_stopped_and_resumed_is_bitwise_the_run_that_was_not(small, tmp_path):
    whole = small.trainer(tmp_path / "whole")
    begun = {key: value.clone() for key, value in weights(whole).items()}
    whole.run()
    small.trainer(tmp_path / "cut").run(stop_at=3)
    torch.rand(11)  # another process has another past
    resumed = small.trainer(tmp_path / "cut")
    assert resumed.run(resume=True).step == 6
    assert same(weights(whole), weights(resumed))
    assert all(not torch.equal(begun[key], value) for key, value in weights(whole).items()), "every weight moved"
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut") and len(losses(tmp_path / "whole")) == 6
    tables = [(tmp_path / name / "validation.csv").read_text() for name in ("whole", "cut")]
    assert tables[0] == tables[1] and len(tables[0].splitlines()) == 4
    assert same(
        load_simpleclick(tmp_path / "whole" / "best").state_dict(),
        load_simpleclick(tmp_path / "cut" / "best").state_dict(),
    )


@pytest.mark.usefixtures("blank_plots")
def test_a_kill_between_checkpoints_loses_no_row_and_repeats_none(small, tmp_path, run_until_killed):
    small.trainer(tmp_path / "whole", checkpoint_every=2).run()
    killed = small.trainer(tmp_path / "killed", checkpoint_every=2)
    run_until_killed(killed, steps=5)
    assert len(losses(tmp_path / "killed")) == 5, "the last checkpoint is of step 4"
    (tmp_path / "killed" / "train.csv").open("a").write("6,0.1")  # a row cut off
    small.trainer(tmp_path / "killed", checkpoint_every=2).run(resume=True)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_the_loss_falls_and_the_best_weights_load(small, tmp_path):
    trainer = small.trainer(
        tmp_path, steps=40, batch_size=8, validate_every=20, optimizer=OptimizerSettings(lr=5e-3, warmup=5)
    )
    progress = trainer.run()
    made = [float(loss) for _, loss, *_ in losses(tmp_path)]
    assert sum(made[-10:]) < 0.88 * sum(made[:10]), "normalised, it falls slowly"
    ious = [float(iou) for _, _, iou, *_ in losses(tmp_path)]
    assert sum(ious[-10:]) / 10 > 0.5 > sum(ious[:5]) / 5
    assert SimpleClick.from_checkpoint(tmp_path / "best", device="cpu").network.config == small.config
    assert progress.best_step in (20, 40)
    assert {path.name for path in tmp_path.iterdir()} == {
        "best", "checkpoints", "train.csv", "validation.csv", "curve.png"
    }  # fmt: skip
    names = [path.name for path in trainer.folder.checkpoints()]
    assert names == ["step_0000039", "step_0000040"], "the newest two are kept"
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("blank_plots")
def test_accumulated_passes_are_one_larger_batch(small, tmp_path):
    def gradients(**settings):
        trainer = small.trainer(tmp_path / "x", validation=False, steps=1, **settings)
        trainer.rounds.max_rounds, trainer.rounds.forget = 0, 0.0
        trainer.network.head.dropout.p = 0.0
        trainer.run()
        kept = {name: parameter.grad.clone() for name, parameter in trainer.network.named_parameters()}
        return kept, float(losses(tmp_path / "x")[0][1])

    (whole, loss), (parts, again) = gradients(batch_size=8), gradients(batch_size=4, accumulate=2)
    assert again == pytest.approx(loss, rel=1e-5)
    assert all(torch.allclose(whole[name], parts[name], rtol=1e-3, atol=1e-5) for name in whole)


@pytest.mark.usefixtures("blank_plots")
def test_best_is_the_best_and_not_the_last(small, tmp_path):
    trainer = small.trainer(tmp_path, steps=4, validate_every=1)
    clicks_needed, snapshots = iter([3, 1, 2, 2]), []

    def judge(network, share):
        snapshots.append({key: value.clone() for key, value in network.state_dict().items()})
        return np.where(np.arange(1, 4) >= next(clicks_needed), 0.95, 0.1)[None]

    trainer.validation.curves = judge
    assert trainer.run().best_step == 2
    assert same(load_simpleclick(tmp_path / "best").state_dict(), snapshots[1])


@pytest.mark.usefixtures("blank_plots")
def test_what_cannot_go_on_says_why(small, tmp_path):
    small.trainer(tmp_path, steps=2).run()
    other = small.trainer(tmp_path, config=type(small.config)(**{**vars(small.config), "click_radius": 3}))
    with pytest.raises(ValueError, match=r"step_0000002: is of another network .* resume with the network="):
        other.run(resume=True)
    (tmp_path / "checkpoints" / "step_0000002" / "training.pt").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"step_0000002: cannot be resumed"):
        small.trainer(tmp_path).run(resume=True)
    wild = small.trainer(tmp_path / "wild", optimizer=OptimizerSettings(lr=1e-3))
    with torch.no_grad():
        wild.network.head.conv_seg.bias.fill_(math.nan)
    with pytest.raises(ValueError, match=r"step 1: loss nan has no finite gradient; lower optimizer.lr"):
        wild.run()
    with pytest.raises(ValueError, match="batch_size=0: at least 1"):
        small.trainer(tmp_path, batch_size=0)
    with pytest.raises(ValueError, match="precision=float16 on cpu: for CUDA only; bfloat16 works anywhere"):
        small.trainer(tmp_path, precision="float16")
    with pytest.raises(ValueError, match="precision='half': choose auto, float32"):
        small.trainer(tmp_path, precision="half")


@pytest.mark.usefixtures("blank_plots")
def test_bfloat16_trains_close_to_float32(small, tmp_path):
    def first_loss(precision):
        small.trainer(tmp_path / precision, steps=1, precision=precision).run()
        return float(losses(tmp_path / precision)[0][1])

    rounded, exact = first_loss("bfloat16"), first_loss("float32")
    assert rounded != exact and rounded == pytest.approx(exact, rel=0.02)


def test_tables_refuse_other_columns(tmp_path):
    table = CsvTable(tmp_path / "t.csv", ("step", "loss"))
    table.add(step=1, loss=0.1)
    with pytest.raises(ValueError, match="its columns are"):
        table.add(step=2, iou=0.1)
    assert table.rows() == [{"step": 1.0, "loss": 0.1}]


def test_without_validation_there_is_a_curve_all_the_same(small, tmp_path):
    small.trainer(tmp_path, validation=False, steps=2).run()
    assert (tmp_path / "curve.png").is_file()


@pytest.mark.usefixtures("blank_plots")
def test_another_number_of_processes_is_another_training(small, tmp_path):
    small.trainer(tmp_path, steps=4, validation=False).run(stop_at=2)
    more = small.trainer(tmp_path, steps=4, validation=False)
    more.processes.count = 2
    with pytest.raises(ValueError, match=r"had 4 samples a step, over all processes, and would go on with 8; start"):
        more.run(resume=True)
    assert small.trainer(tmp_path, steps=4, validation=False).run(resume=True).step == 4
