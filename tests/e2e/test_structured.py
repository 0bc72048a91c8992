"""Structured output by the openai package: what comes is what was asked for, streamed or not."""
import json
import random
import re

import openai
import pytest

PERSON = {"type": "object", "additionalProperties": False, "required": ["name", "age", "tags"], "properties": {
    "name": {"type": "string", "maxLength": 30}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
    "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3}}}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120) as c:
        yield c


def ask(client, **args):
    return client.chat.completions.create(model="default", messages=[
        {"role": "user", "content": "Describe a person as JSON."}], **args)


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def check_person(text):
    person = json.loads(text)
    assert list(person) == ["name", "age", "tags"] and 0 <= person["age"] <= 150 and len(person["name"]) <= 30
    assert set(person["tags"]) <= {"red", "green", "blue"} and len(person["tags"]) <= 3


def test_every_choice_follows_the_schema(client):
    for temperature in (0, 1, 2):
        reply = ask(client, response_format=schema_format(PERSON), temperature=temperature, n=3, seed=7,
                    max_tokens=300)
        for choice in reply.choices:
            assert choice.finish_reason == "stop"
            check_person(choice.message.content)


def test_a_limit_cuts(client):
    reply = ask(client, response_format=schema_format(PERSON), temperature=0, max_tokens=5)
    assert reply.choices[0].finish_reason == "length"


@pytest.mark.parametrize("body,check", [
    ({"regex": r"\d{3}-\d{4}"}, lambda t: re.fullmatch(r"\d{3}-\d{4}", t)),
    ({"guided_choice": ["yes", "no", "maybe"]}, lambda t: t in ("yes", "no", "maybe")),
    ({"structured_outputs": {"json": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4}}},
     lambda t: 2 <= len(json.loads(t)) <= 4),
    ({"grammar": 'root ::= "a"+ "b"{2,3}'}, lambda t: re.fullmatch("a+b{2,3}", t)),
    ({"response_format": {"type": "json_object"}}, lambda t: isinstance(json.loads(t), dict)),
    ({"guided_json": {"type": "number", "multipleOf": 0.01}, "json_whitespace": "compact"},
     lambda t: isinstance(json.loads(t), (int, float))),
])
def test_each_form(client, body, check):
    for seed in range(3):
        reply = client.completions.create(model="default", prompt="Answer:", temperature=1.5, seed=seed,
                                          max_tokens=200, extra_body=body)
        choice = reply.choices[0]
        assert choice.finish_reason == "length" or check(choice.text), choice.text


@pytest.mark.parametrize("body,code,param", [
    ({"regex": "(a"}, "invalid_regex", "regex"),
    ({"guided_json": {"type": "strin"}}, "invalid_schema", "guided_json"),
    ({"guided_json": {"$ref": "http://example.com/a"}}, "unsupported_schema", "guided_json"),
    ({"grammar": "root ::= x"}, "invalid_grammar", "grammar"),
    ({"regex": "a", "guided_choice": ["b"]}, "invalid_value", "guided_choice"),
])
def test_what_cannot_be_is_refused(client, body, code, param):
    with pytest.raises(openai.BadRequestError) as e:
        client.completions.create(model="default", prompt="a", max_tokens=4, extra_body=body)
    assert e.value.code == code and e.value.param == param


def test_tools_that_have_to_be_called(client):
    tools = [{"type": "function", "function": {"name": n, "parameters": {
        "type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}}}
        for n in ("add_one", "add_two")]
    for choice in ("required", {"type": "function", "function": {"name": "add_two"}}):
        args = dict(model="default", messages=[{"role": "user", "content": "Hello there."}], tools=tools,
                    tool_choice=choice, parallel_tool_calls=False, temperature=0, max_tokens=100)
        whole = client.chat.completions.create(**args).choices[0]
        call = whole.message.tool_calls[0].function
        assert list(json.loads(call.arguments)) == ["x"] and whole.finish_reason == "tool_calls"
        assert call.name == "add_two" if choice != "required" else call.name in ("add_one", "add_two")
        arguments = "".join(c.function.arguments or "" for chunk in client.chat.completions.create(**args, stream=True)
                            for c in chunk.choices[0].delta.tool_calls or [])
        assert arguments == call.arguments


def test_load_changes_no_output(server, client):
    """The same requests alone and all at once."""
    import concurrent.futures
    dice = random.Random(3)
    bodies = [dict(response_format=schema_format(dice.choice([PERSON, {"type": "object", "properties": {
        f"a_long_name_{i}": {"type": "boolean"} for i in range(dice.randrange(2, 9))}}])),
        temperature=dice.choice([0, 1]), seed=dice.randrange(100), max_tokens=120) for _ in range(12)]
    alone = [ask(client, **b).choices[0].message.content for b in bodies]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda b: ask(client, **b).choices[0].message.content, bodies))
    assert alone == together
