"""Prompts with the same beginning compute it once, and the text stays the same."""
import concurrent.futures
import json
import urllib.request

import pytest

PREAMBLE = "The river Danube rises in the Black Forest and flows through ten countries. " * 12


def complete(url, prompt, key=None, **fields):
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    body = {"prompt": prompt, "max_tokens": 16, "temperature": 0, **fields}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as reply:
        answer = json.loads(reply.read())
    usage = answer["usage"]
    return answer["choices"][0]["text"], usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def test_a_second_prompt_finds_the_first_ones_beginning(start, default_model):
    cached, plain = start(default_model), start(default_model, "--no-prefix-cache")
    for i, question in enumerate(["Where?", "When?", "Where?"]):
        text, n_prompt, n_cached = complete(cached.url, PREAMBLE + question)
        expected, _, n_none = complete(plain.url, PREAMBLE + question)
        assert text == expected and n_none == 0
        assert n_cached == 0 if i == 0 else n_prompt - 8 < n_cached < n_prompt
    assert "serverd_cached_tokens_total" in urllib.request.urlopen(cached.url + "/metrics").read().decode()


def test_other_salts_and_keys_have_caches_of_their_own(start, tiny_model, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("first-key-0123456789\nsecond-key-0123456789\n")
    server = start(tiny_model("llama"), "--api-key-file", keys, wait_ready=True)
    prompt = list(range(3, 67))

    def n_cached(key, **fields):
        return complete(server.url, prompt, key, **fields)[2]

    assert n_cached("first-key-0123456789") == 0
    assert n_cached("first-key-0123456789") == 63
    assert n_cached("second-key-0123456789") == 0
    assert n_cached("first-key-0123456789", cache_salt="a") == 0
    assert n_cached("first-key-0123456789", cache_salt="a") == 63
    assert n_cached("second-key-0123456789", cache_salt="a") == 0


@pytest.mark.slow
def test_many_at_once_with_little_memory_get_what_each_gets_alone(start, default_model):
    """Shared, evicted and preempted prefixes: the same text."""
    plain = start(default_model, "--no-prefix-cache")
    small = start(default_model, "--kv-memory", "16M", "--ctx-size", "512")
    prompts = [PREAMBLE[: 200 + 90 * (i % 4)] + f"Question {i % 6}." for i in range(24)]
    alone = [complete(plain.url, p, max_tokens=40)[0] for p in prompts]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda p: complete(small.url, p, max_tokens=40)[0], prompts))
    assert together == alone
