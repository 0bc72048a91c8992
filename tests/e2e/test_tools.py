"""Calls of tools in the notation of every kind of family, by the openai package and the real engine: they are declared, valid,
and the same streamed, batched and speculated."""
import concurrent.futures
import json

import jsonschema
import openai
import pytest

PERSON = {"type": "object", "additionalProperties": False, "required": ["name", "age"], "properties": {
    "name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
    "colour": {"enum": ["red", "green"]}, "pets": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 2}}}
TOOLS = [{"type": "function", "function": {"name": "add_person", "description": "Adds a person.", "parameters": PERSON, "strict": True}},
         {"type": "function", "function": {"name": "count", "description": "Counts all.", "parameters": {
             "type": "object", "properties": {"deep": {"type": "boolean"}}, "additionalProperties": False}}}]
FAMILIES = ["hermes", "llama3_json", "pythonic", "mistral", "qwen3_coder", "dsml", "harmony"]


@pytest.fixture(scope="module", params=FAMILIES)
def client(request, default_model):
    from conftest import Server
    s = Server(default_model, "--tool-call-parser", request.param, "--ctx-size", "2048", "--threads", "2")
    with openai.OpenAI(base_url=s.url + "/v1", api_key="none", max_retries=0, timeout=120) as c:
        yield c
    assert s.stop() == 0, s.log


def ask(client, **args):
    return client.chat.completions.create(model="default", messages=[
        {"role": "user", "content": "Ann is 31 years old and likes green. Add her."}], tools=TOOLS, max_tokens=400, **args)


def check(choice):
    for call in choice.message.tool_calls:
        schema = next(t["function"]["parameters"] for t in TOOLS if t["function"]["name"] == call.function.name)
        jsonschema.validate(json.loads(call.function.arguments), schema)


def calls_of(choice):
    return [(c.function.name, c.function.arguments) for c in choice.message.tool_calls or []]


def streamed(client, **args):
    calls, finish = [], None
    for chunk in ask(client, stream=True, **args):
        for call in chunk.choices[0].delta.tool_calls or []:
            if call.index == len(calls):
                calls.append([call.function.name, ""])
            calls[-1][1] += call.function.arguments or ""
        finish = chunk.choices[0].finish_reason or finish
    return [tuple(c) for c in calls], finish


def test_a_required_call_is_whole_and_valid(client):
    for temperature in (0, 1):
        args = dict(tool_choice="required", parallel_tool_calls=False, temperature=temperature, seed=3)
        choice = ask(client, **args).choices[0]
        assert choice.finish_reason == "tool_calls" and len(choice.message.tool_calls) == 1, choice
        check(choice)
        assert not choice.message.content
        assert streamed(client, **args) == (calls_of(choice), "tool_calls")


def test_a_named_call_is_of_that_tool(client):
    choice = ask(client, tool_choice={"type": "function", "function": {"name": "count"}}, temperature=0).choices[0]
    assert [c.function.name for c in choice.message.tool_calls] == ["count"]
    check(choice)


def test_content_with_a_form_or_a_call(client):
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {
        "type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"], "additionalProperties": False}}}
    for seed in range(2):
        choice = ask(client, response_format=form, temperature=1, seed=seed).choices[0]
        if choice.finish_reason == "tool_calls":
            check(choice)
        elif choice.finish_reason == "stop":
            assert list(json.loads(choice.message.content)) == ["answer"]


def test_load_changes_no_call(client):
    bodies = [dict(tool_choice="required", parallel_tool_calls=False, temperature=t, seed=s) for s in range(2) for t in (0, 1)]
    alone = [calls_of(ask(client, **b).choices[0]) for b in bodies]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda b: calls_of(ask(client, **b).choices[0]), bodies)) == alone
