"""Requests and replies as bytes on a connection, and what each dialect's stream joins to.

`call` sends a body and gives the reply as its dialect's whole object, streamed or not: events are checked
against the rules of the dialect and joined, so that a joined stream can be compared with a whole reply member
by member. `meaning` is what all dialects say in one form.
"""
import http.client
import json

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "responses": "/v1/responses",
         "messages": "/v1/messages", "generate": "/generate", "completion": "/completion"}


class Refused(Exception):
    """An error of the API: status and body."""

    def __init__(self, status, body):
        super().__init__(f"{status} {body}")
        self.status, self.body = status, body


def post(port, path, body, headers=None, seconds=300):
    """(status, headers, bytes)"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


def read_events(data):
    """[(name or None, data)]; comments are left out. Each line has one of the forms that are promised."""
    assert data.endswith(b"\n\n"), data[-80:]
    events = []
    for block in data.decode("utf-8").split("\n\n")[:-1]:
        lines = block.split("\n")
        if all(line.startswith(":") for line in lines):
            continue
        name = lines.pop(0)[7:] if lines[0].startswith("event: ") else None
        assert len(lines) == 1 and lines[0].startswith("data: "), block
        events.append((name, lines[0][6:]))
    return events


def without_done(events):
    assert events[-1] == (None, "[DONE]") and all(name is None for name, _ in events), events[-1:]
    objects = [json.loads(text) for _, text in events[:-1]]
    refuse_errors(objects)
    return objects


def refuse_errors(objects):
    """An error behind the first event."""
    last = objects[-1]
    if "error" in last or last.get("type") == "response.failed":
        raise Refused(200, {"error": last.get("error") or last["response"]["error"]})


# ---- chat and completions ----

def join_logprobs(old, new):
    if old is None or new is None:
        return old if new is None else new
    return {k: (old[k] or []) + (new[k] or []) if isinstance(old[k], list) else new[k] for k in old}


def add_calls(message, deltas):
    calls = message.setdefault("tool_calls", [])
    for delta in deltas:
        delta = dict(delta)
        index = delta.pop("index")
        if "id" in delta:
            assert index == len(calls) and delta["function"]["arguments"] == ""
            calls.append(delta)
        else:
            assert index == len(calls) - 1 and set(delta) == {"function"}
            calls[index]["function"]["arguments"] += delta["function"]["arguments"]


def add_delta(message, delta, is_first):
    delta = dict(delta)
    assert ("role" in delta) == is_first
    message.update({k: delta.pop(k) for k in ("role",) if k in delta})
    kinds = set(delta)
    assert kinds in (set(), {"content"}, {"reasoning_content", "reasoning"}, {"tool_calls"}, {"function_call"}), delta
    if "tool_calls" in delta:
        add_calls(message, delta["tool_calls"])
    elif "function_call" in delta:
        call = message.setdefault("function_call", {"name": "", "arguments": ""})
        for k, v in delta["function_call"].items():
            call[k] += v
    else:
        for k, v in delta.items():
            message[k] = (message.get(k) or "") + v


def join_choice(is_chat, chunks):
    whole = {"index": chunks[0]["index"]}
    whole.update({"message": {"content": None, "refusal": None}} if is_chat else {"text": ""}, logprobs=None)
    for i, chunk in enumerate(chunks):
        is_last = i == len(chunks) - 1
        assert (chunk["finish_reason"] is not None) == is_last, chunks
        if is_chat:
            assert not is_last or chunk["delta"] == {}
            add_delta(whole["message"], chunk["delta"], i == 0)
        else:
            whole["text"] += chunk["text"]
        whole["logprobs"] = join_logprobs(whole["logprobs"], chunk["logprobs"])
        if "token_ids" in chunk:
            whole["token_ids"] = whole.get("token_ids", []) + chunk["token_ids"]
        whole.update({k: v for k, v in chunk.items() if k not in ("text", "delta", "logprobs", "token_ids", "index")})
    return whole


def join_openai(events, body):
    chunks = without_done(events)
    is_chat = "messages" in body
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    assert chunks[0]["object"] == ("chat.completion.chunk" if is_chat else "text_completion")
    whole = {**chunks[0], "object": "chat.completion" if is_chat else "text_completion"}
    last = chunks.pop() if (body.get("stream_options") or {}).get("include_usage") else None
    of = {}
    for chunk in chunks:
        assert ("usage" in chunk) == (last is not None) and len(chunk["choices"]) == 1
        for choice in chunk["choices"]:
            of.setdefault(choice["index"], []).append(choice)
    whole["choices"] = [join_choice(is_chat, of[i]) for i in sorted(of)]
    whole.pop("usage", None)
    if last:
        assert last["choices"] == []
        whole["usage"] = last["usage"]
    return whole


# ---- Responses ----

RESPONSE_PARTS = {"message": ("content_part", "output_text", "text"), "reasoning": ("content_part", "reasoning_text", "text"),
                  "function_call": (None, "function_call_arguments", "arguments"),
                  "custom_tool_call": (None, "custom_tool_call_input", "input")}


def join_item(events, index):
    """The item of events that begin with its output_item.added; they are taken from the list."""
    def take(kind):
        event = events.pop(0)
        assert event["type"] == "response." + kind and event["output_index"] == index, (kind, event)
        return event

    item = take("output_item.added")["item"]
    part, kind, member = RESPONSE_PARTS[item["type"]]
    text, logprobs = "", []
    if part:
        take("content_part.added")
    while events[0]["type"] == f"response.{kind}.delta":
        event = take(kind + ".delta")
        assert event["item_id"] == item["id"]
        text += event["delta"]
        logprobs += event.get("logprobs", [])
    assert take(kind + ".done")[member] == text
    if part:
        assert take("content_part.done")["part"]["text"] == text
    done = take("output_item.done")["item"]
    assert item["type"] != "message" or done["content"][0]["logprobs"] == logprobs
    assert done["id"] == item["id"] and (done["content"][0]["text"] if part else done[member]) == text
    return done


def join_responses(events, _):
    objects = [json.loads(text) for _, text in events]
    refuse_errors(objects)
    assert [name for name, _ in events] == [o["type"] for o in objects]
    assert [o["sequence_number"] for o in objects] == list(range(len(objects)))
    assert [o["type"] for o in objects[:2]] == ["response.created", "response.in_progress"]
    last = objects.pop()
    whole, inner, items = last["response"], objects[2:], []
    assert last["type"] == "response." + whole["status"] and whole["id"] == objects[0]["response"]["id"]
    while inner:
        items.append(join_item(inner, len(items)))
    assert items == whole["output"]
    return whole


# ---- Messages ----

def join_block(events, index):
    start = events.pop(0)
    assert start["type"] == "content_block_start" and start["index"] == index, start
    block, argument = dict(start["content_block"]), ""
    while events[0]["type"] == "content_block_delta":
        event = events.pop(0)
        delta = event["delta"]
        kind = delta.pop("type")
        assert event["index"] == index and kind in {
            "text": ("text_delta",), "thinking": ("thinking_delta", "signature_delta"),
            "tool_use": ("input_json_delta",)}[block["type"]]
        (name, text), = delta.items()
        if name == "partial_json":
            argument += text
        else:
            block[name] += text
    if argument:
        try:
            block["input"] = json.loads(argument)
        except ValueError:
            block["input"] = {}  # cut, as in the whole reply
    stop = events.pop(0)
    assert stop == {"type": "content_block_stop", "index": index}
    return block


def join_messages(events, _):
    objects = [json.loads(text) for _, text in events]
    refuse_errors(objects)
    assert [name for name, _ in events] == [o["type"] for o in objects]
    first, inner, delta, last = objects[0], objects[1:-2], objects[-2], objects[-1]
    assert first["type"] == "message_start" and delta["type"] == "message_delta" and last == {"type": "message_stop"}
    whole = first["message"]
    assert whole["content"] == [] and whole["stop_reason"] is None
    while inner:
        whole["content"].append(join_block(inner, len(whole["content"])))
    return {**whole, **delta["delta"], "usage": {**whole["usage"], **delta["usage"]}}


# ---- SGLang ----

def join_generate(events, body):
    """Events hold all that has come so far: the last of each choice is the whole."""
    of = {}
    for event in without_done(events):
        index = event.pop("index", None)
        text = of.get(index, {}).get("text", "")
        assert event["text"].startswith(text)
        assert event["meta_info"]["completion_tokens"] == len(event["output_ids"])
        of[index] = event
    assert all(e["meta_info"]["finish_reason"] for e in of.values())
    return of[None] if None in of else [of[i] for i in sorted(of)]


# ---- llama-server ----

def join_completion(events, _):
    """Events hold new text; the last of a choice has the rest."""
    assert all(name is None for name, _ in events)
    objects = [json.loads(text) for _, text in events]
    refuse_errors(objects)
    of = {}
    for event in objects:
        old = of.get(event["index"], {"content": "", "tokens": [], "completion_probabilities": []})
        assert not old.get("stop")
        event["content"] = old["content"] + event["content"]
        event["tokens"] = old["tokens"] + event["tokens"]
        if "completion_probabilities" in event:
            event["completion_probabilities"] = old["completion_probabilities"] + event["completion_probabilities"]
        assert len(event["tokens"]) == event["tokens_predicted"]
        of[event["index"]] = event
    assert all(e["stop"] for e in of.values())
    return of[0] if len(of) == 1 else [of[i] for i in sorted(of)]


JOIN = {"chat": join_openai, "completions": join_openai, "responses": join_responses, "messages": join_messages,
        "generate": join_generate, "completion": join_completion}


def call(port, dialect, body, headers=None):
    """The whole reply; of a stream what its events join to."""
    status, headers, data = post(port, PATHS[dialect], body, headers)
    if status != 200:
        raise Refused(status, json.loads(data))
    is_stream = bool(body.get("stream"))
    assert headers["Content-Type"] == ("text/event-stream; charset=utf-8" if is_stream else "application/json"), headers
    return JOIN[dialect](read_events(data), body) if is_stream else json.loads(data)


# ---- what can be compared ----

def is_object(text):
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


VOLATILE = {"timings", "seed", "tokens_cached", "stream", "id", "created", "created_at", "call_id", "item_id", "signature", "e2e_latency", "store"}


def comparable(value, keep_usage=True):
    """Without what is new in every reply. Tokens that were cached may be more the second time."""
    if isinstance(value, list):
        return [comparable(v, keep_usage) for v in value]
    if not isinstance(value, dict):
        return value
    out = {k: comparable(v, keep_usage) for k, v in value.items() if k not in VOLATILE and (keep_usage or k != "usage")}
    if "cache_read_input_tokens" in out:
        out["input_tokens"] += out.pop("cache_read_input_tokens")
    out.pop("cached_tokens", None)
    logprobs = out.get("logprobs")
    if isinstance(logprobs, dict) and not any(logprobs.values()):
        out["logprobs"] = None  # chunks without any say so
    return out


def differences(a, b, path=""):
    """[(path, in a, in b)]"""
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for k in {**a, **b} for d in differences(a.get(k), b.get(k), f"{path}.{k}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for i in range(len(a)) for d in differences(a[i], b[i], f"{path}[{i}]")]
    return [] if a == b else [(path, a, b)]


def require_same(a, b, told):
    found = differences(a, b)
    if found:
        raise AssertionError("".join(f"{path}: {x!r} != {y!r}\n    " for path, x, y in found[:5]) + told)


FINISH = {"stop": "stop", "length": "length", "tool_calls": "stop", "function_call": "stop", "completed": "stop",
          "incomplete": "length", "end_turn": "stop", "stop_sequence": "stop", "tool_use": "stop",
          "max_tokens": "length", "model_context_window_exceeded": "length"}


def usage_of(u):
    prompt = u.get("prompt_tokens", u.get("input_tokens"))
    return prompt + u.get("cache_read_input_tokens", 0), u.get("completion_tokens", u.get("output_tokens"))


def meaning(dialect, reply):
    """{text, reasoning, calls, finish, usage} of the first choice of a chat, whichever dialect it was in."""
    out = {"text": "", "reasoning": "", "calls": []}
    if dialect == "chat":
        choice = reply["choices"][0]
        message = choice["message"]
        out.update(text=message["content"] or "", reasoning=message.get("reasoning") or "", finish=choice["finish_reason"])
        out["calls"] = [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls", [])]
    elif dialect == "responses":
        out["finish"] = reply["status"]
        for item in reply["output"]:
            if item["type"] == "function_call":
                out["calls"].append((item["name"], item["arguments"]))
            else:
                out["text" if item["type"] == "message" else "reasoning"] += item["content"][0]["text"]
    else:
        out["finish"] = reply["stop_reason"]
        for block in reply["content"]:
            if block["type"] == "tool_use":
                out["calls"].append((block["name"], block["input"]))
            else:
                out["text" if block["type"] == "text" else "reasoning"] += block.get("text", block.get("thinking"))
    out["finish"] = FINISH[out["finish"]]
    out["usage"] = usage_of(reply["usage"])
    return out
