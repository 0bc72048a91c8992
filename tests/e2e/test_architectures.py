"""Every architecture against the independent forward pass, on tiny random models."""
import json
import sys
import urllib.request

import numpy as np
import pytest
from accuracy import score
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "tools"))
from forward_oracle import Oracle, log_softmax  # noqa: E402

DECODERS = ["llama", "mistral3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"]


def random_ids(oracle, n=40):
    n_vocab = oracle.w("token_embd.weight").shape[0]
    return [int(i) for i in np.random.default_rng(5).integers(0, n_vocab, n)]


# Mean and greatest error of a log probability: keys and values in f16; those in bf16 and activations in
# codes of 8 bits. (Random weights amplify both.)
LIMITS = {"F32": (3e-3, 2e-2), "Q8_0": (3e-2, 2e-1)}
OPTIONS = {"F32": ("--kv-dtype", "f16"), "Q8_0": ()}


def check_decoder(path, url, limit, greatest):
    oracle = Oracle(path)
    ids = random_ids(oracle)
    expected = log_softmax(oracle.logits(ids))
    chosen, tops = score(url, ids)
    for i in range(1, len(ids)):
        assert chosen[i] == pytest.approx(expected[i - 1, ids[i]], abs=greatest)
        for token, lp in tops[i].items():
            assert lp == pytest.approx(expected[i - 1, token], abs=greatest)
    error = np.mean([abs(chosen[i] - expected[i - 1, ids[i]]) for i in range(1, len(ids))])
    assert error < limit


@pytest.mark.parametrize("dtype", ["F32", "Q8_0"])
@pytest.mark.parametrize("arch", DECODERS)
def test_decoder_equals_the_oracle(start, tiny_model, arch, dtype):
    path = tiny_model(arch, dtype)
    check_decoder(path, start(path, *OPTIONS[dtype]).url, *LIMITS[dtype])


@pytest.mark.parametrize("arch", DECODERS)
def test_f32_cache_is_exact(start, tiny_model, arch):
    path = tiny_model(arch)
    s = start(path, "--kv-dtype", "f32")
    oracle = Oracle(path)
    ids = random_ids(oracle)
    expected = log_softmax(oracle.logits(ids))
    chosen, _ = score(s.url, ids)
    assert max(abs(chosen[i] - expected[i - 1, ids[i]]) for i in range(1, len(ids))) < 1e-3


def test_encoder_equals_the_oracle(start, tiny_model):
    path = tiny_model("bert")
    s = start(path)
    ids = random_ids(Oracle(path), 12)
    request = urllib.request.Request(s.url + "/v1/embeddings", json.dumps({"input": [ids]}).encode(),
                                     {"Content-Type": "application/json"})
    got = np.array(json.load(urllib.request.urlopen(request))["data"][0]["embedding"])
    expected = Oracle(path).embedding(ids)
    assert got @ expected > 0.9999  # weights and activations of linear layers are bf16
    assert np.abs(got - expected).max() < 5e-3
