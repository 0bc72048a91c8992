"""The `openai` package, as its users use it."""
import openai
import pytest

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120) as c:
        yield c


@pytest.fixture(scope="module")
def model(client):
    return client.models.list().data[0].id


def test_models_are_listed_and_found(client, model):
    assert client.models.retrieve(model).id == model
    assert client.models.list().data[0].object == "model"


def test_chat_answers(client, model):
    reply = client.chat.completions.create(model=model, messages=MESSAGES, temperature=0, max_tokens=16)
    choice = reply.choices[0]
    assert "Paris" in choice.message.content
    assert choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.prompt_tokens_details.cached_tokens is not None
    assert reply.id.startswith("chatcmpl-") and reply.object == "chat.completion"


def test_a_stream_joins_to_the_whole_reply(client, model):
    args = dict(model=model, messages=MESSAGES, temperature=0, max_tokens=24)
    whole = client.chat.completions.create(**args)
    text, finish, usage, n_chunks = "", None, None, 0
    for chunk in client.chat.completions.create(**args, stream=True, stream_options={"include_usage": True}):
        if not chunk.choices:
            usage = chunk.usage
            continue
        n_chunks += 1
        if n_chunks == 1:
            assert chunk.choices[0].delta.role == "assistant"
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
    assert text == whole.choices[0].message.content
    assert finish == whole.choices[0].finish_reason
    assert usage == whole.usage
    assert n_chunks > 2


def test_the_stream_helper_accumulates(client, model):
    with client.chat.completions.stream(model=model, messages=MESSAGES, temperature=0, max_tokens=12) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content


def test_chat_logprobs(client, model):
    reply = client.chat.completions.create(model=model, messages=MESSAGES, temperature=0, max_tokens=8,
                                           logprobs=True, top_logprobs=5)
    choice = reply.choices[0]
    content = choice.logprobs.content
    assert content and all(len(t.top_logprobs) == 5 for t in content)
    for t in content:
        assert t.logprob <= 0 and t.logprob == t.top_logprobs[0].logprob
        assert t.bytes == list(t.token.encode())
    assert "".join(t.token for t in content) == choice.message.content


def test_n_choices_differ_and_the_first_is_the_single_one(client, model):
    args = dict(model=model, messages=[{"role": "user", "content": "Tell me a very short story."}],
                temperature=1.2, seed=7, max_tokens=20)
    one = client.chat.completions.create(**args)
    three = client.chat.completions.create(**args, n=3)
    texts = [c.message.content for c in three.choices]
    assert [c.index for c in three.choices] == [0, 1, 2]
    assert texts[0] == one.choices[0].message.content
    assert len(set(texts)) == 3
    assert three.usage.prompt_tokens == one.usage.prompt_tokens


def test_completions_of_every_prompt_form(client, model, server):
    text = "The sky is"
    import json, urllib.request
    request = urllib.request.Request(server.url + "/tokenize", json.dumps({"prompt": text}).encode(),
                                     {"Content-Type": "application/json"})
    ids = json.load(urllib.request.urlopen(request))["tokens"]
    args = dict(model=model, temperature=0, max_tokens=6)
    a = client.completions.create(prompt=text, **args)
    b = client.completions.create(prompt=ids, **args)
    both = client.completions.create(prompt=[text, "One two three"], **args)
    id_lists = client.completions.create(prompt=[ids, ids], **args)
    assert a.choices[0].text == b.choices[0].text == both.choices[0].text == id_lists.choices[1].text
    assert [c.index for c in both.choices] == [0, 1]
    assert both.usage.prompt_tokens > a.usage.prompt_tokens


def test_echo_with_logprobs_scores_the_prompt(client, model):
    reply = client.completions.create(model=model, prompt="The sky is blue", max_tokens=0, echo=True, logprobs=2)
    choice = reply.choices[0]
    lp = choice.logprobs
    assert choice.text == "The sky is blue"
    assert lp.token_logprobs[0] is None and all(x < 0 for x in lp.token_logprobs[1:])
    assert "".join(lp.tokens) == choice.text
    assert lp.text_offset[0] == 0 and len(lp.text_offset) == len(lp.tokens) == len(lp.top_logprobs)


def test_the_best_of_many_choices(client, model):
    args = dict(model=model, prompt=["Once upon a time", "My name is"], temperature=1, seed=5, max_tokens=12)
    every = client.completions.create(**args, n=5, logprobs=0)
    best = client.completions.create(**args, n=2, extra_body={"best_of": 5})
    assert best.usage.completion_tokens == every.usage.completion_tokens
    assert [c.index for c in best.choices] == [0, 1, 2, 3]
    for prompt in range(2):
        choices = every.choices[5 * prompt:5 * prompt + 5]
        mean = {c.text: sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in choices}
        ranked = sorted(mean, key=mean.get, reverse=True)
        assert [c.text for c in best.choices[2 * prompt:2 * prompt + 2]] == ranked[:2]
        assert best.choices[2 * prompt].logprobs is None


def test_a_completion_streams(client, model):
    args = dict(model=model, prompt="Once upon a time", temperature=0, max_tokens=12)
    whole = client.completions.create(**args).choices[0].text
    parts = [c.choices[0].text for c in client.completions.create(**args, stream=True) if c.choices]
    assert "".join(parts) == whole and len(parts) > 3


def test_stop_strings_end_the_text(client, model):
    args = dict(model=model, prompt="1, 2, 3, 4,", temperature=0, max_tokens=24)
    free = client.completions.create(**args).choices[0].text
    stop = free[5:8]
    cut = client.completions.create(**args, stop=[stop]).choices[0]
    assert cut.text == free[: free.index(stop)] and cut.finish_reason == "stop"


@pytest.mark.parametrize("call, error, status", [
    (dict(model="no-such-model"), openai.NotFoundError, 404),
    (dict(temperature=-1), openai.BadRequestError, 400),
    (dict(top_p=7), openai.BadRequestError, 400),
    (dict(messages=[]), openai.BadRequestError, 400),
    (dict(messages=[{"role": "nobody", "content": "x"}]), openai.BadRequestError, 400),
    (dict(messages=[{"role": "user", "content": "word " * 9000}]), openai.BadRequestError, 400),
])
def test_errors_become_exception_classes(client, model, call, error, status):
    args = dict(model=model, messages=MESSAGES, max_tokens=4)
    args.update(call)
    with pytest.raises(error) as caught:
        client.chat.completions.create(**args)
    assert caught.value.status_code == status
    assert caught.value.body["message"] and caught.value.body["type"] == "invalid_request_error"


def test_a_prompt_beyond_the_context_says_so(client, model):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=model, prompt="word " * 9000, max_tokens=1)
    assert caught.value.code == "context_length_exceeded"
    assert "maximum context length is" in str(caught.value)


def test_keys_are_checked(start, tiny_model, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# clients\nsecret-one\nsecret-two\n")
    s = start(tiny_model("llama"), "--api-key-file", keys)
    for key in ("secret-one", "secret-two"):
        assert openai.OpenAI(base_url=s.url + "/v1", api_key=key, max_retries=0).models.list().data
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=s.url + "/v1", api_key="wrong", max_retries=0).models.list()
    assert s.status("/health") == 200


def test_the_async_client_runs_many_at_once(server, model):
    import asyncio

    async def main():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x", timeout=120) as c:
            calls = [c.completions.create(model=model, prompt=f"Number {i}:", max_tokens=4, temperature=0) for i in range(12)]
            return await asyncio.gather(*calls)

    assert all(r.choices[0].text for r in asyncio.run(main()))
