"""A draft model changes nothing but the number of steps; one that does not fit is refused at start.

The model is slowed down, so that guesses of one that is as large pay."""
import re
import subprocess

import pytest

from conftest import BINARY, clean_environment, find_model
from test_speculation import BODIES, answer, counters

SLOW = ["--device", "fault:inner=cpu;script=slow@1:30x2000000000", "--draft-device", "cpu", "--ctx-size", "2048"]
TEXTS = ["Tell me a story about a fox and a river.", "Explain how bread is baked.", "Why is the sky blue?"]


def texts(url, n_tokens=150, **fields):
    bodies = [{"messages": [{"role": "user", "content": t}], "temperature": 0, "max_tokens": n_tokens, **fields} for t in TEXTS]
    return [answer(url, body) for body in bodies]


def refusal(model, draft, *options):
    command = [BINARY, "--model-path", model, "--draft-model-path", draft, "--port", "0", *options]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120, env=clean_environment())
    assert done.returncode == 1, done.stderr
    assert "draft-model-path" in done.stderr
    return done.stderr


@pytest.mark.slow
def test_the_model_as_its_own_draft_is_right(server, start, default_model):
    drafted = start(default_model, "--draft-model-path", default_model, *SLOW)
    assert re.search(r"draft model: llama, .* KV cache for 16384 tokens", drafted.log)
    assert texts(drafted.url) == texts(server.url)
    found = counters(drafted.url)
    assert found["draft", "model"] > 100
    assert found["accepted", "model"] > 0.95 * found["draft", "model"]
    for name in ("choices", "stop", "logprobs", "penalties"):
        assert answer(drafted.url, BODIES[name]) == answer(server.url, BODIES[name]), name


@pytest.mark.slow
def test_coarser_weights_are_a_good_draft(start):
    model, draft = (find_model(f"SmolLM2-135M-Instruct.{q}.gguf") for q in ("Q8_0", "Q4_0"))
    if not model or not draft:
        pytest.skip("SERVERD_TEST_MODELS has no SmolLM2 in Q8_0 and Q4_0")
    drafted, plain = start(model, "--draft-model-path", draft, *SLOW), start(model, "--speculation", "off")
    assert texts(drafted.url) == texts(plain.url)
    found = counters(drafted.url)
    assert found["draft", "model"] > 100
    assert found["accepted", "model"] > 0.45 * found["draft", "model"]  # also those behind a wrong one
    assert texts(drafted.url, temperature=0.8, seed=3) == texts(plain.url, temperature=0.8, seed=3)


def test_another_vocabulary_is_refused(default_model, tiny_model):
    for arch in ("qwen2", "llama"):
        assert re.search(r"has \d+ tokens, the model's has 49152", refusal(default_model, tiny_model(arch)))
    assert "embeddings" in refusal(default_model, tiny_model("bert"))
    assert "no/such" in refusal(default_model, "/no/such.gguf")


def test_it_is_not_opened_without_speculation(start, tiny_model):
    s = start(tiny_model("llama"), "--draft-model-path", "/no/such.gguf", "--speculation", "off")
    assert "draft-model-path is not used" in s.log


def test_a_draft_that_breaks_is_reported_and_left_alone(start, tiny_model):
    model = tiny_model("llama")
    s = start(model, "--draft-model-path", model, "--device", "fault:inner=cpu;script=slow@1:5x2000000000",
              "--draft-device", "fault:inner=cpu;script=error@3x2000000000")
    body = {"messages": [{"role": "user", "content": "abc"}], "temperature": 0, "max_tokens": 100, "ignore_eos": True}
    expected = answer(start(model).url, body)
    assert answer(s.url, body) == expected
    assert answer(s.url, body) == expected
    assert s.log.count("the draft model is not used any more") == 1
