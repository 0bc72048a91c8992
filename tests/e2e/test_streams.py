"""Random requests in every dialect: what is streamed joins to the whole reply, member by member, and all dialects
say the same.

SERVERD_TEST_REQUESTS  requests of each test (default 40); a real model gets an eighth of them
SERVERD_TEST_SEED      of the first of them (default 1); a failure names the one that failed
"""
import collections
import concurrent.futures
import json
import os
import random
import traceback

import pytest

import random_requests as made
import wire

N_REQUESTS = int(os.environ.get("SERVERD_TEST_REQUESTS", "40"))
FIRST_SEED = int(os.environ.get("SERVERD_TEST_SEED", "1"))
N_THREADS = 4  # so that requests share batches

OPEN_THINK = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') + '<|im_end|>\n' }}{% endfor %}"
              "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}")


@pytest.fixture(scope="module", params=["llama", "gemma3", "thinking", "thinking already", "json calls",
                                        pytest.param("real", marks=pytest.mark.slow),
                                        pytest.param("real thinking", marks=pytest.mark.slow)])
def served(request, tiny_model, default_model, tmp_path_factory):
    from conftest import Server
    template, thinking = tmp_path_factory.mktemp("template") / "think.jinja", ["--reasoning-parser", "think"]
    template.write_text(OPEN_THINK)
    model, options = {
        "llama": (tiny_model("llama"), []), "gemma3": (tiny_model("gemma3"), []),
        "thinking": (tiny_model("qwen3"), thinking),
        "thinking already": (tiny_model("qwen2"), [*thinking, "--chat-template", template]),
        "json calls": (tiny_model("llama"), ["--tool-call-parser", "llama3_json"]),
        "real": (default_model, []),
        "real thinking": (default_model, [*thinking, "--chat-template", template])}[request.param]
    s = Server(model, "--ctx-size", 2048, *options)
    s.said = [wire.call(s.port, "completions", {"prompt": p, "temperature": 0, "max_tokens": 60})["choices"][0]["text"]
              for p in ("a", "tool call", "<think>", "\n")]  # for stop strings that are found
    s.mark_ids = [json.loads(wire.post(s.port, "/tokenize", {"prompt": m})[2])["tokens"] for m in made.MARKS]
    s.met = collections.Counter()  # what replies had
    yield s
    print(request.param, dict(s.met))
    assert s.stop() == 0, s.log


def for_each_seed(served, check):
    n = max(1, N_REQUESTS // 8) if "SmolLM2" in " ".join(served.command) else N_REQUESTS

    def run(seed):
        try:
            check(served, random.Random(seed))
        except Exception as e:  # told below, with its seed
            at = traceback.extract_tb(e.__traceback__)[-1]
            return f"SERVERD_TEST_SEED={seed} SERVERD_TEST_REQUESTS=1: {type(e).__name__} at {at.name}:{at.lineno}: {e}"

    with concurrent.futures.ThreadPoolExecutor(N_THREADS) as pool:
        failures = [f for f in pool.map(run, range(FIRST_SEED, FIRST_SEED + n)) if f]
    if failures:
        pytest.fail(f"{len(failures)} of {n}:\n" + "\n".join(failures[:5]), pytrace=False)


def both_ways(served, dialect, body, dice):
    """The reply, which is the same streamed and whole, in whichever order they are asked for. None: both are
    refused, as a random choice of tokens may leave none that a grammar allows."""
    told = f"{wire.PATHS[dialect]} {json.dumps(body)}"
    options = {}
    if dialect in ("chat", "completions"):
        options = {"stream_options": {"include_usage": dice.randrange(3) > 0, "continuous_usage_stats": dice.randrange(2) > 0}}
    replies = {}
    for is_stream in dice.sample([True, False], 2):
        more = {"stream": True, **options} if is_stream else {}
        try:
            replies[is_stream] = wire.call(served.port, dialect, {**body, **more})
        except (AssertionError, wire.Refused) as e:
            if "leave no token to draw" not in str(e):
                raise AssertionError(f"{e}: {told} {more}").with_traceback(e.__traceback__)
            replies[is_stream] = None
    if replies[True] is None or replies[False] is None:
        assert replies[True] is None and replies[False] is None, told
        return None
    keeps_usage = not options or options["stream_options"]["include_usage"]
    streamed, whole = (wire.comparable(replies[k], keeps_usage) for k in (True, False))
    wire.require_same(streamed, whole, told)
    return replies[False]


def check_calls(reply, told):
    """Arguments of calls that were not cut are JSON."""
    for choice in reply["choices"]:
        calls = choice["message"].get("tool_calls", [])
        is_cut = choice["finish_reason"] == "length" or choice["stop_reason"] and choice["finish_reason"] == "stop"
        for call in calls[:-1] if is_cut else calls:
            wire.require_same(wire.is_object(call["function"]["arguments"]), True, json.dumps([told, choice]))
        assert bool(calls) == (choice["finish_reason"] == "tool_calls") or is_cut, choice


def say_input(calls):
    """Arguments as Messages shows them: a value, and an empty one if they are cut."""
    def value(text):
        try:
            return json.loads(text)
        except ValueError:
            return {}

    return [(name, value(text)) for name, text in calls]


def chat(served, dice):
    request = made.chat_request(dice, served.said, served.mark_ids)
    bodies = {d: made.chat_body(request, d) for d in ("chat", "responses", "messages")}
    bodies["chat"].update(made.chat_only(dice))
    if "logprobs" in bodies["chat"]:
        bodies["responses"].update(include=["message.output_text.logprobs"], top_logprobs=bodies["chat"]["top_logprobs"])
    replies = {d: both_ways(served, d, body, dice) for d, body in bodies.items()}
    if None in replies.values():
        assert not any(replies.values()), json.dumps(bodies)
        return
    check_calls(replies["chat"], bodies["chat"])
    said = {d: wire.meaning(d, r) for d, r in replies.items()}
    if bodies["chat"].get("n", 1) > 1:  # of several choices only the prompt's tokens can be compared
        for s in said.values():
            s["usage"] = s["usage"][0]
    wire.require_same(said["chat"], said["responses"], json.dumps(bodies))
    shown = [e for i in replies["responses"]["output"] if i["type"] == "message" for e in i["content"][0]["logprobs"]]
    if shown:
        wire.require_same(replies["chat"]["choices"][0]["logprobs"]["content"], shown, json.dumps(bodies))
    said["chat"]["calls"] = say_input(said["chat"]["calls"])
    wire.require_same(said["chat"], said["messages"], json.dumps(bodies))
    served.met.update([k for k in ("text", "reasoning", "calls") if said["chat"][k]] + [said["chat"]["finish"]])


def generated(reply, is_list):
    """(text, stopped, tokens, log probabilities) of each choice of /generate."""
    for r in reply if is_list else [reply]:
        info = r["meta_info"]
        yield (r["text"], info["finish_reason"]["type"], info["completion_tokens"],
               [e[0] for e in info.get("output_token_logprobs", [])])


def texts(served, dice):
    request = made.text_request(dice, served.said)
    completion = made.text_body(request, "completions")
    reply = both_ways(served, "completions", completion, dice)
    body = made.text_body(request, "generate")
    if body:
        is_list = len(request["prompts"]) > 1 or request["n"] > 1
        other = list(generated(both_ways(served, "generate", body, dice), is_list))
        same = [(c["text"], c["finish_reason"], (c["logprobs"] or {}).get("token_logprobs", [])) for c in reply["choices"]]
        wire.require_same(same, [(t, f, l) for t, f, _, l in other], json.dumps(completion))
        assert reply["usage"]["completion_tokens"] == sum(n for _, _, n, _ in other)
    body = made.text_body(request, "completion")
    if body:
        other = both_ways(served, "completion", body, dice)
        other = other if isinstance(other, list) else [other]
        wire.require_same([c["text"] for c in reply["choices"]], [o["content"] for o in other], json.dumps(completion))
    more = made.completions_only(dice)
    if more:
        both_ways(served, "completions", {**completion, **more}, dice)


def test_chats(served):
    for_each_seed(served, chat)


def test_texts(served):
    for_each_seed(served, texts)
