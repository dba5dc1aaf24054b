"""A served model: nothing lost, nothing twice, order kept, whatever the server does; clear words when it is down."""

import email.utils
import json
import pickle
import socket
import time

import numpy as np
import pytest
from PIL import Image

from segagent.dialogue import Observation
from segagent.mllm import Endpoint
from segagent.mllm.endpoint_choices import choice_weights
from segagent.mllm.endpoint_transport import _Passing
from segagent.mllm.testing_endpoint import ProtocolServer, answer_to, picture_hash
from segagent.types import RefusedError


def observations(count, size=(20, 30)):
    random = np.random.default_rng(count)
    return [
        Observation(
            random.integers(0, 256, (*size, 3), dtype=np.uint8), "be brief" if index % 2 else "", f"thing {index}"
        )
        for index in range(count)
    ]


def endpoint(server, **changes):
    options = {"path": "tiny", "url": server.url, "backoff": 0.01, "timeout": 30.0, "api_key_variable": ""}
    return Endpoint(**{**options, **changes})


def texts(made):
    return [[completion.text.split("|")[:2] for completion in row] for row in made]


def wanted(made_for, num_samples=1):
    return [[[row.prompt, picture_hash(row.image)]] * num_samples for row in made_for]


def test_answers_come_back_in_order_with_pictures_intact_and_requests_run_side_by_side():
    rows = observations(20)
    # The first are the slowest, so that answers arrive out of order.
    with ProtocolServer(lambda body, count: ("slow", 0.2 if "thing 0" in str(body) else 0.02)) as server:
        made = endpoint(server, concurrency=4).generate(rows)
    assert texts(made) == wanted(rows)
    assert all(row[0].finished and row[0].log_prob == -0.5 for row in made)
    assert len(server.bodies) == 20 and 2 <= server.most_at_once <= 4


def test_the_request_says_what_the_observation_says():
    rows = observations(2)
    with ProtocolServer() as server:
        endpoint(server, extra={"top_k": 5, "max_tokens": None, "max_completion_tokens": 9}).generate(rows)
    body = next(body for body in server.bodies if "thing 1" in str(body))
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][0]["content"] == "be brief" and body["messages"][1]["content"][1]["text"] == "thing 1"
    assert (body["temperature"], body["top_k"], body["max_completion_tokens"]) == (0.0, 5, 9)
    assert body["top_p"] == 1, "else it would be that of the checkpoint"
    assert "max_tokens" not in body and "n" not in body and "seed" not in body


FAILURES = [
    (429, {"Retry-After": "0"}, json.dumps({"error": {"message": "slow down"}})),
    (500, {}, "<html>Internal Server Error</html>"),
    (503, {}, json.dumps({"error": "loading"})),
    (408, {}, ""),
    (200, {}, '{"choices": [{"index": 0, "mess'),
    (200, {}, "[]"),
    (200, {}, json.dumps({"choices": []})),
    (200, {}, json.dumps({"choices": [{"index": 0, "message": {}}]})),
    (200, {}, json.dumps({"choices": [{"index": 0, "message": {"content": 7}}]})),
    (200, {}, json.dumps({"choices": [None]})),
    "drop",
    "cut",
    ("slow", 15.0),
    "trickle",
]


@pytest.mark.parametrize("failure", FAILURES, ids=[str(failure)[:24] for failure in FAILURES])
def test_a_failure_that_passes_costs_an_attempt_and_nothing_else(failure):
    rows = observations(3)
    waits = failure == "trickle" or failure[0] == "slow"
    with ProtocolServer(lambda body, count: failure if count == 0 else None) as server:
        made = endpoint(server, timeout=5.0 if waits else 30.0).generate(rows)
    assert texts(made) == wanted(rows)
    assert sorted(server.seen.values()) == [1, 1, 1], "each request came twice"


def test_a_mixture_of_failures_loses_and_duplicates_nothing():
    rows = observations(40)

    def behave(body, count):
        number = int(body["messages"][-1]["content"][1]["text"].split()[1])
        return FAILURES[:12][(number + 5 * count) % 12] if count < number % 4 else None

    with ProtocolServer(behave) as server:
        made = endpoint(server, timeout=30.0).generate(rows)
    assert texts(made) == wanted(rows)
    assert len(server.bodies) == sum(1 + number % 4 for number in range(40))


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(as_date):
    times = []

    def behave(body, count):
        times.append(time.time())
        asked = email.utils.formatdate(time.time() + 2, usegmt=True) if as_date else "0.7"
        return (429, {"Retry-After": asked}, "wait") if count == 0 else None

    with ProtocolServer(behave) as server:
        endpoint(server).generate(observations(1))
    assert times[1] - times[0] >= (0.9 if as_date else 0.7)  # a date has whole seconds


def test_a_server_that_asks_for_too_long_a_wait_is_given_up():
    with (
        ProtocolServer(lambda body, count: (429, {"Retry-After": "3600"}, "quota")) as server,
        pytest.raises(OSError, match=r"after 1 of 6 attempts .*quota.* asks to wait 3600 s, longest_wait is 60"),
    ):
        endpoint(server).generate(observations(1))


def test_waits_double_up_to_the_longest_and_are_jittered():
    transport = Endpoint(path="tiny", backoff=2.0, longest_wait=10.0)._transport
    for attempt, most in ((1, 2.0), (2, 4.0), (3, 8.0), (4, 10.0), (5, 10.0)):
        waits = [transport._wait(attempt, _Passing("down")) for _ in range(50)]
        assert all(0.5 * most <= wait <= most for wait in waits) and len(set(waits)) > 40
    assert transport._wait(1, _Passing("busy", 7.0)) == 7.0, "as long as the server asks for"
    assert transport._wait(3, _Passing("busy", 1.0)) >= 4.0, "and not shorter than otherwise"


def test_a_server_that_stays_down_is_given_up_after_all_attempts():
    with ProtocolServer(lambda body, count: (500, {}, "down")) as server:
        with pytest.raises(OSError, match=r"gave up after 4 of 4 attempts \(status 500: down\)"):
            endpoint(server, attempts=4).generate(observations(1))
        assert len(server.bodies) == 4


def test_n_samples_come_with_one_request():
    rows = observations(3)
    with ProtocolServer() as server:
        made = endpoint(server).generate(rows, num_samples=4, temperature=1.0, seeds=[7, 8, 9])
    assert texts(made) == wanted(rows, 4) and len(server.bodies) == 3
    assert [[completion.text.split("|")[3] for completion in row] for row in made] == [list("0123")] * 3
    assert [completion.log_prob for completion in made[0]] == [-0.5, -0.75, -1.0, -1.25]


def test_with_a_request_per_sample_the_kth_follows_from_seed_and_k_alone():
    rows = observations(3)
    with ProtocolServer() as server:
        model = endpoint(server, request_per_sample=True)
        many = model.generate(rows, num_samples=3, temperature=1.0, seeds=[7, 8, 9])
        alone = model.generate(rows[1:2], num_samples=2, temperature=1.0, seeds=[8])
    assert texts(many) == wanted(rows, 3)
    assert [completion.text for completion in many[1]][:2] == [completion.text for completion in alone[0]]
    assert len({completion.text.split("|")[2] for row in many for completion in row}) == 9, "nine seeds"


def test_a_server_that_gives_fewer_samples_than_asked_for_is_asked_for_the_rest():
    rows = observations(2)

    def behave(body, count):
        choices = answer_to(body)["choices"][: 2 if body.get("n", 1) > 2 else 1]
        return 200, {}, json.dumps({"choices": [*choices, choices[0]]})  # and one of them twice

    with ProtocolServer(behave) as server:
        made = endpoint(server).generate(rows, num_samples=4, temperature=0.7)
    assert texts(made) == wanted(rows, 4)
    assert len({completion.text for completion in made[0]}) == 4, "none of them twice"


@pytest.mark.parametrize("request_per_sample, requests", [(True, 3), (False, 2)])
def test_a_greedy_first_sample_is_a_request_of_its_own(request_per_sample, requests):
    rows = observations(2)
    with ProtocolServer() as server:
        made = endpoint(server, request_per_sample=request_per_sample).generate(
            rows, num_samples=3, temperature=0.7, seeds=[1, 2], greedy_first=True
        )
    assert texts(made) == wanted(rows, 3) and len(server.bodies) == 2 * requests
    for row in rows:
        bodies = [body for body in server.bodies if row.prompt in str(body["messages"])]
        (greedy,) = [body for body in bodies if body["temperature"] == 0]
        assert "seed" not in greedy and "n" not in greedy
        assert all("seed" in body for body in bodies if body is not greedy)


def test_greedy_is_asked_for_once():
    with ProtocolServer() as server:
        made = endpoint(server).generate(observations(2), num_samples=5)
    assert len(server.bodies) == 2 and [len(row) for row in made] == [5, 5]
    assert all(body["temperature"] == 0 and "seed" not in body for body in server.bodies)


@pytest.mark.parametrize("mode", ["vllm", "last_message"])
def test_a_forced_prefix_is_gone_on_from(mode):
    with ProtocolServer() as server:
        made = endpoint(server, prefix_mode=mode).generate(observations(2), prefixes=["Current IOU: 3,", ""])
    first, second = sorted(server.bodies, key=lambda body: "thing 1" in str(body))
    assert first["messages"][-1] == {"role": "assistant", "content": "Current IOU: 3,"}
    assert first.get("continue_final_message", False) is (mode == "vllm")
    assert second["messages"][-1]["role"] == "user" and "continue_final_message" not in second
    assert not made[0][0].text.startswith("Current")


def test_a_forced_prefix_is_refused_where_the_server_cannot():
    with ProtocolServer() as server:
        model = endpoint(server, prefix_mode="refuse")
        with pytest.raises(ValueError, match="prefix_mode=refuse"):
            model.generate(observations(1), prefixes=["Current"])
        assert len(model.generate(observations(1), prefixes=[""])) == 1


def test_a_cut_reply_is_not_finished_and_a_refusal_is_text():
    answers = iter(
        [
            {"message": {"content": "Positive point: (1"}, "finish_reason": "length"},
            {"message": {"content": None, "refusal": "I cannot help"}, "finish_reason": "stop"},
        ]
    )
    with ProtocolServer(lambda body, count: (200, {}, json.dumps({"choices": [next(answers)]}))) as server:
        cut, refused = (row[0] for row in endpoint(server, concurrency=1).generate(observations(2)))
    assert cut.text == "Positive point: (1" and not cut.finished and cut.log_prob is None
    assert refused.text == "I cannot help" and refused.finished


def test_no_server_at_the_start_is_told_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    begun = time.time()
    with pytest.raises(OSError, match=rf"no server at {url} .*; start it, or set mllm.url"):
        Endpoint(path="tiny", url=url, backoff=60.0).generate(observations(1))
    assert time.time() - begun < 25


def test_a_server_that_goes_down_in_the_middle_stops_the_call_quickly_and_can_be_gone_on_with():
    rows = observations(12)
    up = {"until": 6}

    def behave(body, count):
        return "drop" if len(server.bodies) > up["until"] else None

    with ProtocolServer(behave) as server:
        model = endpoint(server, attempts=3, concurrency=2)
        with pytest.raises(OSError, match=r"gave up after 3 of 3 attempts .*resume=true"):
            model.generate(rows)
        asked = len(server.bodies)
        assert asked <= 6 + 2 * 3, "the rest is not tried when one has failed for good"
        up["until"] = 10**6
        assert texts(model.generate(rows)) == wanted(rows)


def test_the_model_must_be_served():
    with ProtocolServer(models=("big", "small")) as server, pytest.raises(ValueError, match="serves big, small"):
        endpoint(server).generate(observations(1))


def test_a_server_without_a_list_of_models_is_fine():
    with ProtocolServer(models=None) as server:
        assert texts(endpoint(server).generate(observations(2))) == wanted(observations(2))


def test_a_refusal_of_the_key_is_of_the_whole_run_and_not_of_a_sample():
    with ProtocolServer(lambda body, count: (401, {}, "no")) as server, pytest.raises(ValueError) as refused:
        endpoint(server).generate(observations(1))
    assert "refused with status 401" in str(refused.value) and not isinstance(refused.value, RefusedError)


def test_what_the_server_refuses_is_not_asked_again():
    words = json.dumps({"error": {"message": "image too large"}})
    with ProtocolServer(lambda body, count: (400, {}, words)) as server:
        with pytest.raises(RefusedError, match="refused with status 400: image too large"):
            endpoint(server, concurrency=1).generate(observations(4))
        assert len(server.bodies) == 1


def test_a_redirect_names_its_target():
    moved = (308, {"Location": "http://elsewhere/v1"}, "")
    with ProtocolServer(lambda body, count: moved) as server, pytest.raises(ValueError, match="http://elsewhere/v1"):
        endpoint(server).generate(observations(1))


def test_the_key_comes_from_the_environment_and_shows_nowhere(monkeypatch, caplog):
    monkeypatch.setenv("TINY_KEY", "sk-secret")
    with caplog.at_level("DEBUG"), ProtocolServer(key="sk-secret") as server:
        model = endpoint(server, api_key_variable="TINY_KEY")
        model.generate(observations(1))
        assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    with ProtocolServer(key="another") as server:
        model = endpoint(server, api_key_variable="TINY_KEY")
        with pytest.raises(ValueError, match=r"status 401: bad key: \*\*\*; .* environment variable TINY_KEY, set"):
            model.generate(observations(1))
    assert "sk-secret" not in caplog.text + repr(model) + repr(vars(model))
    with pytest.raises(TypeError, match="holds a key"):
        pickle.dumps(model)


def test_without_a_key_the_message_says_which_variable(monkeypatch):
    monkeypatch.delenv("TINY_KEY", raising=False)
    with ProtocolServer(key="k") as server, pytest.raises(ValueError, match="variable TINY_KEY, not set"):
        endpoint(server, api_key_variable="TINY_KEY").generate(observations(1))


def test_pictures_are_sent_at_the_size_that_is_reported_as_seen():
    rows = observations(1, size=(37, 101))
    with ProtocolServer() as server:
        model = endpoint(server, multiple=28, min_pixels=28 * 28, max_pixels=100 * 28)
        made = model.generate(rows)
    width, height = model.seen_size(width=101, height=37)
    assert (width, height) == (84, 28)
    resized = np.asarray(Image.fromarray(rows[0].image).resize((width, height), Image.Resampling.BICUBIC))
    assert made[0][0].text.split("|")[1] == picture_hash(resized)
    with pytest.raises(ValueError, match=r"mllm.multiple=0"):
        Endpoint(path="tiny").seen_size(width=10, height=10)


def test_an_empty_batch_asks_nobody():
    assert Endpoint(path="tiny", url="http://127.0.0.1:9/v1").generate([]) == []


def test_it_cannot_be_trained():
    with pytest.raises(ValueError, match="cannot be trained"):
        Endpoint(path="tiny").encode(observations(1), ["Finish"])


@pytest.mark.parametrize(
    "options, words",
    [
        ({"path": ""}, "mllm.path"),
        ({"url": "127.0.0.1:8000"}, "url='127.0.0.1:8000'"),
        ({"url": "http://user:pass@host/v1"}, "credentials"),
        ({"prefix_mode": "maybe"}, "choose vllm, last_message or refuse"),
        ({"timeout": 0}, "timeout=0"),
        ({"attempts": 0}, "attempts=0"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"most_concurrency": 0}, "most_concurrency=0"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        Endpoint(**{"path": "tiny", **options})


def test_lists_of_unequal_length_and_wrong_counts_are_refused():
    model = Endpoint(path="tiny")
    for wrong in (
        {"prefixes": ["", ""]},
        {"seeds": [1, 2]},
        {"num_samples": 0, "temperature": 1.0},
        {"temperature": -1},
    ):
        with pytest.raises(ValueError):
            model.generate(observations(1), **wrong)


# --- probabilities of choices ---------------------------------------------------------------------------------------

CHOICES = tuple(f"Current IOU: {number}," for number in range(101))


def told(*tokens):
    """`logprobs.content`: (token, {alternative: probability}) each, the token among its alternatives."""
    return [
        {
            "token": token,
            "logprob": float(np.log(options[token])),
            "top_logprobs": [{"token": one, "logprob": float(np.log(p))} for one, p in options.items()],
        }
        for token, options in tokens
    ]


REPLY = told(
    ("Current", {"Current": 1.0}), (" IOU", {" IOU": 1.0}), (":", {":": 1.0}), (" ", {" ": 1.0}),
    ("8", {"8": 0.6, "7": 0.3, "cat": 0.1}), ("5", {"5": 0.5, "0": 0.25, ",": 0.25}), (",", {",": 1.0}),
    (" Positive", {" Positive": 1.0}),
)  # fmt: skip


def test_probabilities_of_choices_are_read_off_the_servers_tokens():
    weights = dict(zip(CHOICES, choice_weights(REPLY, "", CHOICES), strict=True))
    assert weights["Current IOU: 85,"] == pytest.approx(2 / 3 * 0.5)
    assert weights["Current IOU: 80,"] == weights["Current IOU: 8,"] == pytest.approx(2 / 3 * 0.25)
    assert weights["Current IOU: 7,"] == weights["Current IOU: 74,"] == pytest.approx(1 / 3 / 11)
    assert sum(weights.values()) == pytest.approx(1) and weights["Current IOU: 90,"] == 0
    begun = choice_weights(REPLY[3:], "Current IOU:", CHOICES)
    assert begun == pytest.approx(tuple(weights.values()))
    joined = told((" 85", {" 85": 0.75, " 40": 0.25}), (", ", {", ": 1.0}))
    both = dict(zip(CHOICES, choice_weights(joined, "Current IOU:", CHOICES), strict=True))
    assert both["Current IOU: 85,"] == pytest.approx(0.75) and both["Current IOU: 40,"] == pytest.approx(0.25)
    assert choice_weights(told(("Finish", {"Finish": 1.0})), "", CHOICES) is None
    assert choice_weights(REPLY, "Positive point: (", CHOICES) is None


def answered(content):
    text = "".join(token["token"] for token in REPLY)
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": content}
    return (200, {}, json.dumps({"choices": [choice]}))


def test_choices_are_asked_for_in_the_same_request_and_need_a_server_that_tells():
    with ProtocolServer(lambda body, count: answered({"content": REPLY})) as server:
        (row,) = endpoint(server).generate(observations(1), choices=CHOICES, num_samples=2)
        assert [body["top_logprobs"] for body in server.bodies] == [20]
        assert row[1].weights == row[0].weights == choice_weights(REPLY, "", CHOICES)
        drawn = endpoint(server, request_per_sample=True).generate(
            observations(1), choices=CHOICES, num_samples=2, temperature=1.0
        )
        assert [reply.weights for reply in drawn[0]] == [row[0].weights] * 2
        with pytest.raises(ValueError, match="log_probs=false: an expected IoU needs them"):
            endpoint(server, log_probs=False).generate(observations(1), choices=CHOICES)
    for content in (None, {"content": [{"token": token["token"], "logprob": -1.0} for token in REPLY]}):
        with (
            ProtocolServer(lambda body, count, content=content: answered(content)) as server,
            pytest.raises(ValueError, match=r"tells no top_logprobs.*reward.number=greedy"),
        ):
            endpoint(server).generate(observations(2), choices=CHOICES)
        assert len(server.bodies) <= 2, "asking again would not help"


def test_a_key_of_two_lines_is_refused_without_being_shown(monkeypatch):
    monkeypatch.setenv("TINY_KEY", "sk-first\nsk-second")
    with pytest.raises(ValueError, match="TINY_KEY: holds characters that no header can carry") as told:
        Endpoint(path="tiny", api_key_variable="TINY_KEY").generate(observations(1))
    assert "sk-" not in str(told.value)
