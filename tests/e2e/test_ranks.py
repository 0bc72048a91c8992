"""--tensor-parallel-size: a model that several ranks share answers as the whole one, and as itself however it is asked."""
import concurrent.futures
import json
import subprocess

import pytest

import wire
from conftest import BUILD, clean_environment

PROMPTS = ["Once upon a time", "The capital of France is", "def add(a, b):", "1 2 3 4 5 6 7 8 9", "a " * 200]


def complete(server, prompt, **more):
    body = {"prompt": prompt, "max_tokens": 12, "temperature": 0, "logprobs": 3, **more}
    return wire.call(server.port, "completions", body)["choices"][0]


@pytest.mark.parametrize("arch, dtype, n_ranks", [("llama", "Q8_0", 2), ("qwen3", "BF16", 4), ("gemma3", "Q4_0", 2), ("phi3", "F16", 4)])
def test_answers_of_shared_models(tiny_model, start, arch, dtype, n_ranks):
    model = tiny_model(arch, dtype)
    whole = start(model, "--ctx-size", 1024)
    shared = start(model, "--ctx-size", 1024, "--tensor-parallel-size", n_ranks)
    alone = [complete(shared, p) for p in PROMPTS]
    for mine, other in zip(alone, (complete(whole, p) for p in PROMPTS)):
        # sums in another order may turn a near tie, behind which all is different
        first = [max(c["logprobs"]["top_logprobs"][0].values()) for c in (mine, other)]
        assert first[0] == pytest.approx(first[1], abs=0.05)
    assert [complete(shared, p) for p in PROMPTS] == alone  # out of the cache
    with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as pool:
        assert list(pool.map(lambda p: complete(shared, p), PROMPTS)) == alone
    assert complete(shared, PROMPTS[0], stream=True)["text"] == alone[0]["text"]
    assert f"rank 0 of {n_ranks}" in shared.log
    assert whole.stop() == 0 and shared.stop() == 0


def test_shared_encoder(tiny_model, start):
    model, body = tiny_model("bert"), {"input": ["hello", "a longer text"]}
    vectors = []
    for options in ([], ["--tensor-parallel-size", 2]):
        server = start(model, *options)
        vectors.append([e["embedding"] for e in json.loads(wire.post(server.port, "/v1/embeddings", body)[2])["data"]])
        assert server.stop() == 0
    for a, b in zip(*vectors):
        assert a == pytest.approx(b, abs=1e-3)


def test_prefixes_of_shared_models_come_back_from_the_disk(tiny_model, start, tmp_path):
    options = ["--ctx-size", 1024, "--tensor-parallel-size", 2, "--kv-disk-path", tmp_path / "kv"]
    answers = []
    for _ in range(2):
        server = start(tiny_model("llama"), *options)
        answers.append(complete(server, "a word " * 100))
        assert server.stop() == 0
    assert answers[0] == answers[1] and any((tmp_path / "kv").rglob("*"))


def test_what_cannot_be_shared(tiny_model, tmp_path):
    def refusal(*options):
        done = subprocess.run([str(BUILD / "src" / "tools" / "serverd"), "--port", "0", "--tensor-parallel-size", *options], text=True,
                              capture_output=True, timeout=60, env=clean_environment())
        assert done.returncode != 0
        return done.stdout + done.stderr

    model = str(tiny_model("llama"))
    compiled = str(tmp_path / "m.sdp")
    subprocess.run([str(BUILD / "src" / "tools" / "compile" / "serverd-compile"), model, "-o", compiled, "-q"], check=True)
    assert "3 ranks cannot share 4 heads with 2 KV heads" in refusal("3", "--model-path", model)
    assert "is compiled for one rank" in refusal("2", "--model-path", compiled)
    assert "tensor-parallel-size" in refusal("17", "--model-path", model)
    assert "takes none" in refusal("2", "--model-path", model, "--lora", "x=/nowhere")
