"""Which descriptions take a relation, and on whom a wrong click falls."""

import json

import numpy as np
import pytest

from segagent.data.refshapes import RefShapes, grammar, meaning
from segagent.types import Click


@pytest.fixture
def relations(benchmark_file):
    return benchmark_file("relations")


def test_wrong_clicks_are_told_apart(relations):
    dataset = RefShapes(subset="refshapesg", split="val", size=128, limit=60)
    chosen = dict(relations.ambiguous(dataset))
    told = set()
    for index, phrase in chosen.items():
        scene = dataset.scene(index)
        target = meaning.denotes(phrase, scene)
        anchors = {meaning.denotes(other, scene) for relation in phrase.relations for other in relation.others}
        for number, thing in enumerate(scene.things):
            y, x = np.argwhere(scene.labels == number)[0]
            like = thing.noun == (phrase.noun or thing.noun) and thing.color == (phrase.color or thing.color)
            like = like and thing.pattern == (phrase.pattern or thing.pattern)
            is_of = {number == target: "target", number in anchors: "anchor"}.get(
                True, "rival" if like else "elsewhere"
            )
            assert relations.place_of(Click(int(x), int(y)), dataset, index, phrase) == is_of
            told.add(is_of)
        assert relations.place_of(None, dataset, index, phrase) == "elsewhere"
    assert told == set(relations.WHERE) and 10 < len(chosen) < 60
    texts = (
        "the star next to the moon",
        "the star above the moon and below the key",
        "second star from the left",
        "left star",
    )
    kinds = {relations.kind_of(grammar.parse(text)) for text in texts}
    assert kinds == {"near", "two relations", "order", "place"}


def test_figures_are_written(relations, tmp_path, capsys):
    relations.main(["mllm=nano", "device=cpu", "--samples", "12", "--out", str(tmp_path / "r.json")])
    made = json.loads((tmp_path / "r.json").read_text())["figures"]
    assert made["all"]["n"] == sum(one["n"] for kind, one in made.items() if kind != "all")
    assert sum(made["all"][name] for name in relations.WHERE) == pytest.approx(1)
    assert "refshapesg: " in capsys.readouterr().out
