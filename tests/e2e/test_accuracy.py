"""Logits of real models against exact float32 references."""
import json

import pytest
from accuracy import compare
from conftest import DATA, find_model

OTHERS = [("qwen-0.5b-q4", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
          ("gemma3-270m-q4_k_m", "gemma-3-270m-q4_k_m.gguf")]


# The short texts have some 180 tokens, half a percent each.
LEAST_SAME_TOP = 0.97


def check(url, name, least_same_top=LEAST_SAME_TOP):
    with open(DATA / "logits" / f"{name}.json") as f:
        result = compare(url, json.load(f))
    print(name, result)
    assert result["nll_difference"] <= 0.005
    assert result["kl"] <= 0.002
    assert result["top1"] >= least_same_top


@pytest.mark.parametrize("length", ["short", "long"])
def test_default_model(server, length):
    check(server.url, f"smollm2-135m-instruct-q4_1.{length}", 0.98)


@pytest.mark.parametrize("reference, model", OTHERS)
def test_other_models(start, reference, model):
    path = find_model(model)
    if not path:
        pytest.skip(f"SERVERD_TEST_MODELS has no {model}")
    s = start(path, "--ctx-size", "4096")
    for length in ("short", "long"):
        check(s.url, f"{reference}.{length}")
