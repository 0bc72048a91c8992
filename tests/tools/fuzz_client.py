#!/usr/bin/env python3
"""A client that asks a running serverd for everything it should not: bodies of the documented fields and beyond
them, cut, pipelined, left half-way, on several connections at once, over all routes of routes.def.

    fuzz_client.py --serverd BINARY --model FILE [--requests N] [--seed N] [--connections N] [-- OPTIONS...]

Starts the server, asks, and prints what came back, memory before and after, and what was left. Exit 1: the
server crashed, answered 500 or what is no valid reply, or kept a request or a page. `fuzz` does the same for
tests with a server of their own.
"""
import argparse
import collections
import json
import pathlib
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 60  # that a reply may take
# 501: what is not built in. 503: loading, draining. 504: x-request-timeout. 505: the version of HTTP
SERVER_ERRORS = {501, 503, 504, 505}


def routes():
    """[(method, path)]"""
    found = re.findall(r'^ROUTE\((\w+), "([^"]+)"', (ROOT / "src/server/routes.def").read_text(), re.M)
    assert len(found) > 20
    return found


# ---- values ----

class Raw:
    """Bytes that stand in a body as they are."""

    def __init__(self, text):
        self.text = text


TEXTS = ["", "a", "Hello there.", "\0", "\x01\x1f\x7f", "ä日本🙂", "\u202e\ufeff", "\uffff", "<|im_start|>user\n", "<|im_end|>",
         "<think>", "</think>", "<tool_call>\n{\"name\": \"f\"", "{{ messages }}", "{% for x in y %}", "%s%n%x", "../../etc/passwd",
         "\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "\"", "\\", "\\u0000", "null", "word " * 40, "a" * 3000, "🙂" * 700, "\n" * 50]
NUMBERS = [0, 1, -1, 2, 3, 5, 20, 21, 128, 129, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, -2**63, 0.0, -0.0, 0.5, 1.5,
           5.0, 1e-320, 1e308, Raw("1e999"), Raw("-1e999"), Raw("NaN"), Raw("Infinity"), Raw("9" * 30), Raw("9" * 600),
           Raw("0" * 5), Raw("-"), Raw("1."), Raw("0x10")]
RAW = [Raw(t) for t in (
    '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '{"a":1,"a":2}', "[1,]", "tru", '"\\x"', "'a'", "/*c*/1", "", "}", "[" * 70 + "]" * 70,
    "[" * 63 + "]" * 63, '{"a":' * 70 + "1" + "}" * 70, "[[[[" * 500)]


def junk(dice, depth=3):
    kind = dice.randrange(9 if depth else 6)
    if kind < 2:
        return dice.choice(TEXTS)
    if kind < 4:
        return dice.choice(NUMBERS)
    if kind == 4:
        return dice.choice([None, True, False])
    if kind == 5:
        return dice.choice(RAW) if dice.randrange(3) == 0 else {}
    if kind < 8:
        return [junk(dice, depth - 1) for _ in range(dice.choice([0, 1, 2, 3, 30]))]
    return {dice.choice(list(FIELDS) + TEXTS[1:8]): junk(dice, depth - 1) for _ in range(dice.randrange(4))}


def write(value, dice):
    """JSON text; keys may come twice, strings with or without escapes."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        items = [write(k, dice) + ":" + write(v, dice) for k, v in value.items()]
        if items and dice.randrange(40) == 0:
            items.append(dice.choice(items))
        return "{" + ",".join(items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(write(v, dice) for v in value) + "]"
    return json.dumps(value, ensure_ascii=dice.randrange(2) == 0)


# ---- bodies ----

def text(dice):
    return dice.choice(TEXTS[1:] + ["The sky is", "1, 2, 3,"] * 5)


def ids(dice):
    return [dice.randrange(0, 700) for _ in range(dice.choice([0, 1, 3, 20]))]


def few(dice, make, most=3):
    return [make(dice) for _ in range(dice.choice([1, 1, 2, *range(most + 1)]))]


def part(dice):
    kind = dice.choice(["text"] * 20 + ["input_text", "output_text", "refusal", "image_url", "input_audio", "file", "input_image",
                                       "image", "tool_use", "tool_result", "thinking", "redacted_thinking", "zzz"])
    return {"type": kind, "text": text(dice), "refusal": text(dice), "image_url": {"url": "data:image/png;base64,AA=="},
            "id": "toolu_1", "name": "f", "input": {"x": 1}, "tool_use_id": "toolu_1", "content": text(dice), "thinking": "hm",
            "is_error": dice.choice([True, False])}


def content(dice):
    return dice.choice([text(dice)] * 6 + [few(dice, part)] * 2 + [None])


def tool_call(dice):
    return {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": dice.choice(['{"x": 1}', "{", "", "[1]", "null"])}}


def message(dice):
    made = {"role": dice.choice(["user"] * 12 + ["assistant"] * 5 + ["system", "developer", "tool", "function", "nobody"]),
            "content": content(dice)}
    if made["role"] == "assistant" and dice.randrange(2):
        made["tool_calls"] = few(dice, tool_call)
    if made["role"] == "tool":
        made["tool_call_id"] = "call_1"
    if dice.randrange(6) == 0:
        made["reasoning_content"] = text(dice)
    return made


def turn(dice):
    return {"role": dice.choice(["user"] * 10 + ["assistant"] * 5 + ["system", "nobody"]),
            "content": dice.choice([text(dice)] * 4 + [few(dice, part)])}


def item(dice):
    kind = dice.choice(["message"] * 12 + ["function_call", "function_call_output", "reasoning", "item_reference",
                                          "custom_tool_call", "custom_tool_call_output", "zzz"])
    return {"type": kind, **turn(dice), "call_id": "call_1", "name": "f", "arguments": '{"x": 1}', "output": content(dice),
            "input": text(dice), "summary": few(dice, part), "id": "rs_1"}


SCHEMAS = [{}, True, False, {"type": "object"}, {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
           {"type": "string", "pattern": "^a{1,3}$"}, {"$ref": "#"}, {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#"}, {}]}}},
           {"enum": []}, {"enum": [1, "a", None]}, {"not": {}}, {"type": "strin"}, {"pattern": "(a+)+$"}, {"pattern": "("},
           {"type": "array", "minItems": 10**9}, {"type": "integer", "multipleOf": 0.0001}, {"uniqueItems": True},
           {"type": "string", "format": "date-time"}, {"allOf": [{"minLength": 3}, {"maxLength": 2}], "type": "string"},
           {"type": "object", "minProperties": 3, "patternProperties": {"^[ab]": {"type": "number"}}, "additionalProperties": False}]


def schema(dice):
    return dice.choice(SCHEMAS)


def response_format(dice):
    kind = dice.choice(["text", "json_object", "json_schema", "json_schema", "structural_tag", "zzz"])
    return {"type": kind, "json_schema": {"name": "x", "schema": schema(dice), "strict": True}, "schema": schema(dice),
            "structures": [{"begin": "<a>", "schema": schema(dice), "end": "</a>"}], "triggers": ["<a"]}


def tool(dice):
    function = {"name": dice.choice(["f", "get_weather", "a.b-c", "ä", "", "f"]), "description": text(dice), "parameters": schema(dice),
                "strict": dice.choice([True, False])}
    kind = dice.choice(["function"] * 5 + ["custom", "web_search", "zzz"])
    return dice.choice([{"type": kind, kind: function}] * 8 + [{"type": kind, **function}, {"name": "f"}])


def flat_tool(dice):
    made = tool(dice)
    return {"type": made["type"], **made.get(made["type"], {})} if "type" in made else made


def plain_tool(dice):
    return dice.choice([{"name": "f", "input_schema": schema(dice), "description": "d"}] * 6 + [tool(dice)])


def tool_choice(dice):
    return dice.choice(["auto", "none", "required", "zzz", {"type": "function", "function": {"name": "f"}}, {"type": "any"},
                        {"type": "function", "name": "f"}, {"type": "tool", "name": "f"}, {"type": "auto"},
                        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
                        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]}}])


def choose(*values):
    return lambda dice: dice.choice(values)


def number(low, high):
    return lambda dice: dice.choice([low, high, round(dice.uniform(low, high), 3)])


SMALL = choose(0, 1, 1, 2, 4, 8)
FLAG = choose(True, False)

# what a field may be; other types come by mutation
FIELDS = {
    "model": choose(*["default"] * 9, "", "none", "llama-F32", "base:adapter", "a/b"), "stream": FLAG, "n": choose(1, 1, 1, 2, 4),
    "max_tokens": SMALL, "max_completion_tokens": SMALL, "max_output_tokens": SMALL, "max_new_tokens": SMALL, "best_of": choose(1, 2, 4),
    "messages": lambda dice: few(dice, message, 4), "prompt": lambda dice: dice.choice([text(dice), ids(dice), few(dice, text), few(dice, ids)]),
    "input": lambda dice: dice.choice([text(dice), few(dice, item, 4), few(dice, text), ids(dice)]), "instructions": text,
    "system": content, "text": lambda dice: dice.choice([text(dice), few(dice, text), {"format": response_format(dice)}]),
    "input_ids": lambda dice: dice.choice([ids(dice), few(dice, ids)]), "sampling_params": lambda dice: some(dice, SAMPLING + ["max_new_tokens"]),
    "tokens": ids, "content": content, "query": text, "documents": lambda dice: dice.choice([few(dice, text), [{"text": text(dice)}]]),
    "texts": lambda dice: few(dice, text), "text_1": lambda dice: dice.choice([text(dice), few(dice, text)]),
    "text_2": lambda dice: dice.choice([text(dice), few(dice, text)]), "items": lambda dice: few(dice, text), "label_token_ids": ids,
    "stop": lambda dice: dice.choice([text(dice), few(dice, text)]), "stop_sequences": lambda dice: few(dice, text), "stop_token_ids": ids,
    "temperature": number(0, 2), "top_p": number(0.01, 1), "top_k": choose(-1, 0, 1, 5), "min_p": number(0, 1), "typical_p": number(0.1, 1),
    "top_n_sigma": number(-1, 3), "xtc_probability": number(0, 1), "xtc_threshold": number(0, 1), "repetition_penalty": number(0.1, 10),
    "frequency_penalty": number(-2, 2), "presence_penalty": number(-2, 2), "dry_multiplier": number(0, 4), "dry_base": number(1, 4),
    "dry_allowed_length": choose(1, 2), "dry_penalty_last_n": choose(-1, 0, 5), "dry_sequence_breakers": lambda dice: few(dice, text),
    "samplers": choose(["top_k", "temperature"], [], ["penalties", "xtc"], ["zzz"]), "logit_bias": choose({"1": 5}, {"40": -100}, [["a", 1]], [[3, False]], {"x": 1}),
    "allowed_token_ids": ids, "bad_words": lambda dice: few(dice, text), "seed": choose(0, 1, -1, 2**40), "min_tokens": SMALL, "ignore_eos": FLAG,
    "logprobs": choose(True, False, 0, 1, 5), "top_logprobs": choose(0, 1, 20), "prompt_logprobs": choose(0, 3), "echo": FLAG,
    "logprobs_mode": choose("raw", "processed", "zzz"), "return_token_ids": FLAG, "return_tokens_as_token_ids": FLAG, "suffix": text,
    "include_stop_str_in_output": FLAG, "skip_special_tokens": FLAG, "add_special_tokens": FLAG, "truncate_prompt_tokens": choose(-1, 1, 5),
    "stream_options": choose({"include_usage": True}, {"continuous_usage_stats": True, "include_usage": True}, {}), "priority": choose(-1, 0, 7),
    "cache_salt": text, "user": text, "metadata": choose({}, {"a": "b"}), "service_tier": choose("auto", "flex", "zzz"), "store": FLAG,
    "response_format": response_format, "json_schema": schema, "guided_json": schema, "regex": choose("[a-c]{1,4}", "(", "a{9999}", "(a|b)*c", "(?=a)b"),
    "guided_choice": choose(["a", "b"], [], [1], ["ä", "\0"]), "grammar": choose('root ::= "a"+', "root ::= root", "root", 'root ::= "a"{1,99999}'),
    "structured_outputs": lambda dice: {dice.choice(["json", "regex", "choice", "grammar", "zzz"]): schema(dice)}, "json_whitespace": choose("compact", "zzz"),
    "tools": lambda dice: few(dice, tool), "tool_choice": tool_choice, "parallel_tool_calls": FLAG, "functions": choose([{"name": "f"}], [{}], []),
    "function_call": choose("auto", "none", {"name": "f"}), "reasoning_effort": choose("none", "low", "zzz"), "reasoning": choose({"effort": "low"}, {}),
    "reasoning_format": choose("auto", "none", "zzz"), "separate_reasoning": FLAG, "thinking": choose({"type": "enabled", "budget_tokens": 3}, {"type": "zzz"}),
    "chat_template_kwargs": choose({"enable_thinking": False}, {"messages": 3}, {"x": {"y": [1]}}), "add_generation_prompt": FLAG,
    "continue_final_message": FLAG, "previous_response_id": choose("resp_1", "", "x" * 200), "background": FLAG, "truncation": choose("auto", "disabled"),
    "include": choose(["reasoning.encrypted_content"], ["message.output_text.logprobs"]), "max_tool_calls": SMALL, "modalities": choose(["text"], ["audio"]),
    "output_config": lambda dice: {"effort": "low", "format": {"type": "json_schema", "schema": schema(dice)}}, "prediction": choose({"type": "content", "content": "a"}),
    "encoding_format": choose("float", "base64", "zzz"), "dimensions": choose(1, 8, 64, 65), "normalize": FLAG, "top_n": choose(1, 2), "return_documents": FLAG,
    "return_text": FLAG, "raw_scores": FLAG, "apply_softmax": FLAG, "item_first": FLAG, "return_logprob": FLAG, "logprob_start_len": choose(-1, 0, 3, 10**6),
    "top_logprobs_num": choose(0, 2, 20), "return_text_in_logprobs": FLAG, "rid": lambda dice: dice.choice(TEXTS), "sampling_seed": choose(1, 2),
    "n_predict": SMALL, "n_cmpl": choose(1, 2), "n_probs": choose(0, 1, 20, 21), "post_sampling_probs": FLAG, "return_progress": FLAG,
    "response_fields": choose(["content"], ["timings/prompt_n", "/", "", "a//b"], [1], []), "lora": choose([{"id": 0, "scale": 0.5}], [], [{}]),
    "input_prefix": text, "input_suffix": text, "input_extra": choose([{"filename": "a", "text": "b"}], [{}], [1]), "reasoning_budget": choose(-1, 0, 2),
    "max_thinking_tokens": choose(0, 3), "t_max_predict_ms": choose(1, 1000), "repeat_last_n": choose(-1, 0, 64), "repeat_penalty": number(0.5, 2),
    "input_file_id": choose("file_1"), "endpoint": choose("/v1/completions", "/zzz"), "completion_window": choose("24h", "zzz"),
    "add_special": FLAG, "parse_special": FLAG, "return_token_strs": FLAG, "with_pieces": FLAG, "lora_name": choose("a", "../x"),
    "lora_path": choose("/etc/passwd", "../x", "a"), "timeout_s": choose(0.2), "steps": choose(1, 2), "timeout": choose(1), "strict": FLAG}
SAMPLING = [f for f in ("temperature top_p top_k min_p n stop seed min_tokens ignore_eos regex json_schema logit_bias repetition_penalty "
                        "frequency_penalty presence_penalty stop_token_ids skip_special_tokens").split()]
COMMON = SAMPLING + "model max_tokens stream stream_options response_format guided_json user cache_salt priority xtc_probability dry_multiplier".split()
CHAT = COMMON + "messages tools tool_choice logprobs top_logprobs chat_template_kwargs reasoning_effort continue_final_message return_token_ids".split()

# path: (fields that are nearly always there, others)
BODIES = {
    "/v1/chat/completions": (["messages", "max_tokens"], CHAT), "/v1/chat/completions/input_tokens": (["messages"], CHAT),
    "/v1/completions": (["prompt", "max_tokens"], COMMON + ["echo", "logprobs", "best_of", "prompt_logprobs", "truncate_prompt_tokens"]),
    "/v1/responses": (["input", "max_output_tokens"], COMMON + "instructions tools tool_choice text reasoning include store previous_response_id background".split()),
    "/v1/responses/input_tokens": (["input"], ["instructions", "tools", "text"]),
    "/v1/messages": (["messages", "max_tokens"], COMMON + "system stop_sequences tools tool_choice thinking output_config".split()),
    "/v1/messages/count_tokens": (["messages"], "system tools tool_choice thinking".split()),
    "/generate": (["text", "sampling_params"], "stream return_logprob logprob_start_len top_logprobs_num return_text_in_logprobs rid priority".split()),
    "/v1/embeddings": (["input"], "encoding_format dimensions normalize model user".split()),
    "/v1/rerank": (["query", "documents"], "texts top_n return_documents return_text raw_scores".split()),
    "/v1/score": (["text_1", "text_2"], "query items label_token_ids apply_softmax item_first".split()),
    "/tokenize": (["prompt"], "content messages add_special_tokens add_special parse_special return_token_strs with_pieces tools".split()),
    "/detokenize": (["tokens"], ["model"]), "/apply-template": (["messages"], ["tools", "chat_template_kwargs", "add_generation_prompt"]),
}
# where a field has another form
FORMS = {"/models/load": {"model": choose("none", "", "../x")}, "/models/unload": {"model": choose("none", "", "../x")},
         "/v1/responses": {"input": lambda dice: dice.choice([text(dice), few(dice, item, 4)]), "tools": lambda dice: few(dice, flat_tool),
                           "text": lambda dice: {"format": response_format(dice)}},
         "/v1/messages": {"messages": lambda dice: few(dice, turn, 4), "tools": lambda dice: few(dice, plain_tool), "max_tokens": choose(1, 2, 8)},
         "/v1/embeddings": {"input": lambda dice: dice.choice([text(dice), few(dice, text), [3, 4], ids(dice)])}, "/tokenize": {"prompt": text},
         "/generate": {"text": lambda dice: dice.choice([text(dice), few(dice, text)])}}
for p, q in (("/v1/responses/input_tokens", "/v1/responses"), ("/v1/messages/count_tokens", "/v1/messages")):
    FORMS[p] = FORMS[q]
BODIES["/completion"] = BODIES["/infill"] = (
    ["prompt", "n_predict"], COMMON + "input_prefix input_suffix input_extra n_probs post_sampling_probs return_progress response_fields lora".split())
BODIES["/models/load"] = BODIES["/models/unload"] = (["model"], [])
BODIES["/v2/rerank"] = BODIES["/reranking"] = BODIES["/v1/rerank"]


def make_form(dice):
    """multipart/form-data, more or less."""
    file = dice.choice([b"", b'{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":"a","max_tokens":1}}\n', b"\0\xff" * 50,
                        b"a" * 5000, b"\r\n--b", b"\r\n--bb--\r\n"])
    name = dice.choice(["a.jsonl", "../../x", "\xe4", "", "a" * 300, 'a"b', "a\0b"])
    fields = [("purpose", dice.choice(["batch", "user_data", "zzz", ""])), (dice.choice(["x", "expires_after[seconds]", ""]), "1")]
    parts = [f'Content-Disposition: form-data; name="{k}"\r\n\r\n{v}'.encode() for k, v in fields[:dice.randrange(3)]]
    for _ in range(dice.choice([0, 1, 1, 1, 2])):
        parts.append(f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode("latin-1") + file)
    dice.shuffle(parts)
    return b"".join(b"--bb\r\n" + p + b"\r\n" for p in parts) + dice.choice([b"--bb--\r\n"] * 8 + [b"", b"--bb", b"--bb--"])


def some(dice, names, forms=None):
    forms = {**FIELDS, **(forms or {})}
    return {n: forms[n](dice) for n in dice.sample(names, dice.randrange(min(5, len(names) + 1)))}


def places(value, found):
    """[(container, key)] of all values inside."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            places(value[key], found)
    return found


def mutate(dice, body):
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        found = places(body, [])
        if not found or dice.randrange(8) == 0:
            body[dice.choice(list(FIELDS) + TEXTS[1:6])] = junk(dice)
            continue
        container, key = dice.choice(found)
        if isinstance(container, dict) and dice.randrange(6) == 0:
            del container[key]
        else:
            container[key] = junk(dice)


def make_body(dice, path):
    always, others = BODIES.get(path, ([], list(FIELDS)))
    forms = FORMS.get(path, {})
    body = {n: forms.get(n, FIELDS[n])(dice) for n in always if dice.randrange(30)}
    body.update(some(dice, others, forms))
    if dice.randrange(10) == 0:
        body.update(some(dice, list(FIELDS)))
    body = json.loads(json.dumps(body))  # a copy that can be changed
    if dice.randrange(4) == 0:
        mutate(dice, body)
    data = write(body, dice).encode("utf-8", "surrogatepass")
    return damage(dice, data) if dice.randrange(25) == 0 else data


def damage(dice, data):
    data = bytearray(data)
    for _ in range(dice.choice([1, 1, 3])):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(4)
        if kind == 0:
            data[at:at] = dice.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\0", b"\xef\xbb\xbf"])
        elif kind == 1:
            del data[at:at + dice.randrange(1, 20)]
        elif kind == 2:
            data[at:at] = dice.choice([b"[", b"}", b'"', b",", b"1e9", b"\\"])
        elif at < len(data):
            data[at] = dice.randrange(256)
    return bytes(data)


# ---- requests ----

class Request:
    """Its bytes, and what is to be done with the connection."""

    def __init__(self, dice):
        self.method, path = dice.choice(ALL_ROUTES)
        self.has_last_event = path not in ("/completion", "/infill")  # which end with an object that says so
        has_body = self.method in ("POST", "PUT")
        is_form = path == "/v1/files"
        body = make_form(dice) if has_body and is_form else make_body(dice, path) if has_body and not path.startswith(("/admin", "/flush", "/reset", "/debug")) else b""
        target = spell_path(dice, path)
        if dice.randrange(40) == 0:
            self.method = dice.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"])
        headers = ["Host: x"]
        is_chunked = has_body and dice.randrange(12) == 0
        if has_body:
            kind = dice.choice(["multipart/form-data; boundary=bb"] * 9 + ["multipart/form-data", "application/json"]) if is_form else None
            headers.append("Content-Type: " + kind if kind else "Content-Type: " + dice.choice(["application/json"] * 24 + ["application/json; charset=utf-8", "text/plain"]))
            headers.append("Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}")
        headers += dice.choice([[]] * 8 + [[dice.choice(HEADERS)]])
        self.closes = is_chunked or dice.randrange(20) == 0
        if self.closes:
            headers.append("Connection: close")
        payload = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in cut(dice, body)) + b"0\r\n\r\n" if is_chunked else body
        self.data = f"{self.method} {target} HTTP/1.1\r\n".encode() + "\r\n".join(headers).encode() + b"\r\n\r\n" + payload
        self.told = self.data[:4000]


def cut(dice, body):
    while body:
        n = dice.randrange(1, 200)
        yield body[:n]
        body = body[n:]


def spell_path(dice, path):
    path = path.replace("{id}", dice.choice(["resp_1", "default", "a%2Fb", "x" * 100, "%00", "resp_1/input_items", "..", "%C3%A4", "%ff"]))
    if path.startswith("/v1/"):
        path = dice.choice([path] * 6 + [path[3:], "/v3" + path[3:]])
    if path == "/debug/trace":  # which waits for that many steps
        return path + dice.choice(["?steps=1&seconds=1", "?steps=0", "?seconds=x", "?steps=1&ops=3&seconds=1"])
    return path + dice.choice([""] * 30 + ["/", "/", "?beta=true", "?beta=true", "?x=%zz", "?" + "a" * 300])


HEADERS = ["x-request-id: a-b_c.1", "x-request-id: " + "a" * 129, "x-request-id: \xff", "x-request-timeout: 5", "x-request-timeout: 0.001",
           "x-request-timeout: nan", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Idempotency-Key: k",
           "anthropic-version: 2023-06-01", "Authorization: Bearer x", "x-api-key: y", "Accept: */*", "Expect: 100-continue",
           "Origin: http://example.com", "Content-Encoding: gzip", "X-A: " + "b" * 2000, "Connection: keep-alive"]
ALL_ROUTES = [r for r in routes() for _ in range(6 if r[1] in BODIES else 1) if r != ("POST", "/admin/drain")]
ALL_ROUTES += [("GET", "/nothing"), ("POST", "/v1/nothing")]


# ---- replies ----

class Bad(Exception):
    pass


class Reader:
    """Replies on a connection, one after the other."""

    def __init__(self, sock):
        self.sock, self.data = sock, b""

    def more(self):
        block = self.sock.recv(65536)
        if not block:
            raise ConnectionError("closed")
        self.data += block

    def until(self, end):
        while end not in self.data:
            self.more()
        part, _, self.data = self.data.partition(end)
        return part

    def exactly(self, n):
        while len(self.data) < n:
            self.more()
        part, self.data = self.data[:n], self.data[n:]
        return part

    def reply(self, method):
        """(status, headers, body)"""
        lines = self.until(b"\r\n\r\n").split(b"\r\n")
        first = re.fullmatch(rb"HTTP/1\.1 (\d{3}) \S.*", lines[0])
        if not first:
            raise Bad(f"status line {lines[0][:100]!r}")
        headers = dict(line.decode("latin-1").lower().split(": ", 1) for line in lines[1:] if b": " in line)
        status = int(first[1])
        if status == 100:
            return self.reply(method)
        if method == "HEAD" or status in (204, 304):
            return status, headers, b""
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while n := int(self.until(b"\r\n"), 16):
                body += self.exactly(n)
                self.exactly(2)
            self.exactly(2)
            return status, headers, body
        return status, headers, self.exactly(int(headers["content-length"]))


def check(request, status, headers, body):
    if status >= 500 and status not in SERVER_ERRORS:
        raise Bad(f"status {status}: {body[:300]!r}")
    if "x-request-id" not in headers:
        raise Bad(f"no request id in {headers}")
    if status == 204 or request.method == "HEAD" or not body:
        return
    kind = headers.get("content-type", "")
    try:
        if kind.startswith("application/json"):
            value = json.loads(body.decode("utf-8"), parse_constant=refuse_constant)
            if status >= 400 and not (isinstance(value, dict) and isinstance(value["error"]["message"], str) and value["error"]["type"]):
                raise Bad("no error in an error's body")
        elif kind.startswith("text/event-stream"):
            check_stream(body.decode("utf-8"), request.has_last_event)
        else:
            body.decode("utf-8")
    except (ValueError, KeyError, TypeError, AssertionError) as e:
        raise Bad(f"{type(e).__name__} {e} in a reply of {kind}, status {status}: {body[-700:]!r}") from e


def refuse_constant(name):
    raise ValueError(name)


def check_stream(text, has_last_event):
    events = [block.split("\n") for block in text.split("\n\n")[:-1]]
    assert text.endswith("\n\n")
    events = [lines for lines in events if not all(line.startswith(":") for line in lines)]
    for lines in events:
        assert len(lines) == 1 + lines[0].startswith("event: ") and lines[-1].startswith("data: "), lines
        if lines[-1] != "data: [DONE]":
            json.loads(lines[-1][6:], parse_constant=refuse_constant)
    last = events[-1]
    assert not has_last_event or last == ["data: [DONE]"] or last[0] in ("event: message_stop", "event: error", "event: response.completed",
                                                   "event: response.incomplete", "event: response.failed"), last


# ---- clients ----

class Client(threading.Thread):
    """One connection at a time; `take` gives the seed of the next request, None at the end."""

    def __init__(self, port, take, outcome):
        super().__init__(daemon=True)
        self.port, self.take, self.outcome, self.connection = port, take, outcome, None

    def run(self):
        while (seed := self.take()) is not None:
            try:
                self.ask(seed)
            except Bad as e:
                self.outcome.bad(seed, str(e))
                self.drop()
            except TimeoutError:
                self.outcome.bad(seed, f"no reply in {SECONDS} s: {self.told!r}")
                self.drop()
            except OSError:  # the server may close: the statuses tell whether it still answers
                self.outcome.count("closed")
                self.drop()
        self.drop()

    def drop(self):
        if self.connection:
            self.connection.sock.close()
        self.connection = None

    def ask(self, seed):
        dice = random.Random(seed)
        requests = [Request(dice) for _ in range(dice.choice([1] * 9 + [4]))]
        self.told = b"".join(r.told for r in requests)
        if not self.connection:
            sock = socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)
            self.connection = Reader(sock)
        data = b"".join(r.data for r in requests)
        leaves = dice.randrange(25)
        if leaves == 0:  # in the middle of the request
            self.connection.sock.sendall(data[:dice.randrange(len(data))])
        else:
            self.connection.sock.sendall(data)
        if leaves == 1:  # with a word to say
            self.connection.sock.shutdown(socket.SHUT_WR)
        if leaves == 2:  # in the middle of the reply
            self.connection.sock.recv(dice.choice([1, 100, 1000]))
        if leaves <= 3:
            self.outcome.count("left")
            self.drop()
            return
        for request in requests:
            status, headers, body = self.connection.reply(request.method)
            self.outcome.count(status)
            try:
                check(request, status, headers, body)
            except Bad as e:
                raise Bad(f"{e}\n  asked {request.told!r}") from None
            if headers.get("connection", "").lower() == "close":
                self.drop()
                return


class Outcome:
    def __init__(self):
        self.counts, self.failures, self.lock = collections.Counter(), [], threading.Lock()

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def bad(self, seed, text):
        with self.lock:
            self.failures.append(f"--seed {seed} --requests 1 --connections 1: {text}")


def memory_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024


def gauges(url):
    metrics = urllib.request.urlopen(url + "/metrics", timeout=SECONDS).read().decode()
    return {m[1]: float(m[2]) for m in re.finditer(r"^serverd_(\w+)(?:\{[^}]*\})? ([-+.\de]+)$", metrics, re.M)}


def left_over(url, seconds=30):
    """What is still there when nobody asks any more: {} is what it has to be."""
    end = time.monotonic() + seconds
    while True:
        urllib.request.urlopen(urllib.request.Request(url + "/flush_cache", b"", method="POST"), timeout=SECONDS).read()
        g = gauges(url)
        left = {k: g[k] for k in ("requests_running", "requests_waiting", "sse_streams", "kv_pages_private", "kv_pages_locked",
                                  "kv_window_pages_pinned") if g.get(k)}
        if g["kv_pages_free"] != g["kv_pages_total"]:
            left["kv_pages_not_free"] = g["kv_pages_total"] - g["kv_pages_free"]
        if g["http_connections"] > 1:  # this one
            left["http_connections"] = g["http_connections"]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.1)


def fuzz(port, pid, n, seed=1, connections=8, progress=None):
    """n requests; (Outcome, MiB of memory: at the beginning, after a tenth of the requests, at the end)."""
    outcome, seeds, lock = Outcome(), iter(range(seed, seed + n)), threading.Lock()
    memory = [memory_mib(pid)]

    def take():
        with lock:
            value = next(seeds, None)
        if value is None:
            return None
        if (value - seed + 1) % max(1, n // 10) == 0:
            memory.append(memory_mib(pid))
            if progress:
                progress(value - seed + 1, memory[-1], outcome)
        return value if len(outcome.failures) < 20 else None

    clients = [Client(port, take, outcome) for _ in range(connections)]
    for c in clients:
        c.start()
    for c in clients:
        c.join()
    return outcome, memory


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--serverd", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--requests", type=int, default=50000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("options", nargs="*", help="of the server")
    a = parser.parse_args()
    folder = tempfile.mkdtemp()
    log = open(f"{folder}/serverd.log", "w", encoding="utf-8")
    process = subprocess.Popen([a.serverd, "--model-path", a.model, "--port", "0", "--response-ttl", "1", "--ctx-size", "256",
                                "--data-path", f"{folder}/data", *a.options],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    for line in process.stdout:
        log.write(line)
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if found:
            break
    else:
        sys.exit(f"the server did not start; see {log.name}")
    threading.Thread(target=lambda: [log.write(line) for line in process.stdout], daemon=True).start()
    port = int(found[1])
    url = f"http://127.0.0.1:{port}"
    while True:
        try:
            urllib.request.urlopen(url + "/ready")
            break
        except OSError:
            time.sleep(0.05)
    begin = time.monotonic()
    outcome, memory = fuzz(port, process.pid, a.requests, a.seed, a.connections,
                           lambda n, mib, o: print(f"{n} requests, {mib} MiB, {len(o.failures)} failures", flush=True))
    is_alive = process.poll() is None
    left = left_over(url) if is_alive else "the server"
    seconds = time.monotonic() - begin
    if is_alive:
        process.terminate()
    code = process.wait(60)
    log.flush()
    print(f"{a.requests} requests from seed {a.seed} in {seconds:.0f} s: " + ", ".join(f"{k}: {v}" for k, v in sorted(outcome.counts.items(), key=str)))
    print(f"memory {memory} MiB; left over: {left}; exit code {code}")
    for failure in outcome.failures[:20]:
        print(failure)
    sys.exit(bool(outcome.failures or left or code))


if __name__ == "__main__":
    main()
