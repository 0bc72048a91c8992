"""Guessed tokens change nothing but the number of steps: greedy or sampled, with log probabilities, stops and several
choices."""
import json
import re
import urllib.request

import pytest

SOURCE = "".join(f"def step_{i}(value, total):\n    total = total + value * {i}\n    return total\n\n" for i in range(12))
EDIT = f"```python\n{SOURCE}```\nRename the function step_3 to third, and return the whole file."
BODIES = {
    "greedy": {"temperature": 0, "max_tokens": 200},
    "sampled": {"temperature": 0.7, "seed": 5, "max_tokens": 200},
    "hot": {"temperature": 1.3, "top_p": 0.9, "seed": 6, "max_tokens": 120},
    "penalties": {"temperature": 0.5, "seed": 7, "frequency_penalty": 0.2, "repetition_penalty": 1.05, "max_tokens": 150},
    "logprobs": {"temperature": 0, "logprobs": True, "top_logprobs": 3, "max_tokens": 80},
    "stop": {"temperature": 0, "stop": ["step_5", "def step_4"], "max_tokens": 200},
    "least": {"temperature": 0, "min_tokens": 90, "stop": ["return"], "max_tokens": 120},
    "choices": {"temperature": 0.8, "seed": 8, "n": 3, "max_tokens": 80},
}


def answer(url, body):
    body = {"messages": [{"role": "user", "content": EDIT}], **body}
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as reply:
        reply = json.loads(reply.read())
    return reply["choices"], reply["usage"]["completion_tokens"]


def counters(url):
    text = urllib.request.urlopen(url + "/metrics", timeout=10).read().decode()
    found = re.findall(r'serverd_(draft|accepted)_tokens_total\{kind="(\w+)"\} (\d+)', text)
    return {(what, kind): int(n) for what, kind, n in found}


@pytest.fixture(scope="module")
def plain(default_model):
    from conftest import Server
    server = Server(default_model, "--speculation", "off")
    yield server
    assert server.stop() == 0, server.log


@pytest.mark.slow
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_answers_are_the_same_with_and_without(server, plain, body):
    expected = answer(plain.url, body)
    assert answer(server.url, body) == expected
    assert answer(server.url, body) == expected  # now the prefix tree knows what came
    assert not counters(plain.url)


@pytest.mark.slow
def test_guesses_are_right_where_text_is_copied(start, default_model):
    server = start(default_model, "--draft-tokens", "5")
    text, n_tokens = answer(server.url, BODIES["greedy"])
    by_ngram = counters(server.url)
    assert by_ngram["accepted", "ngram"] > n_tokens / 3
    assert by_ngram["draft", "ngram"] >= by_ngram["accepted", "ngram"]
