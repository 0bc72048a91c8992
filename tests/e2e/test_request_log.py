"""One line for each request, with what operators need, and nothing of what clients said."""
import collections
import json

import wire

SECRET = "zebra-7391"  # in every text that a client sends
KEY = "key-zebra-7391-abcdef"


def requests():
    """(path, body, headers)"""
    user = [{"role": "user", "content": SECRET}]
    tools = [{"type": "function", "function": {"name": "f", "description": SECRET, "parameters": {"type": "object", "properties": {
        SECRET: {"type": "string"}}}}}]
    texts = {"stop": [SECRET], "user": SECRET, "metadata": {"a": SECRET}, "cache_salt": SECRET}
    for is_stream in (False, True):
        more = {"stream": is_stream, "temperature": 0}
        yield "/v1/chat/completions", {"messages": user, "max_tokens": 3, **texts, **more}
        yield "/v1/chat/completions", {"messages": user, "max_tokens": 3, "tools": tools, "n": 2, **more}
        yield "/v1/completions", {"prompt": [SECRET, "b"], "max_tokens": 3, "echo": True, **texts, **more}
        yield "/v1/responses", {"input": SECRET, "instructions": SECRET, "max_output_tokens": 3, **more}
        yield "/v1/messages", {"messages": user, "system": SECRET, "max_tokens": 3, "metadata": {"user_id": SECRET}, **more}
        yield "/generate", {"text": SECRET, "sampling_params": {"max_new_tokens": 3, "temperature": 0}, "rid": SECRET, "stream": is_stream}
    # refused ones
    yield "/v1/chat/completions?" + SECRET, {"messages": [{"role": SECRET, "content": SECRET}]}
    yield "/v1/chat/completions", {"messages": user, "model": SECRET}
    yield "/v1/completions", {"prompt": SECRET, SECRET: SECRET, "temperature": SECRET}
    yield "/v1/completions", {"prompt": SECRET, "regex": "(" + SECRET}
    yield "/v1/completions", {"prompt": SECRET, "guided_json": {"type": SECRET}}
    yield "/v1/completions", {"prompt": SECRET, "guided_json": {"$ref": "#/" + SECRET}}
    yield "/v1/completions", {"prompt": SECRET * 500, "max_tokens": 1}
    yield "/v1/responses", {"input": SECRET, "previous_response_id": SECRET}
    yield "/tokenize", {"prompt": SECRET, SECRET: 1}
    yield "/apply-template", {"messages": user, "chat_template_kwargs": {SECRET: SECRET}}
    yield "/v1/load_lora_adapter", {"lora_name": SECRET, "lora_path": SECRET}


def output_tokens(path, reply):
    if path == "/generate":
        return reply["meta_info"]["completion_tokens"]
    return wire.usage_of(reply["usage"])[1]


def test_every_request_once_and_nothing_that_clients_said(start, tiny_model, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY} name=tester admin\n")
    s = start(tiny_model("llama"), "--ctx-size", 1024, "--api-key-file", keys, "--log-format", "json")
    asked = {}
    for i, (path, body) in enumerate(requests()):
        for key, kind in ((KEY, "good"), (KEY + "x", "bad")):
            name = f"{kind}-{i}"
            headers = {"Authorization": "Bearer " + key, "x-request-id": name, "X-Other": SECRET}
            status, replied, data = wire.post(s.port, path, body, headers)
            assert replied["x-request-id"] == name and (kind == "good") == (status != 401)
            asked[name] = (path.partition("?")[0], body, status, data)
    assert s.stop() == 0
    assert SECRET not in s.log and KEY not in s.log
    lines = [json.loads(line) for line in s.lines if line.startswith("{")]
    lines = [line for line in lines if line["message"] == "request"]
    assert collections.Counter(line["id"] for line in lines) == {name: 1 for name in asked}
    for line in lines:
        path, body, status, data = asked[line["id"]]
        assert (line["path"], line["method"], line["status"]) == (path, "POST", status)
        assert line.get("key") == ("tester" if status != 401 else None)
        assert line["total_ms"] > 0
        if status != 200 or "tokens" not in str(list(body)) and "sampling_params" not in body:
            continue
        parts = line["queue_ms"] + line["prefill_ms"] + line["decode_ms"]
        assert line["finish"] == "length" and 0 < parts <= line["total_ms"] + 0.01
        if not body.get("stream"):
            reply = json.loads(data)
            assert line["output_tokens"] == output_tokens(path, reply)
            if path != "/generate":
                assert line["prompt_tokens"] == wire.usage_of(reply["usage"])[0]
