"""llama-server's dialect as editors and front ends speak it, and fill-ins by a model that can."""
import json
import threading
import time
import urllib.error
import urllib.request

import pytest

from conftest import find_model

CODER = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
BEFORE = "def add(a, b):\n    return "
BEHIND = "\n\nprint(add(1, 2))  # 3\n"


def post(server, path, body):
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)


def get(server, path):
    with urllib.request.urlopen(server.url + path, timeout=30) as reply:
        return json.load(reply)


def events(server, path, body):
    request = urllib.request.Request(server.url + path, json.dumps(body | {"stream": True}).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        for line in reply:
            line = line.decode().rstrip("\n")
            if line and not line.startswith(":"):
                assert line.startswith("data: ") and line != "data: [DONE]"
                yield json.loads(line[6:])


def test_a_completion_whole_and_streamed(server):
    body = {"prompt": "The capital of France is", "n_predict": 12, "temperature": 0, "n_probs": 2,
            "return_tokens": True}
    whole = post(server, "/completion", body)
    assert whole["stop"] is True and whole["stop_type"] in ("limit", "eos")
    assert whole["tokens_predicted"] == len(whole["tokens"]) == len(whole["completion_probabilities"])
    assert whole["generation_settings"]["n_predict"] == 12
    timings = whole["timings"]
    assert timings["predicted_n"] == whole["tokens_predicted"] and timings["predicted_per_second"] > 0
    assert timings["prompt_n"] + timings["cache_n"] == whole["tokens_evaluated"]
    *parts, last = events(server, "/completion", body)
    assert all(part["stop"] is False for part in parts) and last["stop"] is True
    assert "".join(part["content"] for part in parts) + last["content"] == whole["content"]
    assert sum((part["tokens"] for part in parts), []) + last["tokens"] == whole["tokens"]
    other = post(server, "/v1/completions", {"prompt": body["prompt"], "max_tokens": 12, "temperature": 0})
    assert other["choices"][0]["text"] == whole["content"]


def test_the_second_time_the_prompt_is_cached(server):
    text = "It was a dark and stormy night, " * 20
    body = {"prompt": text, "n_predict": 2, "temperature": 0}
    first = post(server, "/completion", body | {"cache_prompt": False})
    again = post(server, "/completion", body | {"cache_prompt": False})
    assert first["tokens_cached"] == again["tokens_cached"] == 0
    post(server, "/completion", body)
    cached = post(server, "/completion", body)
    assert cached["tokens_cached"] > 100 and cached["content"] == first["content"]


def test_timings_count_guesses(server):
    body = {"prompt": "one two three four five six\n" * 12, "n_predict": 60, "temperature": 0, "ignore_eos": True}
    timings = post(server, "/completion", body)["timings"]
    assert timings["draft_n"] >= timings["draft_n_accepted"] > 0
    chat = {"messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 4, "timings_per_token": True}
    timings = post(server, "/v1/chat/completions", chat)["timings"]
    assert timings["predicted_n"] <= 4 and timings["prompt_n"] + timings["cache_n"] > 5


def test_progress_of_a_long_prompt(server):
    body = {"prompt": "word " * 1500, "n_predict": 1, "return_progress": True, "cache_prompt": False}
    found = [e["prompt_progress"] for e in events(server, "/completion", body) if "prompt_progress" in e]
    assert len(found) > 1 and found[-1]["processed"] == found[-1]["total"]
    assert [p["processed"] for p in found] == sorted(p["processed"] for p in found)


def test_the_time_of_an_output_can_be_bounded(server):
    body = {"prompt": "1\n2\n3\n", "n_predict": 1500, "temperature": 0, "ignore_eos": True,
            "grammar": 'root ::= ([0-9]+ "\\n")*', "t_max_predict_ms": 300}
    begin = time.monotonic()
    reply = post(server, "/completion", body)
    assert reply["stop_type"] == "limit" and reply["tokens_predicted"] < 1500
    assert time.monotonic() - begin < 30


def test_properties_and_slots(server):
    props = get(server, "/props")
    assert props["default_generation_settings"]["params"]["top_k"] == 40
    assert props["chat_template"] and props["total_slots"] == 16
    slots = get(server, "/slots")
    assert len(slots) == 16 and not any(slot["is_processing"] for slot in slots)


def test_a_model_without_the_tokens_refuses(server):
    for path, body in (("/infill", {"input_prefix": "a", "input_suffix": "b"}),
                       ("/v1/completions", {"prompt": "a", "suffix": "b"})):
        with pytest.raises(urllib.error.HTTPError) as e:
            post(server, path, body)
        assert e.value.code == 400
        assert json.load(e.value)["error"]["code"] == "unsupported_value"


def test_an_aborted_request_says_so(server):
    found = {}

    def ask():
        found["reply"] = post(server, "/generate", {"text": "Once", "rid": "to-be-aborted", "sampling_params": {
            "max_new_tokens": 2000, "ignore_eos": True}})

    thread = threading.Thread(target=ask)
    thread.start()
    deadline = time.monotonic() + 30
    while post(server, "/abort_request", {"rid": "to-be-aborted"})["aborted"] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    thread.join(30)
    assert found["reply"]["meta_info"]["finish_reason"]["type"] == "abort"


def test_a_probe_gets_a_token(server):
    assert get(server, "/health_generate") == {"status": "ok"}


@pytest.fixture(scope="module")
def coder():
    from conftest import Server
    model = find_model(CODER)
    if not model:
        pytest.skip(f"{CODER} is not there")
    s = Server(model, "--ctx-size", "2048")
    yield s
    assert s.stop() == 0, s.log


def test_a_gap_is_filled(coder):
    reply = post(coder, "/v1/completions", {"prompt": BEFORE, "suffix": BEHIND, "max_tokens": 16, "temperature": 0})
    assert reply["choices"][0]["text"].startswith("a + b")


def test_a_fill_in_is_what_its_tokens_say(coder):
    common = {"max_tokens": 24, "temperature": 0, "return_token_ids": True}
    raw = f"<|fim_prefix|>{BEFORE}<|fim_suffix|>{BEHIND}<|fim_middle|>"
    expected = post(coder, "/v1/completions", common | {"prompt": raw})["choices"][0]
    found = post(coder, "/v1/completions", common | {"prompt": BEFORE, "suffix": BEHIND})["choices"][0]
    assert found["token_ids"] == expected["token_ids"]
    assert found["prompt_token_ids"] == expected["prompt_token_ids"]
    infill = post(coder, "/infill", {"input_prefix": BEFORE, "input_suffix": BEHIND, "n_predict": 24,
                                     "temperature": 0, "return_tokens": True})
    assert infill["tokens"] == expected["token_ids"]


def test_what_an_editor_sends(coder):
    """The body of llama.vim, with other files in front."""
    body = {"id_slot": 0, "input_prefix": "import mathematics\n\ndef area(r):\n", "prompt": "    return ",
            "input_suffix": "\n", "input_extra": [
                {"filename": "mathematics.py", "text": "PI = 3.14159\n\ndef square(x):\n    return x * x\n"}],
            "n_predict": 16, "n_indent": 4, "top_k": 40, "top_p": 0.9, "temperature": 0.0, "stream": False,
            "samplers": ["top_k", "top_p", "infill"], "cache_prompt": True, "t_max_prompt_ms": 500,
            "t_max_predict_ms": 1000, "response_fields": ["content", "timings/prompt_n", "timings/predicted_n",
                                                          "truncated", "tokens_cached", "generation_settings/n_ctx"]}
    reply = post(coder, "/infill", body)
    assert set(reply) == set(body["response_fields"]) and reply["generation_settings/n_ctx"] == 2048
    assert reply["content"] and reply["truncated"] is False
