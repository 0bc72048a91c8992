"""SGLang's own frontend language, which runs in the client and asks /generate: gen, select, fork, roles, streams, batches."""
import math

import pytest
import sglang as sgl

SHOTS = "Label each review as positive, negative or neutral.\n\nReview: A joy from start to end.\nLabel: positive\n\nReview: "


@pytest.fixture(scope="module")
def backend(server):
    end = sgl.RuntimeEndpoint(server.url, chat_template_name="chatml")
    sgl.set_default_backend(end)
    return end


@sgl.function
def essay(s, topic):
    s += sgl.system("You are brief.")
    s += sgl.user("Tell me about " + topic)
    s += sgl.assistant(sgl.gen("answer", max_tokens=12, temperature=0))
    forks = s.fork(2)
    for i, f in enumerate(forks):
        f += sgl.user(f"Question {i}?")
        f += sgl.assistant(sgl.gen("more", max_tokens=6, temperature=0))
    s["all"] = [f["more"] for f in forks]


def test_turns_forks_and_variables(backend):
    state = essay.run(topic="rivers")
    assert state["answer"] and len(state["all"]) == 2 and state["answer"] in state.text()
    assert [m["role"] for m in state.messages()] == ["system", "user", "assistant"]
    again = essay.run(topic="rivers")
    assert again["answer"] == state["answer"] and again["all"] == state["all"]


def test_select(backend):
    """By the default method: the package's others stumble over the null that /generate, SGLang's own too, begins a list with."""
    @sgl.function
    def label(s, text):
        s += SHOTS + text + "\nLabel:"
        s += sgl.select("label", [" positive", " negative", " neutral"])

    state = label.run(text="I want my money back.")
    assert state["label"].strip() in ("positive", "negative", "neutral")
    meta = state.get_meta_info("label")
    assert len(meta["input_token_logprobs"]) == 3
    assert all(math.isfinite(x) for x in meta["normalized_prompt_logprobs"])


@pytest.mark.parametrize("dtype,kind", [("int", int), ("float", float), ("bool", lambda t: {"True": True, "False": False}[t.strip()])])
def test_types_and_regular_expressions(backend, dtype, kind):
    @sgl.function
    def year(s):
        s += "The moon landing was in the year "
        s += sgl.gen("value", max_tokens=8, temperature=0, dtype={"int": int, "float": float, "bool": bool}[dtype])
        s += ". A letter: " + sgl.gen("letter", max_tokens=4, temperature=0, regex="[abc]")

    state = year.run()
    kind(state["value"])
    assert state["letter"] in ("a", "b", "c")


def test_a_stream_joins_to_the_text(backend):
    @sgl.function
    def tell(s):
        s += "The river" + sgl.gen("text", max_tokens=16, temperature=0)

    whole = tell.run()
    state = tell.run(stream=True)
    assert "".join(state.text_iter("text")) == state["text"] == whole["text"]


def test_a_batch_gives_what_single_runs_give(backend):
    @sgl.function
    def tell(s, number):
        s += f"Line {number}:" + sgl.gen("text", max_tokens=6, temperature=0, stop="\n")

    states = tell.run_batch([{"number": i} for i in range(6)], num_threads=4)
    assert [s["text"] for s in states] == [tell.run(number=i)["text"] for i in range(6)]
