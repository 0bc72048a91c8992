import litellm
import pytest

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def args(base_url):
    return dict(model="openai/default", api_base=base_url, api_key="none", temperature=0, max_tokens=24, num_retries=0)


def test_completion_and_stream(args):
    whole = litellm.completion(messages=MESSAGES, **args)
    assert "Paris" in whole.choices[0].message.content and whole.usage.completion_tokens > 0
    chunks = list(litellm.completion(messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **args))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content


def test_errors_are_told_by_their_text(args):
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(messages=[{"role": "user", "content": "word " * 9000}], **args)
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=MESSAGES, **{**args, "model": "openai/none"})


def test_a_tool(args):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}}]
    reply = litellm.completion(messages=MESSAGES, tools=tools, tool_choice="required", **args)
    assert reply.choices[0].message.tool_calls[0].function.name == "f"
