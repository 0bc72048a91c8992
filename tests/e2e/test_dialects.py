"""Tools, Anthropic's Messages and OpenAI's Responses, by their own packages."""
import json

import anthropic
import openai
import pytest

TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Current weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]


def example(city, n):
    """A turn in which the tool was called: a small model does it again."""
    return [{"role": "user", "content": f"Weather in {city}?"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": f"call_{n}", "type": "function",
                 "function": {"name": "get_weather", "arguments": json.dumps({"city": city})}}]}]


CHAT = [m for i, c in enumerate(("Rome", "Bern", "Oslo", "Lima")) for m in example(c, i)] + [
    {"role": "user", "content": "Weather in Paris?"}]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120) as c:
        yield c


@pytest.fixture(scope="module")
def claude(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=120) as c:
        yield c


def join(stream):
    """What a stream of chunks says: text, calls, why it ended."""
    text, calls, finish = "", {}, None
    for chunk in stream:
        if not chunk.choices:
            continue
        delta = chunk.choices[0].delta
        text += delta.content or ""
        for call in delta.tool_calls or []:
            known = calls.setdefault(call.index, {"name": "", "arguments": "", "id": call.id})
            known["name"] += call.function.name or ""
            known["arguments"] += call.function.arguments or ""
        finish = chunk.choices[0].finish_reason or finish
    assert sorted(calls) == list(range(len(calls)))
    return text, [calls[i] for i in sorted(calls)], finish


def test_a_tool_is_called(client):
    args = dict(model="default", messages=CHAT, tools=TOOLS, temperature=0, max_tokens=60)
    whole = client.chat.completions.create(**args).choices[0]
    assert whole.finish_reason == "tool_calls" and whole.message.content is None
    call = whole.message.tool_calls[0]
    assert call.function.name == "get_weather" and json.loads(call.function.arguments)["city"] == "Paris"
    text, calls, finish = join(client.chat.completions.create(**args, stream=True))
    assert (text, finish) == ("", "tool_calls")
    assert [(c["name"], c["arguments"]) for c in calls] == [
        (c.function.name, c.function.arguments) for c in whole.message.tool_calls]
    assert client.chat.completions.create(**args, parallel_tool_calls=False).choices[0].message.tool_calls


def test_without_tools_the_same_text_is_content(client):
    args = dict(model="default", messages=CHAT, tools=TOOLS, tool_choice="none", temperature=0, max_tokens=60)
    reply = client.chat.completions.create(**args).choices[0]
    assert reply.message.tool_calls is None and reply.message.content


def test_functions_of_old(client):
    args = dict(model="default", messages=CHAT, functions=[TOOLS[0]["function"]], temperature=0, max_tokens=60)
    reply = client.chat.completions.create(**args).choices[0]
    assert reply.finish_reason == "function_call" and reply.message.function_call.name == "get_weather"
    name = arguments = ""
    for chunk in client.chat.completions.create(**args, stream=True):
        part = chunk.choices[0].delta.function_call
        name += (part and part.name) or ""
        arguments += (part and part.arguments) or ""
    assert (name, arguments) == ("get_weather", reply.message.function_call.arguments)


def test_messages(claude):
    args = dict(model="default", max_tokens=24, system=[{"type": "text", "text": "Be short."}],
                messages=[{"role": "user", "content": "What is the capital of France?"}],
                extra_body={"temperature": 0})
    whole = claude.messages.create(**args)
    assert "Paris" in whole.content[0].text and whole.role == "assistant"
    with claude.messages.stream(**args) as stream:
        kinds = [e.type for e in stream]
        final = stream.get_final_message()
    assert final.content[0].text == whole.content[0].text and final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    args.pop("extra_body")
    n = claude.messages.count_tokens(**{k: v for k, v in args.items() if k != "max_tokens"}).input_tokens
    assert n == whole.usage.input_tokens + whole.usage.cache_read_input_tokens


def test_messages_with_a_tool(claude):
    def turn(city, n):
        return [{"role": "user", "content": f"Weather in {city}?"},
                {"role": "assistant", "content": [
                    {"type": "tool_use", "id": f"toolu_{n}", "name": "get_weather", "input": {"city": city}}]}]

    tools = [{"name": "get_weather", "description": "Current weather of a city.",
              "input_schema": TOOLS[0]["function"]["parameters"]}, {"type": "web_search_20250305", "name": "web_search"}]
    messages = [m for i, c in enumerate(("Rome", "Bern", "Oslo", "Lima")) for m in turn(c, i)]
    args = dict(model="default", max_tokens=60, tools=tools, extra_body={"temperature": 0},
                messages=[*messages, {"role": "user", "content": "Weather in Paris?"}])
    whole = claude.messages.create(**args)
    assert whole.stop_reason == "tool_use" and whole.content[-1].input == {"city": "Paris"}
    with claude.messages.stream(**args) as stream:
        final = stream.get_final_message()
    assert [b.input for b in final.content if b.type == "tool_use"] == [
        b.input for b in whole.content if b.type == "tool_use"]
    back = claude.messages.create(**{**args, "max_tokens": 8, "messages": [
        *args["messages"], {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in final.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": final.content[-1].id, "content": "sunny"}]}]})
    assert back.content


def test_an_open_message_is_continued(claude):
    reply = claude.messages.create(model="default", max_tokens=4, extra_body={"temperature": 0}, messages=[
        {"role": "user", "content": "Count from one to ten."}, {"role": "assistant", "content": "1, 2, 3, 4,"}])
    assert "5" in reply.content[0].text


def test_a_reply_with_one_answer_refuses_to_hold_more(client, claude):
    with pytest.raises(openai.BadRequestError) as e:
        client.responses.create(model="default", input="a", max_output_tokens=2, extra_body={"n": 2})
    assert (e.value.code, e.value.param) == ("unsupported_value", "n")
    with pytest.raises(anthropic.BadRequestError) as e:
        claude.messages.create(model="default", max_tokens=2, messages=[{"role": "user", "content": "a"}], extra_body={"n": 2})
    assert "/v1/chat/completions" in e.value.body["error"]["message"]


def test_errors_have_the_dialect_of_their_path(claude):
    with pytest.raises(anthropic.NotFoundError) as e:
        claude.messages.create(model="none", max_tokens=4, messages=[{"role": "user", "content": "a"}])
    assert e.value.body["error"]["type"] == "not_found_error" and e.value.body["request_id"]
    with pytest.raises(anthropic.BadRequestError) as e:
        claude.messages.create(model="default", max_tokens=4, messages=[{"role": "user", "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aaaa"}}]}])
    assert "text only" in e.value.body["error"]["message"]
    assert claude.models.list().data[0].type == "model"


def test_responses(client):
    first = client.responses.create(model="default", input="What is the capital of France?", temperature=0,
                                    max_output_tokens=16)
    assert "Paris" in first.output_text and first.status in ("completed", "incomplete")
    second = client.responses.create(model="default", input="And of Italy?", previous_response_id=first.id,
                                     temperature=0, max_output_tokens=16)
    assert second.usage.input_tokens > first.usage.input_tokens
    assert second.usage.input_tokens_details.cached_tokens > 0
    assert client.responses.retrieve(first.id).output_text == first.output_text
    assert client.responses.input_items.list(first.id).data[0].content[0].text == "What is the capital of France?"
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as e:
        client.responses.create(model="default", input="a", previous_response_id=first.id)
    assert e.value.code == "previous_response_not_found"
    unkept = client.responses.create(model="default", input="a", store=False, max_output_tokens=4)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


def test_responses_with_a_tool(client):
    items = []
    for i, city in enumerate(("Rome", "Bern", "Oslo", "Lima")):
        items += [{"role": "user", "content": f"Weather in {city}?"},
                  {"type": "function_call", "call_id": f"call_{i}", "name": "get_weather",
                   "arguments": json.dumps({"city": city})}]
    args = dict(model="default", temperature=0, max_output_tokens=60, tools=[
        {"type": "function", **TOOLS[0]["function"]}, {"type": "web_search"}],
        input=[*items, {"role": "user", "content": "Weather in Paris?"}])
    whole = client.responses.create(**args)
    call = next(o for o in whole.output if o.type == "function_call")
    assert json.loads(call.arguments) == {"city": "Paris"}
    with client.responses.stream(**args) as stream:
        kinds, numbers = zip(*[(e.type, e.sequence_number) for e in stream if hasattr(e, "sequence_number")])
        final = stream.get_final_response()
    assert list(numbers) == list(range(len(numbers)))
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete")
    assert [o.arguments for o in final.output if o.type == "function_call"] == [
        o.arguments for o in whole.output if o.type == "function_call"]
    back = client.responses.create(**{**args, "input": [*args["input"], *[o.model_dump(exclude_none=True)
                                                                          for o in final.output],
                                                       {"type": "function_call_output", "call_id": call.call_id,
                                                        "output": "sunny"}]})
    assert back.output
