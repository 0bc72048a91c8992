"""Checkpoints that are quantised already (AWQ, GPTQ, FP8): each computes, to the bit, what the same model with its matrices
dequantised by an independent formula does, and what an independent forward pass does."""
import json
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from conftest import BUILD, ROOT, Server, clean_environment

sys.path.insert(0, str(ROOT / "tests" / "tools"))
from make_quantised import FORMS, LETTERS, log_probabilities, make, write_folder  # noqa: E402

COMPILE = BUILD / "src" / "tools" / "compile" / "serverd-compile"
EXACT = ("--device", "cpu-reference", "--kv-dtype", "f32")
IDS = [3, 17, 0, 8, 8, 12, 5, 19, 1, 14, 2, 2, 11, 6, 9, 4, 10, 7, 13, 18]


def distributions(folder, *options):
    """Log probabilities of the whole vocabulary behind each token, as the server prints them."""
    server = Server(folder, *options)
    body = {"prompt": IDS, "max_tokens": 0, "echo": True, "logprobs": 20, "return_tokens_as_token_ids": True}
    request = urllib.request.Request(server.url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    tops = json.load(urllib.request.urlopen(request))["choices"][0]["logprobs"]["top_logprobs"][1:]
    assert server.stop() == 0, server.log
    assert all(len(t) == len(LETTERS) for t in tops)
    return np.array([[t[f"token_id:{i}"] for i in range(len(LETTERS))] for t in tops])


@pytest.mark.parametrize("form", FORMS)
def test_values_are_kept_exactly(form, tmp_path):
    config, plain = make(form, tmp_path / "packed", tmp_path / "plain")
    found = distributions(tmp_path / "packed", *EXACT)
    same = distributions(tmp_path / "plain", *EXACT)
    assert np.array_equal(found, same)
    expected = log_probabilities(config, plain, IDS)[:-1]
    kl = (np.exp(expected) * (expected - found)).sum(-1)
    assert kl.max() <= 1e-6, kl.max()
    assert np.ptp(expected) > 1  # it says something
    fast = distributions(tmp_path / "packed")
    assert (np.exp(expected) * (expected - fast)).sum(-1).max() <= 0.02


def refusal(folder):
    run = subprocess.run([COMPILE, folder, "-o", folder / "x.sdp"], capture_output=True, text=True, env=clean_environment())
    assert run.returncode != 0
    return run.stderr


def test_what_is_not_supported_is_refused_by_name(tmp_path):
    path = tmp_path / "packed"
    make("gptq", path, tmp_path / "plain")
    config = json.loads((path / "config.json").read_text())
    rows = [({"quant_method": "bitsandbytes"}, 'quant_method: "bitsandbytes"'), ({"quant_method": "gptq", "bits": 3}, "bits: 3"),
            ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "marlin"),
            ({"quant_method": "awq", "version": "gemv"}, "gemv"), ({"quant_method": "awq", "zero_point": False}, "zero_point"),
            ({"quant_method": "fp8", "fmt": "e5m2"}, "e5m2"),
            ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int"}}}}, "with 4 bits"),
            ({"quant_method": "gptq", "bits": 4, "group_size": 48}, "group_size"), ({"quant_method": "gptq", "bits": 4, "group_size": 16}, "groups of 16"),
            ({"quant_method": "awq"}, "qweight"), ({"quant_method": "fp8"}, "qweight")]
    for stated, expected in rows:
        (path / "config.json").write_text(json.dumps(config | {"quantization_config": stated}))
        assert expected in refusal(path), (stated, refusal(path))


def edited(tmp_path, form, edit):
    import make_quantised
    written = {}
    original = make_quantised.write_folder
    make_quantised.write_folder = lambda folder, config, tensors: written.setdefault(folder, (config, tensors))
    try:
        make_quantised.make(form, "a", "b")
    finally:
        make_quantised.write_folder = original
    config, tensors = written["a"]
    edit(tensors)
    write_folder(tmp_path / "edited", config, tensors)
    return refusal(tmp_path / "edited")


NAME = "model.layers.1.mlp.up_proj."


def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path):
    def order(t):
        kind, shape, data = t[NAME + "g_idx"]
        t[NAME + "g_idx"] = (kind, shape, np.frombuffer(data, np.int32)[::-1].tobytes())

    def nan(t):
        kind, shape, data = t[NAME + "weight"]
        t[NAME + "weight"] = (kind, shape, b"\x7f" + data[1:])

    def infinite(t):
        kind, shape, data = t[NAME + "scales"]
        t[NAME + "scales"] = (kind, shape, b"\x00\x7c" + data[2:])

    def shape(suffix):
        def edit(t):
            kind, (rows, columns), data = t[NAME + suffix]
            t[NAME + suffix] = (kind, (columns, rows), data)
        return edit
    assert "desc_act" in edited(tmp_path, "gptq", order)
    assert "not a number" in edited(tmp_path, "fp8-block", nan)
    assert "not finite" in edited(tmp_path, "awq", infinite)
    assert "no qzeros" in edited(tmp_path, "awq", lambda t: t.pop(NAME + "qzeros"))
    assert "no weight_scale" in edited(tmp_path, "fp8-channel", lambda t: t.pop(NAME + "weight_scale"))
    assert NAME + "qzeros is not part" in edited(tmp_path, "awq", lambda t: t.pop(NAME + "qweight"))
    for form, suffix in (("gptq", "qweight"), ("gptq", "qzeros"), ("awq", "scales"), ("fp8-block", "weight_scale_inv")):
        assert NAME + suffix in edited(tmp_path, form, shape(suffix)) or NAME in edited(tmp_path, form, shape(suffix))


@pytest.mark.parametrize("prefix,head", (("model.language_model.", "lm_head"), ("language_model.model.", "language_model.lm_head")))
def test_the_text_part_of_a_model_that_sees(prefix, head, tmp_path):
    config, plain = make("gptq", tmp_path / "packed", tmp_path / "plain")
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 1.0, "original_max_position_embeddings": 8, "beta_fast": 32.0,
            "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3}
    text = {k: v for k, v in config.items() if k != "architectures"} | {"model_type": "ministral3", "sliding_window": None, "rope_parameters": rope}
    names = {n: head + ".weight" if n == "lm_head.weight" else n.replace("model.", prefix, 1) for n in plain}
    tensors = {names[n]: t for n, t in plain.items()}
    tensors |= {"model.vision_tower.patch_conv.weight": np.ones((4, 4)), "multi_modal_projector.linear_1.weight": np.ones((4, 4))}
    write_folder(tmp_path / "many", {"architectures": ["Mistral3ForConditionalGeneration"], "text_config": text, "vision_config": {}}, tensors)
    found = distributions(tmp_path / "many", *EXACT)
    expected = log_probabilities(config | {"temperature": (0.3, 8)}, plain, IDS)[:-1]
    assert (np.exp(expected) * (expected - found)).sum(-1).max() <= 1e-6
    without = log_probabilities(config, plain, IDS)[:-1]
    assert (np.exp(without) * (without - found)).sum(-1).max() > 1e-4
