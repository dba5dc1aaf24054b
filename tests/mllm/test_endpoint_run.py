"""A whole run against a server that goes down in the middle: what was finished stays, and the run is gone on with."""

import json

import pytest

from segagent.dialogue import load_dialogue
from segagent.environment import Environment
from segagent.mllm import Endpoint
from segagent.mllm.testing_endpoint import ProtocolServer, answer_to
from segagent.run import run
from segagent.types import Action, EndReason


class Asks:
    """The least policy on an MLLM: one greedy reply per state."""

    def __init__(self, mllm):
        self.mllm, self.dialogue = mllm, load_dialogue("nano")

    def propose(self, states, num_candidates=1):
        observations = [
            self.dialogue.observe(state.sample.image, state.mask, f"{state.sample.text} {len(state.clicks)}")
            for state in states
        ]
        actions = []
        for state, (completion,) in zip(states, self.mllm.generate(observations), strict=True):
            height, width = state.mask.shape
            reply = self.dialogue.parse(completion.text, width=width, height=height)
            actions.append([Action(click=reply.click) if reply.click else Action(end=EndReason.FINISHED)])
        return actions


def test_a_run_whose_server_goes_down_stops_with_what_is_finished_and_resumes(tmp_path, discs, dataset_of):
    """Also: the outcome is the one of a run whose server never failed."""
    dataset, environment = dataset_of(9), Environment(segmenter=discs, max_clicks=3)
    dies_after = {"whole": 10**6, "first": 14, "second": 10**6}
    asked = []

    def behave(body, count):
        if len(server.bodies) - sum(asked) > dies_after[name]:
            return "drop"
        prompt = body["messages"][-1]["content"][1]["text"]
        thing, clicks = int(prompt.split()[1]), int(prompt.split()[2])
        reply = f"Positive point: ({100 * thing + 50}, {300 * clicks + 100})" if clicks < 2 + thing % 2 else "Finish"
        answer = answer_to(body)
        answer["choices"][0]["message"]["content"] = reply
        return 200, {}, json.dumps(answer)

    with ProtocolServer(behave) as server:
        for name in ("whole", "first", "second"):
            mllm = Endpoint(path="tiny", url=server.url, api_key_variable="", attempts=2, backoff=0.01)
            out = tmp_path / ("whole.jsonl" if name == "whole" else "t.jsonl")
            settings = {"policy": Asks(mllm), "environment": environment, "out": out, "batch_size": 2}
            if name == "first":
                with pytest.raises(OSError, match=r"gave up after 2 of 2 attempts .* resume=true"):
                    run(dataset, **settings)
                assert 0 < len(out.read_text().splitlines()) < 9
            else:
                summary = run(dataset, resume=name == "second", **settings)
            asked.append(len(server.bodies) - sum(asked))
    assert summary.resumed > 0 and summary.resumed + summary.written == 9
    assert (tmp_path / "t.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
