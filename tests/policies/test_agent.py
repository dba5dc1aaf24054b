"""The policy that is an MLLM: replies -> actions, one call for all, what it sees, what it cannot read."""

import numpy as np
import pytest

from segagent.data.images import through_jpeg
from segagent.dialogue import load_dialogue
from segagent.environment import Environment
from segagent.mllm.base import Completion
from segagent.policies.agent import Agent, _mean
from segagent.rollout import finish
from segagent.types import Action, Box, Click, EndReason


class Scripted:
    """An MLLM that says what it is told, by (description, sample); records its calls."""

    dialogue = "nano"

    def __init__(self, replies):
        self.replies, self.calls = replies, []

    def generate(
        self,
        observations,
        *,
        prefixes=None,
        num_samples=1,
        temperature=0.0,
        seeds=None,
        max_new_tokens=64,
        greedy_first=False,
    ):
        self.calls.append({"observations": observations, "prefixes": prefixes, "seeds": list(seeds), "n": num_samples})
        return [
            [Completion(self.replies[o.prompt][k % len(self.replies[o.prompt])], -1.23456) for k in range(num_samples)]
            for o in observations
        ]


def start(discs, samples, **rules):
    environment = Environment(segmenter=discs, **rules)
    return environment, environment.start_batch(samples)


def test_replies_become_actions_with_their_facts(discs, dataset_of):
    _, states = start(discs, dataset_of(4))
    mllm = Scripted(
        {
            "thing 0": ["Current IOU: 40, Positive point: (500, 250)"],
            "thing 1": ["Negative point: (0, 999)"],
            "thing 2": ["Current IOU: 97, Finish"],
            "thing 3": ["I would click on the red cup, if I were you."],
        }
    )
    actions = [row[0] for row in Agent(mllm=mllm).propose(states)]
    assert len(mllm.calls) == 1 and len(mllm.calls[0]["observations"]) == 4
    assert actions[0].click == Click(30, 10) and actions[0].predicted_iou == 0.4 and actions[0].log_prob == -1.235
    assert actions[0].text == "Current IOU: 40, Positive point: (500, 250)" and actions[0].source == "policy"
    assert actions[1].click == Click(0, 39, False) and actions[1].predicted_iou is None
    assert actions[2].end is EndReason.FINISHED and actions[2].predicted_iou == 0.97
    assert actions[3].end is EndReason.UNPARSABLE and actions[3].text.startswith("I would click")


def test_pixels_of_the_picture_as_the_model_saw_it_come_back_to_those_of_the_picture(discs, dataset_of):
    _, (state,) = start(discs, dataset_of(1))
    mllm = Scripted({load_dialogue("absolute").observe(*see(state)).prompt: ["Positive point: (140, 28)"]})
    mllm.seen_size = lambda *, width, height: (7 * width, 7 * height)
    (action,) = Agent(mllm=mllm, dialogue="absolute").propose([state])[0]
    assert action.click == Click(20, 4)


def see(state):
    return state.sample.image, state.mask, state.sample.text


def test_prose_ends_its_own_trajectory_only(discs, dataset_of):
    mllm = Scripted({"thing 0": ["no idea"], "thing 1": ["Positive point: (500, 500)"]})
    environment, states = start(discs, dataset_of(2), max_clicks=2)
    prose, clicks = finish(states, Agent(mllm=mllm), environment)
    assert prose.end_reason is EndReason.UNPARSABLE and prose.end_text == "no idea" and not prose.steps
    assert clicks.end_reason is EndReason.OUT_OF_CLICKS and len(clicks.steps) == 2


def test_it_sees_the_mask_and_never_the_target(discs, dataset_of):
    mllm = Scripted({"thing 0": ["Positive point: (500, 500)"]})
    agent, environment = Agent(mllm=mllm), Environment(segmenter=discs)
    sample, other = dataset_of(1)[0], dataset_of(1, target=np.ones((40, 60), bool))[0]
    for one in (sample, other):
        state = environment.start(one)
        state = environment.step(state, agent.propose([state])[0][0])
        agent.propose([state])
    first, second, *again = (call["observations"][0].image for call in mllm.calls)
    np.testing.assert_array_equal(first, sample.image)
    assert (second != first).any(2).sum() > 50, "the mask is not painted"
    np.testing.assert_array_equal(again, [first, second])


def test_candidates_of_all_states_are_one_call(discs, dataset_of):
    points = [f"Positive point: ({k}00, 500)" for k in range(3)]
    mllm = Scripted({"thing 0": points, "thing 1": points})
    _, states = start(discs, dataset_of(2))
    rows = Agent(mllm=mllm, temperature=1.0).propose(states, num_candidates=3)
    assert len(mllm.calls) == 1 and mllm.calls[0]["n"] == 3
    assert [[action.click.x for action in row] for row in rows] == [[0, 6, 12]] * 2
    greedy = Agent(mllm=mllm).propose(states, num_candidates=3)
    assert [len(row) for row in greedy] == [1, 1], "greedy candidates would all be alike"


def test_seeds_follow_from_sample_and_clicks_alone(discs, dataset_of):
    mllm = Scripted({f"thing {k}": ["Positive point: (500, 500)"] for k in range(3)})
    agent, environment = Agent(mllm=mllm, temperature=1.0), Environment(segmenter=discs)
    states = environment.start_batch(dataset_of(3))
    agent.propose(states)
    agent.propose(states[1:])
    whole, part = (call["seeds"] for call in mllm.calls)
    assert whole[1:] == part and len(set(whole)) == 3
    agent.propose([environment.step(states[0], agent.propose(states[:1])[0][0])])
    Agent(mllm=mllm, temperature=1.0, seed=1).propose(states[:1])
    later, other = mllm.calls[-2]["seeds"][0], mllm.calls[-1]["seeds"][0]
    assert len({whole[0], later, other}) == 3


def test_prefixes_are_part_of_the_text(discs, dataset_of):
    mllm = Scripted({"thing 0": [" Positive point: (500, 500)"]})
    _, states = start(discs, dataset_of(1))
    agent = Agent(mllm=mllm, prefix="Current IOU: 12,")
    action = agent.propose(states)[0][0]
    assert mllm.calls[-1]["prefixes"] == ["Current IOU: 12,"] and action.predicted_iou == 0.12
    action = agent.propose(states, prefixes=["Current IOU: 60,"])[0][0]
    assert action.text == "Current IOU: 60, Positive point: (500, 500)" and action.predicted_iou == 0.6
    Agent(mllm=mllm).propose(states)
    assert mllm.calls[-1]["prefixes"] is None


def test_a_box_can_be_asked_for_first(discs, dataset_of):
    mllm = Scripted({"thing 0": ["0,0),(500,999)</box>"]})
    environment, (state,) = start(discs, dataset_of(1))
    agent = Agent(mllm=mllm, prefix="Current IOU: 5,", first_prefix="<box>(", takes_boxes=True)
    (action,) = agent.propose([state])[0]
    assert action.box == Box(0, 0, 30, 40) and action.text == "<box>(0,0),(500,999)</box>"
    agent.propose([environment.step(state, action)])
    assert [call["prefixes"] for call in mllm.calls] == [["<box>("], ["Current IOU: 5,"]]


def test_one_candidate_is_greedy_where_the_first_of_several_is(discs, dataset_of):
    asked = []

    class Noted(Scripted):
        def generate(self, observations, *, num_samples, temperature, greedy_first=False, **settings):
            asked.append((num_samples, temperature, greedy_first))
            return super().generate(observations, num_samples=num_samples, **settings)

    _, states = start(discs, dataset_of(1))
    agent = Agent(mllm=Noted({"thing 0": ["Finish"]}), temperature=0.8, greedy_first=True)
    agent.propose(states)
    agent.propose(states, num_candidates=4)
    assert asked == [(1, 0.0, False), (4, 0.8, True)]


@pytest.mark.parametrize("takes_boxes", [True, False])
def test_a_box_alone_is_an_action_where_boxes_are_taken(discs, dataset_of, takes_boxes):
    mllm = Scripted(
        {"thing 0": ["<box>(0,0),(500,999)</box>"], "thing 1": ["<box>(0,0),(9,9)</box> Positive point: (1, 2)"]}
    )
    _, states = start(discs, dataset_of(2))
    box, both = (row[0] for row in Agent(mllm=mllm, takes_boxes=takes_boxes).propose(states))
    assert (box.box == Box(0, 0, 30, 40)) if takes_boxes else (box.end is EndReason.UNPARSABLE)
    assert both.click == Click(0, 0) and both.box is None


def test_the_dialogue_is_the_checkpoints_own_unless_told(discs, dataset_of):
    mllm = Scripted({})
    assert Agent(mllm=mllm).dialogue.scale == 1000
    assert Agent(mllm=mllm, dialogue="released_llava").dialogue.scale == 1
    mllm.dialogue = None
    with pytest.raises(ValueError, match=r"names no dialogue; say policy.dialogue=NAME"):
        Agent(mllm=mllm)
    with pytest.raises(ValueError, match="no dialogue 'spanish'; there are"):
        Agent(mllm=mllm, dialogue="spanish")
    with pytest.raises(ValueError, match="no model given; say mllm=NAME or mllm=FOLDER"):
        Agent(mllm=None)


def test_settings_of_a_reply_reach_the_model(discs, dataset_of):
    _, states = start(discs, dataset_of(2))
    moved = [states[0].replace(steps=("one",)), states[1]]
    given = {}

    class Asked(Scripted):
        def generate(self, observations, **settings):
            given.update(settings, observations=observations)
            return super().generate(observations, **settings)

    mllm = Asked({f"thing {k}": ["(1,1),(500,500)</box>"] for k in range(2)})
    agent = Agent(mllm=mllm, max_new_tokens=7, first_prefix="<box>", jpeg_quality=30, takes_boxes=True)
    agent.propose(moved)
    assert given["max_new_tokens"] == 7 and given["prefixes"] == ["", "<box>"], "one of them begins with a box"
    shown = load_dialogue("nano").observe(states[1].sample.image, states[1].mask, "").image
    np.testing.assert_array_equal(given["observations"][1].image, through_jpeg(shown, 30))
    assert (through_jpeg(shown, 30) != through_jpeg(shown, 75)).any()


def test_samples_of_a_state_follow_from_its_box_too(discs, dataset_of):
    mllm = Scripted({"thing 0": ["Finish"]})
    agent, (environment, (state,)) = Agent(mllm=mllm, temperature=1.0), start(discs, dataset_of(1))
    for one in (state, environment.step(state, Action(box=Box(1, 1, 9, 9)))):
        agent.propose([one])
    assert mllm.calls[0]["seeds"] != mllm.calls[1]["seeds"]


def test_an_expected_iou_is_the_sum_of_all_by_their_probabilities():
    assert _mean([0.0, 0.5, 1.0], [0.2, 0.3, 0.5]) == 0.65 and _mean([0.0, 1.0], None) is None
