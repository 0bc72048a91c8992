"""Prompts with the same beginning compute it once, and the text stays the same."""
import concurrent.futures
import json
import re
import urllib.request

import pytest

from conftest import PAGE_TOKENS, find_model

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
        assert n_cached == 0 if i == 0 else n_prompt - (8 if PAGE_TOKENS <= 16 else PAGE_TOKENS + 8) < n_cached < n_prompt
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


def ask(url, prompt, n_tokens):
    """Token ids in, token ids out."""
    body = {"prompt": prompt, "max_tokens": n_tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        answer = json.loads(reply.read())
    return answer["choices"][0]["token_ids"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def metric(url, name):
    text = urllib.request.urlopen(url + "/metrics").read().decode()
    found = re.search(rf"^serverd_{re.escape(name)} (\S+)$", text, re.M)
    return float(found.group(1)) if found else 0


@pytest.mark.parametrize("name, options, n_others", [
    ("gemma3", ["--ctx-size", "4096"], 0),  # the windows of the conversation alone are too many
    ("gemma-3-270m-q4_k_m.gguf", ["--ctx-size", "8192"], 1),
])
def test_a_conversation_goes_on_behind_its_last_window(start, tiny_model, name, options, n_others):
    """Six turns of 3,000 tokens in all. Window pages from its middle and its earlier ends go, to later turns and to
    others; those before its end stay."""
    model = find_model(name) if name.endswith(".gguf") else tiny_model(name)
    if not model:
        pytest.skip(f"SERVERD_TEST_MODELS has no {name}")
    server = start(model, "--max-running", "1", *options)
    plain = start(model, "--max-running", "1", "--no-prefix-cache", *options)
    assert metric(server.url, "kv_window_pages_total") > 0
    text = []
    for turn in range(6):
        n_before = len(text)
        text += [5 + (turn * 7919 + i * 104729) % 200 for i in range(450)]
        answer, n_cached = ask(server.url, text, 50)
        expected, n_none = ask(plain.url, text, 50)
        assert answer == expected and n_none == 0
        assert n_cached >= n_before - PAGE_TOKENS
        text += answer
        for other in range(n_others):
            ask(server.url, [5 + (turn * 31 + other * 1009 + i * 7) % 200 for i in range(700)], 2)
    assert metric(server.url, 'dropped_window_pages_total{kind="middle"}') > 0
