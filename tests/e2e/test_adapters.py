"""Adapters: against merged weights computed elsewhere, by name over the API, in every form of file."""
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import openai
import pytest
from conftest import BUILD, ROOT

sys.path.insert(0, str(ROOT / "tests" / "tools"))
from forward_oracle import Oracle, log_softmax  # noqa: E402
from make_adapter import Adapter, write_safetensors  # noqa: E402

COMPILE = BUILD / "src" / "tools" / "compile" / "serverd-compile"
DECODERS = ["llama", "mistral3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"]
EXACT = ("--kv-dtype", "f32", "--program-cache", "off")


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


def complete(url, ids, model, **more):
    body = {"model": model, "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 20, "temperature": 0,
            "return_tokens_as_token_ids": True, **more}
    status, reply = post(url + "/v1/completions", body)
    assert status == 200, reply
    return reply


def score(url, ids, model):
    return complete(url, ids, model)["choices"][0]["logprobs"]["token_logprobs"]


def prompt(path, n=40, seed=5):
    n_vocab = Oracle(path).w("token_embd.weight").shape[0]
    return [int(i) for i in np.random.default_rng(seed).integers(0, n_vocab, n)]


def expected_scores(path, ids, deltas=None):
    oracle = Oracle(path)
    for name, delta in (deltas or {}).items():
        oracle.weights[name] = oracle.w(name) + delta
    z = log_softmax(oracle.logits(ids))
    return z[np.arange(len(ids) - 1), ids[1:]]


def error(scores, expected):
    return max(abs(np.array(scores[1:]) - expected))


@pytest.mark.parametrize("arch", DECODERS)
def test_an_adapter_equals_merged_weights(start, tiny_model, tmp_path, arch):
    """Every linear layer of every architecture, from each form of file, with the same bits."""
    path = tiny_model(arch)
    adapter = Adapter(path, rank=5, seed=1)
    gguf = adapter.write_gguf(tmp_path / "a.gguf")
    subprocess.run([COMPILE, gguf, "--base", path, "-o", tmp_path / "a.sdp"], check=True)
    forms = [f"gguf={gguf}", f"sdp={tmp_path}/a.sdp", f"half={gguf}:0.5"]
    if arch != "mistral3":  # its PEFT form has other names
        forms.append(f"peft={adapter.write_peft(tmp_path / 'peft')}")
    s = start(path, *EXACT, "--lora", ",".join(forms))
    ids = prompt(path)
    plain, whole = score(s.url, ids, ""), score(s.url, ids, "gguf")
    merged = expected_scores(path, ids, adapter.deltas())
    assert error(whole, merged) < 1e-3
    assert error(plain, expected_scores(path, ids)) < 1e-3
    assert error(plain, merged) > 0.01  # it does something
    assert error(score(s.url, ids, "half"), expected_scores(path, ids, adapter.deltas(0.5))) < 1e-3
    assert score(s.url, ids, "sdp") == whole
    if arch != "mistral3":
        assert score(s.url, ids, "peft") == whole


def test_quantised_bases_take_the_same_file(start, tiny_model, tmp_path):
    adapter = Adapter(tiny_model("llama"), rank=4, seed=3)
    subprocess.run([COMPILE, adapter.write_gguf(tmp_path / "a.gguf"), "--base", tiny_model("llama"),
                    "-o", tmp_path / "a.sdp"], check=True)
    path = tiny_model("llama", "Q8_0")
    s = start(path, "--program-cache", "off", "--lora", f"a={tmp_path}/a.sdp")
    ids = prompt(path)
    assert error(score(s.url, ids, "a"), expected_scores(path, ids, adapter.deltas())) < 0.3


def test_patterns_and_rs_lora(start, tiny_model, tmp_path):
    path = tiny_model("qwen2")
    adapter = Adapter(path, rank=4, seed=4, head=False)
    wide = Adapter(path, rank=6, seed=9, head=False, targets=("attn_v",))
    adapter.sites.update(wide.sites)
    folder = adapter.write_peft(tmp_path / "p", use_rslora=True, rank_pattern={"v_proj": 6},
                                alpha_pattern={"layers.1.self_attn.q_proj": 2.0, r"layers\.\d+\.mlp\..*": 3.0},
                                layers_to_transform=[0, 1])
    for name, (a, b, _) in adapter.sites.items():
        alpha = 2.0 if name == "blk.1.attn_q.weight" else 3.0 if "ffn" in name else 8.0
        adapter.sites[name] = (a, b, alpha / len(a) ** 0.5)
    s = start(path, *EXACT, "--lora", f"p={folder}")
    ids = prompt(path)
    assert error(score(s.url, ids, "p"), expected_scores(path, ids, adapter.deltas())) < 1e-3


def test_a_batch_of_adapters_gives_the_bits_of_each_alone(start, tiny_model, tmp_path):
    """Eight adapters and the base at once, cached or not; nothing passes from one to the other."""
    path = tiny_model("llama")
    adapters = [Adapter(path, rank=1 + i, seed=10 + i).write_gguf(tmp_path / f"{i}.gguf") for i in range(8)]
    lora = ",".join(f"a{i}={p}" for i, p in enumerate(adapters))
    models = [f"a{i}" for i in range(8)] + [""] * 8
    ids = prompt(path, 50)
    make = lambda url, model: complete(url, ids, model, max_tokens=24, ignore_eos=True)["choices"][0]
    alone = start(path, "--program-cache", "off", "--no-prefix-cache", "--max-running", 1, "--lora", lora)
    expected = {m: make(alone.url, m) for m in models}
    assert len({json.dumps(e["logprobs"]["token_logprobs"]) for e in expected.values()}) == 9
    without = start(path, "--program-cache", "off")
    assert make(without.url, "")["logprobs"] == expected[""]["logprobs"]
    s = start(path, "--program-cache", "off", "--lora", lora)
    for _ in range(2):  # the second time with everything in the cache
        got = {}
        threads = [threading.Thread(target=lambda i=i, m=m: got.update({i: make(s.url, m)}))
                   for i, m in enumerate(models)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for i, m in enumerate(models):
            assert got[i] == expected[m], m


def test_prefixes_are_not_shared_between_adapters(start, tiny_model, tmp_path):
    path = tiny_model("qwen2")
    a = Adapter(path, rank=4, seed=20).write_gguf(tmp_path / "a.gguf")
    b = Adapter(path, rank=4, seed=21).write_gguf(tmp_path / "b.gguf")
    s = start(path, "--program-cache", "off", "--lora", f"a={a},b={b},low={a}:0.5,again={a}")
    ids = prompt(path, 64)

    def n_cached(model):
        status, reply = post(s.url + "/v1/completions", {"model": model, "prompt": ids, "max_tokens": 1})
        assert status == 200
        return reply["usage"]["prompt_tokens_details"]["cached_tokens"]

    for model in ("", "a", "b", "low"):
        assert n_cached(model) == 0, model
    for model in ("", "a", "b", "low", "again"):  # "again" is "a" by another name
        assert n_cached(model) == 63, model


def test_what_a_program_remembers_of_choices_is_one_models_own(start, tiny_model, tmp_path):
    """Their likelihood without context is kept for other runs, but not for those with an adapter."""
    path = tiny_model("llama")
    adapter = Adapter(path, rank=4, seed=9).write_gguf(tmp_path / "a.gguf")
    source = ("return program{main = function(s) local _, i = s:add('Label:'):select{choices = {' positive', ' negative'},"
              " method = 'unconditional_likelihood_normalized'} return i.scores end}")

    def scores(s, model):
        status, reply = post(s.url + "/v1/programs", {"source": source, "model": model})
        assert status == 200, reply
        return reply["value"]

    first, second = (start(path, *EXACT, "--lora", f"tuned={adapter}") for _ in range(2))
    alone = scores(first, "tuned")
    plain = scores(second, "")
    assert scores(second, "tuned") == alone != plain
    assert scores(first, "") == plain


def test_the_openai_client_chooses_by_model(start, tiny_model, tmp_path):
    path = tiny_model("llama")
    adapter = Adapter(path, rank=4, seed=30).write_gguf(tmp_path / "a.gguf")
    s = start(path, "--program-cache", "off", "--lora", f"sql={adapter}")
    with openai.OpenAI(base_url=s.url + "/v1", api_key="none", max_retries=0) as client:
        models = client.models.list().data
        assert [m.id for m in models][1:] == ["sql"] and models[1].parent == models[0].id
        assert client.models.retrieve("sql").parent == models[0].id
        reply = client.completions.create(model="sql", prompt=[1, 2, 3], max_tokens=4)
        assert reply.model == "sql"
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="other", prompt=[1, 2, 3], max_tokens=4)


def test_adapters_come_and_go(start, tiny_model, tmp_path):
    path = tiny_model("llama")
    files = [Adapter(path, rank=4, seed=40 + i).write_gguf(tmp_path / f"{i}.gguf") for i in range(3)]
    s = start(path, "--program-cache", "off", "--max-adapters", 2, "--max-adapter-rank", 4)
    load = lambda name, file: post(s.url + "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(file)})
    unload = lambda name: post(s.url + "/v1/unload_lora_adapter", {"lora_name": name})
    ids = prompt(path)
    plain = score(s.url, ids, "")
    assert load("a", files[0])[0] == 200 and load("b", files[1])[0] == 200
    first, second = score(s.url, ids, "a"), score(s.url, ids, "b")
    assert first != second and score(s.url, ids, "") == plain
    assert load("a", files[0])[0] == 400  # the name is taken
    assert load("c", files[2])[0] == 429  # no slot is free
    assert unload("a")[0] == 200 and unload("a")[0] == 400
    assert post(s.url + "/v1/completions", {"model": "a", "prompt": ids})[0] == 404
    assert load("c", files[1])[0] == 200
    assert score(s.url, ids, "c") == second and score(s.url, ids, "b") == second
    high = Adapter(path, rank=5).write_gguf(tmp_path / "high.gguf")
    assert unload("c")[0] == 200
    status, reply = load("high", high)
    assert status == 400 and "max-adapter-rank" in reply["error"]["message"]
    assert load("a", files[0])[0] == 200 and score(s.url, ids, "a") == first
    assert load("x", tmp_path / "nothing.gguf")[0] == 400
    assert post(s.url + "/v1/load_lora_adapter", {"lora_name": "x"})[0] == 400


def test_an_adapter_that_goes_waits_for_its_requests(start, tiny_model, tmp_path):
    path = tiny_model("llama")
    adapter = Adapter(path, rank=4, seed=50).write_gguf(tmp_path / "a.gguf")
    s = start(path, "--program-cache", "off", "--lora", f"a={adapter}")
    body = {"model": "a", "prompt": [1, 2, 3], "max_tokens": 150, "ignore_eos": True, "temperature": 0}
    expected = post(s.url + "/v1/completions", body)[1]["choices"][0]["text"]
    got = {}
    threads = [threading.Thread(target=lambda i=i: got.update({i: post(s.url + "/v1/completions", body)}))
               for i in range(8)]
    for t in threads:
        t.start()
    status, _ = post(s.url + "/v1/unload_lora_adapter", {"lora_name": "a"})
    assert status == 200
    for t in threads:
        t.join()
    for status, reply in got.values():  # whoever came in time got it whole, the others heard of it
        assert status in (200, 404, 400)
        assert status != 200 or reply["choices"][0]["text"] == expected


def test_streams_keep_their_bits_while_adapters_come_and_go(start, tiny_model, tmp_path):
    path = tiny_model("llama")
    files = [Adapter(path, rank=16, seed=60 + i).write_gguf(tmp_path / f"{i}.gguf") for i in range(4)]
    s = start(path, "--program-cache", "off", "--max-adapters", 4, "--max-adapter-rank", 16,
              "--no-prefix-cache", "--lora", f"mine={files[0]}")
    change = lambda what, body: post(f"{s.url}/v1/{what}_lora_adapter", body)
    body = {"prompt": prompt(path), "max_tokens": 150, "ignore_eos": True, "temperature": 0, "logprobs": 1}
    ask = lambda model: post(s.url + "/v1/completions", {**body, "model": model})[1]["choices"][0]
    expected = {model: ask(model) for model in ("", "mine")}
    got, busy = [], threading.Event()

    def keep_asking(model):
        while not busy.is_set():
            got.append((model, ask(model)))

    threads = [threading.Thread(target=keep_asking, args=(m,)) for m in ("", "mine")]
    for t in threads:
        t.start()
    for i in range(24):
        name, file = f"n{i % 3}", files[1 + i % 3]
        if i >= 3:
            assert change("unload", {"lora_name": name})[0] == 200
        assert change("load", {"lora_name": name, "lora_path": str(file)})[0] == 200
    busy.set()
    for t in threads:
        t.join()
    assert len(got) >= 2
    for model, choice in got:
        assert choice == expected[model], model


def test_keys_of_administrators_change_adapters(start, tiny_model, tmp_path):
    path = tiny_model("llama")
    adapter = Adapter(path, rank=4).write_gguf(tmp_path / "a.gguf")
    keys = tmp_path / "keys"
    keys.write_text("user-key\nadmin-key admin\n")
    s = start(path, "--program-cache", "off", "--api-key-file", keys)

    def load(key):
        body = json.dumps({"lora_name": "a", "lora_path": str(adapter)}).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        try:
            request = urllib.request.Request(s.url + "/v1/load_lora_adapter", body, headers)
            return urllib.request.urlopen(request, timeout=60).status
        except urllib.error.HTTPError as e:
            return e.code

    assert load("user-key") == 403
    assert load("admin-key") == 200


REFUSED = [
    ({"use_dora": True}, "use_dora"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"bias": "lora_only"}, "bias"),
    ({"peft_type": "IA3"}, "IA3"),
    ({"init_lora_weights": "pissa"}, "pissa"),
    ({"layer_replication": [[0, 1]]}, "layer_replication"),
    ({"a_later_member": 1}, "a_later_member"),
    ({"r": 3}, "rank 3"),
    ({"rank_pattern": {"(": 3}}, "no pattern"),
    ({"layers_to_transform": [1]}, "layer 0"),
]


def refusal(adapter, base, tmp_path):
    run = subprocess.run([COMPILE, adapter, "--base", base, "-o", tmp_path / "out.sdp"], capture_output=True,
                         text=True)
    assert run.returncode in (2, 3, 5), run.stderr
    assert not (tmp_path / "out.sdp").exists()
    return run.stderr


@pytest.mark.parametrize("config,text", REFUSED)
def test_what_is_not_done_is_refused_by_name(tiny_model, tmp_path, config, text):
    path = tiny_model("llama")
    assert text in refusal(Adapter(path, head=False).write_peft(tmp_path / "p", **config), path, tmp_path)


def test_tensors_that_are_not_lora_are_refused_by_name(tiny_model, tmp_path):
    path = tiny_model("llama")
    adapter = Adapter(path, head=False)
    for name, text in [("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", "DoRA"),
                       ("base_model.model.model.embed_tokens.lora_embedding_A", "embedding"),
                       ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias", "bias"),
                       ("base_model.model.model.layers.0.other.lora_A.weight", "other"),
                       ("base_model.model.model.layers.99.self_attn.q_proj.lora_A.weight", "99")]:
        folder = adapter.write_peft(tmp_path / "p")
        tensors = {**adapter.peft_tensors(), name: np.zeros((4, 4), np.float32)}
        write_safetensors(folder / "adapter_model.safetensors", tensors)
        assert text in refusal(folder, path, tmp_path)


def test_an_adapter_of_another_base_is_refused(tiny_model, tmp_path):
    llama, qwen = tiny_model("llama"), tiny_model("qwen2")
    gguf = Adapter(qwen, head=False).write_gguf(tmp_path / "a.gguf")
    assert "general.architecture" in refusal(gguf, llama, tmp_path)
    subprocess.run([COMPILE, gguf, "--base", qwen, "-o", tmp_path / "a.sdp"], check=True)
    run = subprocess.run([COMPILE, tmp_path / "a.sdp", "--base", llama, "-o", tmp_path / "b.sdp"],
                         capture_output=True, text=True)
    assert run.returncode == 5 and "qwen2" in run.stderr
