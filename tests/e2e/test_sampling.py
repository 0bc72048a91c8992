"""Sampling parameters beyond OpenAI's, by the `extra_body` of its package."""
import concurrent.futures
import math

import openai
import pytest

STORY = [{"role": "user", "content": "Tell me a very short story."}]
CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120) as c:
        yield c


def chat(client, messages, extra=None, **args):
    args = dict(model="default", messages=messages, max_tokens=24) | args
    return client.chat.completions.create(**args, extra_body=extra or {}).choices[0]


def text(client, messages, extra=None, **args):
    return chat(client, messages, extra, **args).message.content


EXTRAS = [
    {"typical_p": 0.5},
    {"top_n_sigma": 1.0},
    {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"dry_multiplier": 0.8, "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": 100},
    {"samplers": ["top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"], "top_k": 40, "min_p": 0.05},
]


def test_a_seed_gives_the_same_text_alone_and_among_others(client):
    def ask(extra):
        return text(client, STORY, extra, temperature=1.3, seed=11)

    alone = [ask(extra) for extra in EXTRAS]
    with concurrent.futures.ThreadPoolExecutor(len(EXTRAS)) as pool:
        assert list(pool.map(ask, EXTRAS)) == alone
    assert len(set(alone)) > 2


def test_what_leaves_one_token_is_greedy(client):
    greedy = text(client, STORY, temperature=0)
    for extra in [{"top_n_sigma": 1e-6}, {"top_k": 1, "samplers": ["temperature", "top_k"]},
                  {"min_p": 1.0, "samplers": ["penalties", "dry", "min_p"]}]:
        assert text(client, STORY, extra, temperature=5, seed=3) == greedy


def test_steps_left_out_do_not_run(client):
    args = dict(temperature=1, seed=3)
    assert text(client, STORY, {"top_k": 1, "samplers": ["temperature"]}, **args) == text(client, STORY, **args)


def test_xtc_avoids_the_likely_token(client):
    greedy = text(client, CAPITAL, temperature=0)
    extra = {"xtc_probability": 1, "xtc_threshold": 0.001, "top_k": 2}
    assert text(client, CAPITAL, extra, temperature=1, seed=3) != greedy


def test_dry_ends_a_repetition(client):
    prompt = " ".join(["one two three four"] * 8)
    args = dict(model="default", prompt=prompt, temperature=0, max_tokens=12)
    plain = client.completions.create(**args).choices[0].text
    dry = client.completions.create(**args, extra_body={"dry_multiplier": 100}).choices[0].text
    apart = client.completions.create(**args, extra_body={
        "dry_multiplier": 100, "dry_sequence_breakers": [" four"], "dry_allowed_length": 5}).choices[0].text
    assert "one two three four" in plain
    assert "one two three four" not in dry
    assert apart == plain  # no repetition reaches over a breaker, and four tokens are allowed


def test_banned_words_do_not_come(client):
    assert "Paris" in text(client, CAPITAL, temperature=0)
    assert "Paris" not in text(client, CAPITAL, {"bad_words": ["Paris"]}, temperature=0)
    long = text(client, CAPITAL, temperature=0)
    words = long.split()
    two = " ".join(words[:2])
    assert two not in text(client, CAPITAL, {"bad_words": [two]}, temperature=0)


def test_banned_ids_do_not_come(client):
    args = dict(model="default", prompt="The sky is", temperature=0, max_tokens=4)

    def ids(**extra):
        reply = client.completions.create(**args, extra_body={"return_token_ids": True} | extra)
        return reply.choices[0].token_ids

    plain = ids()
    assert plain[0] not in ids(bad_words=[plain[0]])
    cut = ids(bad_words=[plain[:3]])
    assert cut[:2] == plain[:2] and cut[2] != plain[2]


def test_biases_by_id_and_by_text(client):
    args = dict(model="default", prompt="The sky is", temperature=0, max_tokens=1)

    def one(bias):
        reply = client.completions.create(**args, extra_body={"logit_bias": bias, "return_token_ids": True})
        return reply.choices[0].token_ids[0], reply.choices[0].text

    token, word = one({})
    assert one([[token, False]])[0] != token
    assert one([[word, -100]])[0] != token
    assert one([[" green", 100]])[1] == " green"
    assert one([[token, -100], [token, 0]])[0] == token  # the last counts


@pytest.mark.parametrize("asked", [{"logprobs_mode": "processed"}, {"post_sampling_probs": True}])
def test_processed_logprobs_are_of_what_is_left(client, asked):
    args = dict(temperature=1.5, seed=5, logprobs=True, top_logprobs=5, max_tokens=8)
    raw = chat(client, STORY, {"top_k": 3}, **args)
    processed = chat(client, STORY, {"top_k": 3} | asked, **args)
    assert processed.message.content == raw.message.content
    for before, after in zip(raw.logprobs.content, processed.logprobs.content, strict=True):
        kept = [t.logprob for t in after.top_logprobs if t.logprob > -9999]
        assert len(kept) == 3 and len(after.top_logprobs) == 5
        assert math.isclose(sum(map(math.exp, kept)), 1, abs_tol=1e-4)
        assert after.logprob in kept
        top = [t.logprob / 1.5 for t in before.top_logprobs[:3]]
        total = math.log(sum(map(math.exp, top)))
        assert kept == pytest.approx([x - total for x in top], abs=1e-3)


def test_processed_logprobs_under_a_grammar(client):
    extra = {"logprobs_mode": "processed", "guided_choice": ["yes", "no"]}
    reply = chat(client, CAPITAL, extra, temperature=1, seed=1, logprobs=True, top_logprobs=3)
    assert reply.message.content in ("yes", "no")
    for token in reply.logprobs.content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3


def test_prompt_logprobs_are_those_of_echo(client):
    args = dict(model="default", prompt="The capital of France is Paris.", temperature=0, max_tokens=2, logprobs=1)
    echo = client.completions.create(**args, echo=True).choices[0].logprobs
    reply = client.completions.create(**args, extra_body={"prompt_logprobs": 3, "return_token_ids": True}).choices[0]
    scores = reply.prompt_logprobs
    assert scores[0] is None and len(reply.logprobs.tokens) == 2
    assert all(len(top) <= 2 for top in reply.logprobs.top_logprobs)  # not the prompt's three
    for i, entry in enumerate(scores[1:], 1):
        token = next(iter(entry.values()))  # the prompt's own is first
        assert token["logprob"] == echo.token_logprobs[i]
        assert token["decoded_token"] == echo.tokens[i]
        assert 3 <= len(entry) <= 4 and {1, 2, 3} <= {t["rank"] for t in entry.values()}
    again = client.completions.create(**args, extra_body={"prompt_logprobs": 3}).choices[0]
    assert again.prompt_logprobs == scores


def test_prompt_logprobs_of_a_chat(client):
    reply = client.chat.completions.create(model="default", messages=CAPITAL, temperature=0, max_tokens=2,
                                           extra_body={"prompt_logprobs": 0})
    assert len(reply.prompt_logprobs) == reply.usage.prompt_tokens
    assert reply.prompt_logprobs[0] is None
    assert all(len(entry) == 1 for entry in reply.prompt_logprobs[1:])
    assert reply.choices[0].logprobs is None


def test_prompts_are_truncated_at_their_beginning(client):
    args = dict(model="default", temperature=0, max_tokens=6)
    long = "word " * 50 + "The capital of France is"
    n = client.completions.create(**args, prompt=long).usage.prompt_tokens
    cut = client.completions.create(**args, prompt=long, extra_body={"truncate_prompt_tokens": 5})
    short = client.completions.create(**args, prompt="The capital of France is",
                                      extra_body={"truncate_prompt_tokens": n})
    assert n > 50 and cut.usage.prompt_tokens == 5
    assert short.usage.prompt_tokens >= 5
    whole = client.completions.create(**args, prompt=long, extra_body={"truncate_prompt_tokens": -1})
    assert whole.usage.prompt_tokens == n
    too_long = "word " * 20000
    with pytest.raises(openai.BadRequestError):
        client.completions.create(**args, prompt=too_long)
    fits = client.completions.create(**args, prompt=too_long, extra_body={"truncate_prompt_tokens": 40})
    assert fits.usage.prompt_tokens == 40
