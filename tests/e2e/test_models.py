"""Several models in one server: each answers as it does alone, whatever else is loaded, comes or goes."""
import concurrent.futures
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import openai
import pytest
from conftest import BINARY, ROOT, Server, clean_environment, find_model
from test_batches import read, submit, wait

sys.path.insert(0, str(ROOT / "tests" / "tools"))
from make_adapter import Adapter  # noqa: E402

ARCHITECTURES = ["gemma3", "llama", "qwen2"]  # by name: the first is the default
SMALL = ("--ctx-size", "512", "--max-running", "4")


def post(url, body, path="/v1/completions"):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


def get(url, path):
    with urllib.request.urlopen(url + path, timeout=30) as reply:
        return reply.read().decode()


def models(url):
    return {m["id"]: m for m in json.loads(get(url, "/v1/models"))["data"]}


def is_loaded(url, name):
    return models(url)[name]["meta"]["loaded"]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def bodies(model):
    """Requests that the tests compare, greedy and drawn."""
    for i, prompt in enumerate(["hello there", "one two three four", "x" * 90]):
        for temperature in (0, 1):
            yield {"model": model, "prompt": prompt, "max_tokens": 40, "temperature": temperature, "seed": i,
                   "ignore_eos": True, "logprobs": 3}


def answer(url, body):
    status, reply = post(url, body)
    assert status == 200, reply
    assert reply["model"] == body["model"]
    return reply["choices"]


@pytest.fixture
def folder(tmp_path, tiny_model):
    for arch in ARCHITECTURES:
        shutil.copy(tiny_model(arch), tmp_path / f"{arch}.gguf")
    return tmp_path


@pytest.fixture(scope="module")
def alone(tiny_model):
    """What each model answers in a server of its own."""
    answers = {}
    for arch in ARCHITECTURES:
        s = Server(tiny_model(arch), "--served-model-name", arch, *SMALL)
        answers[arch] = [answer(s.url, body) for body in bodies(arch)]
        assert s.stop() == 0, s.log
    return answers


# ---- answers -------------------------------------------------------------------------------------


@pytest.mark.concurrent
def test_models_answer_at_once_as_each_alone(start, folder, alone):
    s = start(None, "--models-path", folder, *SMALL)
    calls = [(arch, i, body) for arch in ARCHITECTURES for i, body in enumerate(bodies(arch))] * 2
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda call: answer(s.url, call[2]), calls))
    for (arch, i, _), found in zip(calls, answers):
        assert found == alone[arch][i], (arch, i)
    assert s.stop() == 0, s.log


def test_answers_stay_the_same_when_models_come_and_go(start, folder, alone):
    s = start(None, "--models-path", folder, "--models-max", "1", *SMALL)
    for arch in ARCHITECTURES * 2:
        for i, body in enumerate(bodies(arch)):
            assert answer(s.url, body) == alone[arch][i]
        assert [name for name, m in models(s.url).items() if m["meta"]["loaded"]] == [arch]
    assert s.stop() == 0, s.log


def test_the_default_comes_first_and_others_by_name(start, folder):
    s = start(folder / "qwen2.gguf", "--models-path", folder, "--models", f"other={folder / 'llama.gguf'}",
              "--model-alias", "big,fast=gemma3", *SMALL)
    client = openai.OpenAI(base_url=s.url + "/v1", api_key="none")
    assert [m.id for m in client.models.list()] == ["qwen2", "big", "other", "gemma3", "fast", "llama"]
    for name, model in (("default", "qwen2"), ("big", "qwen2"), ("fast", "gemma3"), ("other", "other")):
        reply = client.completions.create(model=name, prompt="x", max_tokens=1)
        assert reply.model == model
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.completions.create(model="nobody", prompt="x", max_tokens=1)
    assert client.models.retrieve("fast").root == "gemma3"
    assert s.stop() == 0, s.log


def test_what_is_no_model_is_not_listed(start, folder):
    shutil.copy(folder / "llama.gguf", folder / "big-00001-of-00002.gguf")
    shutil.copy(folder / "llama.gguf", folder / "big-00002-of-00002.gguf")
    (folder / "notes.txt").write_text("no model")
    (folder / ".hidden.gguf").write_text("no model")
    (folder / "empty").mkdir()
    s = start(None, "--models-path", folder, *SMALL, wait_ready=False)
    assert list(models(s.url)) == ["big", *ARCHITECTURES]
    wait_for(lambda: s.status("/ready") == 200)  # without its default, too
    assert post(s.url, {"model": "llama", "prompt": "x", "max_tokens": 1})[0] == 200
    assert s.stop() == 0, s.log


@pytest.mark.parametrize("options", [("--models-path", "/nowhere"), ("--models", "a"), ("--models", "a=b,a=c"),
                                     ("--models", "a=b", "--model-alias", "x=c"), ("--models", "=b")])
def test_options_that_make_no_sense_end_the_start(options):
    done = subprocess.run([BINARY, *options], capture_output=True, text=True, env=clean_environment(), timeout=20)
    assert done.returncode == 2 and options[-2][2:].split("-")[0] in done.stderr


def test_a_second_model_has_adapters_of_its_own(start, folder, tiny_model, tmp_path):
    one = Adapter(tiny_model("llama"), seed=1).write_gguf(tmp_path / "one.lora")
    two = Adapter(tiny_model("qwen2"), seed=2).write_gguf(tmp_path / "two.lora")
    s = start(folder / "llama.gguf", "--models", f"qwen2={folder / 'qwen2.gguf'}", "--lora",
              f"style={one},qwen2:style={two},qwen2:own={two}:0.5", *SMALL)
    body = {"prompt": "hello there", "max_tokens": 8, "temperature": 0, "logprobs": 1}
    replies = {}
    for name in ("llama", "style", "llama:style", "qwen2", "qwen2:style", "own", "qwen2:own"):
        status, reply = post(s.url, {"model": name, **body})
        assert status == 200, (name, reply)
        replies[name] = reply["choices"][0]
    assert replies["style"] == replies["llama:style"] != replies["llama"]
    assert replies["own"] == replies["qwen2:own"] != replies["qwen2:style"] != replies["qwen2"]
    assert post(s.url, {"model": "llama:own", **body})[0] == 404
    assert models(s.url)["own"]["parent"] == "qwen2"
    # and while it runs
    load = {"model": "qwen2", "lora_name": "late", "lora_path": str(two)}
    assert post(s.url, load, "/v1/load_lora_adapter")[0] == 200
    assert post(s.url, {"model": "late", **body})[1]["choices"][0] == replies["qwen2:style"]
    assert post(s.url, {"model": "llama:late", **body})[0] == 404
    assert post(s.url, {"model": "qwen2"}, "/models/unload")[0] == 202
    wait_for(lambda: not is_loaded(s.url, "qwen2"))
    assert post(s.url, {"model": "late", **body})[0] == 404  # it has gone with its model
    assert post(s.url, {"model": "qwen2:own", **body})[1]["choices"][0] == replies["own"]
    assert s.stop() == 0, s.log


def test_lines_of_a_batch_load_their_models(start, folder, alone, tmp_path):
    s = start(None, "--models-path", folder, "--models-max", "1", "--data-path", tmp_path / "data", *SMALL)
    items = [{"custom_id": f"{arch} {i}", "method": "POST", "url": "/v1/completions", "body": body}
             for arch in ARCHITECTURES for i, body in enumerate(bodies(arch))]
    client = openai.OpenAI(base_url=s.url + "/v1", api_key="none", max_retries=0)
    batch = wait(client, submit(client, items))
    assert batch.status == "completed"
    for line in read(client, batch.output_file_id):
        arch, i = line["custom_id"].split()
        assert line["response"]["body"]["choices"] == alone[arch][int(i)]
    assert batch.request_counts.completed == len(items)
    assert s.stop() == 0, s.log


# ---- coming and going ----------------------------------------------------------------------------


@pytest.mark.concurrent
def test_a_broken_file_harms_nobody_else(start, folder):
    whole = (folder / "llama.gguf").read_bytes()
    (folder / "llama.gguf").write_bytes(whole[:len(whole) // 2])
    s = start(None, "--models-path", folder, *SMALL)
    for _ in range(2):
        status, reply = post(s.url, {"model": "llama", "prompt": "x", "max_tokens": 1})
        assert status == 503 and reply["error"]["code"] == "model_unavailable"
        assert str(folder) not in json.dumps(reply)
        assert post(s.url, {"model": "qwen2", "prompt": "x", "max_tokens": 1})[0] == 200
    assert models(s.url)["llama"]["status"]["value"] == "failed"
    assert s.status("/health") == 200
    (folder / "llama.gguf").write_bytes(whole)
    assert post(s.url, {"model": "llama"}, "/models/load")[0] == 202
    wait_for(lambda: is_loaded(s.url, "llama"))
    assert post(s.url, {"model": "llama", "prompt": "x", "max_tokens": 1})[0] == 200
    assert s.stop() == 0, s.log


def test_memory_is_a_bound_for_all_models_together(start, folder):
    s = start(None, "--models-path", folder, "--models-memory", "1G", "--kv-memory", "8M", *SMALL)
    for arch in ARCHITECTURES:
        assert post(s.url, {"model": arch, "prompt": "x", "max_tokens": 1})[0] == 200
    sizes = {m[1]: int(m[2]) for m in re.finditer(r"(\w+) is loaded and may take (\d+) MiB", s.log)}
    assert sorted(sizes) == ARCHITECTURES and min(sizes.values()) >= 8
    assert s.stop() == 0, s.log

    two = max(sizes[a] + sizes[b] for a, b in (("gemma3", "llama"), ("llama", "qwen2"), ("gemma3", "qwen2"))) + 2
    assert two < sum(sizes.values())
    s = start(None, "--models-path", folder, "--models-memory", f"{two}M", "--kv-memory", "8M", *SMALL)
    for arch, gone in (("llama", None), ("qwen2", "gemma3"), ("gemma3", "llama"), ("llama", "qwen2")):
        assert post(s.url, {"model": arch, "prompt": "x", "max_tokens": 1})[0] == 200
        assert gone is None or not is_loaded(s.url, gone)
    assert s.stop() == 0, s.log

    s = start(None, "--models-path", folder, "--models-memory", "2M", *SMALL)
    status, reply = post(s.url, {"model": "llama", "prompt": "x", "max_tokens": 1})
    assert status == 503 and "memory" in reply["error"]["message"]
    assert s.stop() == 0, s.log


def test_a_stream_ends_before_its_model_goes(start, folder, alone):
    s = start(None, "--models-path", folder, "--models-idle-timeout", "0.2", *SMALL)
    client = openai.OpenAI(base_url=s.url + "/v1", api_key="none", max_retries=0)
    stream = client.completions.create(model="llama", prompt="hello", max_tokens=450, temperature=0, stream=True,
                                       extra_body={"ignore_eos": True})
    next(iter(stream))
    assert post(s.url, {"model": "llama"}, "/models/unload")[0] == 202
    assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"
    wait_for(lambda: not is_loaded(s.url, "llama"))
    wait_for(lambda: not is_loaded(s.url, "gemma3"))  # nobody has used the default
    for i, body in enumerate(bodies("gemma3")):
        assert answer(s.url, body) == alone["gemma3"][i]
    assert s.stop() == 0, s.log


def resident_mib(process):
    text = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) // 1024


def threads_of(process):
    return len(list(pathlib.Path(f"/proc/{process.pid}/task").iterdir()))


def files_of(process):
    return len(list(pathlib.Path(f"/proc/{process.pid}/fd").iterdir()))


def come_and_go(s, name, n):
    """Loads, uses and unloads the model n times; what the process has then."""
    for _ in range(n):
        body = {"model": name, "prompt": "word " * 60, "max_tokens": 20, "ignore_eos": True,
                "response_format": {"type": "json_object"}}
        assert post(s.url, body)[0] in (200, 400)
        assert post(s.url, {"model": name}, "/models/unload")[0] == 202
        wait_for(lambda: models(s.url)[name]["status"]["value"] == "unloaded")
    return resident_mib(s.process), threads_of(s.process), files_of(s.process)


@pytest.mark.timing
def test_unloading_gives_everything_back(start, folder):
    s = start(None, "--models-path", folder, *SMALL)
    before = come_and_go(s, "llama", 5)
    after = come_and_go(s, "llama", 40)
    assert after[0] - before[0] < 8, (before, after)  # MiB
    assert after[1] == before[1] and after[2] - before[2] <= 2, (before, after)
    assert s.stop() == 0, s.log


@pytest.mark.slow
def test_unloading_a_real_model_gives_its_memory_back(start, folder, default_model):
    s = start(folder / "llama.gguf", "--models", f"real={default_model}", "--ctx-size", "2048")
    before = come_and_go(s, "real", 1)[0]
    assert post(s.url, {"model": "real", "prompt": "word " * 500, "max_tokens": 20})[0] == 200
    loaded = resident_mib(s.process)
    after = come_and_go(s, "real", 3)[0]
    assert loaded - before > 60 and after - before < 16, (before, loaded, after)
    assert s.stop() == 0, s.log


def test_sighup_looks_at_the_folder_again(start, folder):
    s = start(None, "--models-path", folder, *SMALL)
    assert post(s.url, {"model": "llama", "prompt": "x", "max_tokens": 1})[0] == 200
    kept = s.process.pid
    shutil.copy(folder / "qwen2.gguf", folder / "new.gguf")
    (folder / "llama.gguf").rename(folder / "llama.moved")
    s.process.send_signal(signal.SIGHUP)
    wait_for(lambda: list(models(s.url)) == ["gemma3", "qwen2", "new"])
    assert post(s.url, {"model": "new", "prompt": "x", "max_tokens": 1})[0] == 200
    assert post(s.url, {"model": "llama", "prompt": "x", "max_tokens": 1})[0] == 404
    (folder / "llama.moved").rename(folder / "llama.gguf")
    s.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "llama" in models(s.url))
    assert post(s.url, {"model": "llama", "prompt": "x", "max_tokens": 1})[0] == 200
    assert s.process.pid == kept and s.stop() == 0, s.log


def test_metrics_and_loads_are_told_apart(start, folder):
    s = start(None, "--models-path", folder, *SMALL)
    for arch, n in (("llama", 3), ("qwen2", 5)):
        assert post(s.url, {"model": arch, "prompt": "x", "max_tokens": n, "ignore_eos": True})[0] == 200

    def value(line):
        found = re.search("^" + re.escape(line) + r" (\S+)$", get(s.url, "/metrics"), re.M)
        return found and float(found[1])

    wait_for(lambda: value('serverd_generated_tokens_total{model="qwen2"}') == 5)
    assert value('serverd_generated_tokens_total{model="llama"}') == 3
    assert value('serverd_finish_total{model="llama",reason="length"}') == 1
    assert value('serverd_time_to_first_token_seconds_count{model="gemma3"}') == 0
    assert value("serverd_generated_tokens_total") is None
    text = get(s.url, "/metrics")
    assert text.count("# TYPE serverd_generated_tokens_total ") == 1
    assert {l["model"] for l in json.loads(get(s.url, "/v1/loads"))["loads"]} == set(ARCHITECTURES)
    assert post(s.url, {"model": "llama"}, "/models/unload")[0] == 202
    wait_for(lambda: not is_loaded(s.url, "llama") and value('serverd_kv_pages_total{model="llama"}') == 0)
    assert value('serverd_generated_tokens_total{model="llama"}') == 3  # counts stay
    assert value('serverd_kv_pages_total{model="qwen2"}') > 0
    assert s.stop() == 0, s.log


# ---- ends ----------------------------------------------------------------------------------------


def begin_load(s, name, replies):
    def run():
        try:
            replies.append(post(s.url, {"model": name, "prompt": "x", "max_tokens": 1}))
        except OSError as e:
            replies.append((0, str(e)))
    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: models(s.url)[name]["status"]["value"] == "loading")
    return thread


@pytest.mark.slow
def test_others_are_answered_while_a_model_loads(start, folder, default_model):
    s = start(folder / "llama.gguf", "--models", f"real={default_model}", "--program-cache", "off", *SMALL)
    replies, waits = [], []
    thread = begin_load(s, "real", replies)
    while thread.is_alive():
        begin = time.monotonic()
        assert post(s.url, {"prompt": "x", "max_tokens": 4})[0] == 200
        waits.append(time.monotonic() - begin)
    assert replies[0][0] == 200 and len(waits) >= 3 and sorted(waits)[len(waits) // 2] < 0.5, (replies, waits)
    assert s.stop() == 0, s.log


@pytest.mark.slow
def test_sigterm_during_a_load_answers_who_waits(start, folder, default_model):
    s = start(folder / "llama.gguf", "--models", f"real={default_model}", "--program-cache", "off", *SMALL)
    replies = []
    thread = begin_load(s, "real", replies)
    begin = time.monotonic()
    assert s.stop(10) == 0, s.log
    assert time.monotonic() - begin < 5
    thread.join()
    assert replies[0][0] == 503 and replies[0][1]["error"]["code"] == "draining", replies


@pytest.mark.slow
def test_a_kill_during_a_load_harms_no_later_start(start, folder, default_model, tmp_path):
    options = ("--models", f"real={default_model}", "--program-cache", tmp_path / "programs", *SMALL)
    s = start(folder / "llama.gguf", *options)
    thread = begin_load(s, "real", [])
    time.sleep(0.1)
    s.process.send_signal(signal.SIGKILL)
    s.process.wait()
    thread.join()
    s = start(folder / "llama.gguf", *options)
    assert post(s.url, {"model": "real", "prompt": "x", "max_tokens": 1})[0] == 200
    assert s.stop() == 0, s.log


# ---- real models ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_encoder_beside_a_decoder(start, default_model):
    encoder = find_model("minilm")
    if not encoder:
        pytest.skip("minilm is not there")
    s = start(default_model, "--models", f"encoder={encoder}", "--ctx-size", "1024")
    alone = start(encoder)
    texts = [f"sentence number {i}" for i in range(8)]
    expected = post(alone.url, {"input": texts}, "/v1/embeddings")[1]["data"]
    body = {"prompt": "Once upon a time", "max_tokens": 30, "temperature": 0}
    first = post(s.url, body)[1]["choices"]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        embedded = [pool.submit(post, s.url, {"model": "encoder", "input": texts}, "/v1/embeddings") for _ in range(4)]
        written = [pool.submit(post, s.url, body) for _ in range(4)]
    assert all(np.array_equal(e["embedding"], x["embedding"]) for f in embedded
               for e, x in zip(f.result()[1]["data"], expected))
    assert all(f.result()[1]["choices"] == first for f in written)
    assert s.stop() == 0, s.log
