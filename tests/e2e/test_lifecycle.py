"""Start, load, drain, stop; bad options and bad models end with one clear line."""
import json
import os
import signal
import subprocess
import threading
import time
import urllib.request

import pytest
from conftest import BINARY, clean_environment


def run(*args, env=None):
    return subprocess.run([str(BINARY), *map(str, args)], capture_output=True, text=True, timeout=60,
                          env=clean_environment(env))


def post(url, path, body, timeout=120):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=timeout)


@pytest.mark.parametrize("args, words", [
    (["--prot", "1"], ["--port"]),
    (["--port", "99999"], ["port", "99999", "65535"]),
    (["--threads", "many"], ["threads", "many"]),
    (["--log-format", "xml"], ["log-format", "xml", "json"]),
    (["--config", "/no/such/file.yaml"], ["/no/such/file.yaml"]),
    (["--model-path"], ["model-path"]),
])
def test_a_bad_option_is_named(args, words):
    result = run(*args)
    assert result.returncode == 2
    assert all(word in result.stderr for word in words), result.stderr
    assert len(result.stderr.strip().splitlines()) <= 3


def test_help_man_config_and_completion_are_printed():
    for option, word in (("--help", "--ctx-size"), ("--version", "serverd"), ("--print-man", ".TH"),
                         ("--print-config", "ctx-size"), ("--print-completion", "complete")):
        result = run(option)
        assert result.returncode == 0 and word in result.stdout


def test_a_bad_configuration_file_names_the_line(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("port: 8000\nctx-sise: 12\n")
    result = run("--config", config)
    assert result.returncode == 2 and "ctx-size" in result.stderr and "2" in result.stderr


def test_environment_and_file_set_options(start, tiny_model, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("served-model-name: from-file\nctx-size: 64\n")
    s = start(tiny_model("llama"), "--config", config, env={"SERVERD_SERVED_MODEL_NAME": "from-environment"})
    data = json.load(urllib.request.urlopen(s.url + "/v1/models"))["data"][0]
    assert data["id"] == "from-environment" and data["max_model_len"] == 64


def bad_models(folder, good):
    data = good.read_bytes()
    wrong = bytearray(data)
    wrong[8:16] = (2**62).to_bytes(8, "little")
    yield "missing.gguf", None, "missing.gguf"
    yield "empty.gguf", b"", "empty.gguf"
    yield "text.gguf", b"this is no model" * 10, "GGUF"
    yield "cut.gguf", data[: len(data) // 2], "cut.gguf"
    yield "header.gguf", data[:100], "header.gguf"
    yield "counts.gguf", bytes(wrong), "tensors"
    yield "arch.gguf", data.replace(b"llama", b"lamma"), "lamma"


def test_a_bad_model_ends_with_one_clear_line(tiny_model, tmp_path):
    for name, content, word in bad_models(tmp_path, tiny_model("llama")):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        result = run("--model-path", path, "--port", "0")
        assert result.returncode == 1, (name, result.stderr)
        assert word in result.stderr, (name, result.stderr)


def test_other_addresses_need_keys(tiny_model):
    result = run("--model-path", tiny_model("llama"), "--host", "0.0.0.0", "--port", "0")
    assert result.returncode != 0 and "api-key-file" in result.stderr


def test_health_while_loading(start, default_model):
    s = start(default_model, wait_ready=False)
    assert s.status("/ready") in (200, 503)
    s.wait_ready()
    assert s.status("/health") == 200


@pytest.mark.concurrent
def test_sigterm_lets_running_streams_end(start, tiny_model):
    s = start(tiny_model("llama"), "--device", "null:step_us=5000,min_token=10", "--ctx-size", "512")
    reply = post(s.url, "/v1/completions", {"prompt": "abc", "max_tokens": 100, "stream": True, "ignore_eos": True,
                                             "stream_options": {"include_usage": True}})
    first = reply.readline()
    assert first.startswith(b"data: ")
    s.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    rest = reply.read()
    assert rest.rstrip().endswith(b"data: [DONE]")
    assert b'"completion_tokens":100' in rest
    assert s.stop() == 0


@pytest.mark.timing
def test_a_second_sigterm_does_not_wait(start, tiny_model):
    s = start(tiny_model("llama"), "--device", "null:step_us=50000,min_token=10", "--ctx-size", "512")
    reply = post(s.url, "/v1/completions", {"prompt": "abc", "max_tokens": 400, "stream": True, "ignore_eos": True})
    reply.readline()
    s.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    begin = time.monotonic()
    s.process.send_signal(signal.SIGTERM)
    assert s.process.wait(10) == 0
    assert time.monotonic() - begin < 3


@pytest.mark.concurrent
@pytest.mark.timing
def test_a_client_that_leaves_frees_its_place(start, tiny_model):
    s = start(tiny_model("llama"), "--device", "null:step_us=2000,min_token=10", "--max-running", "1",
              "--ctx-size", "512")
    replies = [post(s.url, "/v1/completions", {"prompt": "abc", "max_tokens": 500, "stream": True,
                                               "ignore_eos": True})]
    replies[0].readline()
    begin = time.monotonic()
    replies[0].close()
    answer = json.load(post(s.url, "/v1/completions", {"prompt": "x", "max_tokens": 1}))
    assert answer["choices"]
    assert time.monotonic() - begin < 0.5
    metrics = urllib.request.urlopen(s.url + "/metrics").read().decode()
    assert "serverd_cancelled_total" in metrics


@pytest.mark.concurrent
def test_a_full_queue_is_429_with_retry_after(start, tiny_model):
    s = start(tiny_model("llama"), "--device", "null:step_us=20000,min_token=10", "--max-running", "1",
              "--max-queue", "2", "--ctx-size", "512")
    statuses, lock = [], threading.Lock()

    def ask():
        try:
            with post(s.url, "/v1/completions", {"prompt": "abc", "max_tokens": 40}) as reply:
                result = (reply.status, None)
        except urllib.error.HTTPError as e:
            result = (e.code, (e.headers.get("Retry-After"), json.load(e)["error"]["code"]))
        with lock:
            statuses.append(result)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for i, t in enumerate(threads):
        t.start()
        if i == 0:
            time.sleep(0.3)  # it runs, so that two can wait behind it
    for t in threads:
        t.join()
    refused = [r for r in statuses if r[0] == 429]
    assert refused and all(int(r[1][0]) >= 1 and r[1][1] == "rate_limit_exceeded" for r in refused)
    assert sum(r[0] == 200 for r in statuses) >= 3


@pytest.mark.parametrize("body, param", [
    (b"{", None), (b"[]", None), (b'{"prompt": NaN}', None), (b'{"prompt": "\xff"}', None),
    (b'{"prompt": "x", "temperature": "hot"}', "temperature"), (b'{"prompt": "x", "max_tokens": 1e99}', "max_tokens"),
    (b'{"prompt": "x", "n": 0}', "n"), (b'{"prompt": {"a": 1}}', "prompt"), (b'{"max_tokens": 3}', "prompt"),
    (b'{"prompt": [99999999]}', None), (b'{"prompt": "x", "logprobs": 99}', "logprobs"),
    (b'{"prompt": "' + b"[" * 10 + b'", "stop": [1]}', None), (b'{"a":' * 100 + b"1" + b"}" * 100, None),
])
def test_malformed_bodies_are_400_and_harm_nobody(server, body, param):
    request = urllib.request.Request(server.url + "/v1/completions", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    error = json.load(caught.value)["error"]
    assert caught.value.code == 400 and error["type"] == "invalid_request_error" and error["message"]
    if param:
        assert error["param"] == param
    assert server.status("/health") == 200


@pytest.mark.concurrent
def test_a_body_over_the_limit_is_413(start, tiny_model):
    s = start(tiny_model("llama"), "--max-body", "4K")
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(s.url, "/v1/completions", {"prompt": "x" * 8000})
    assert caught.value.code == 413


@pytest.mark.concurrent
def test_a_nan_ends_its_request_only(start, tiny_model):
    s = start(tiny_model("llama"), "--device", "fault:inner=null;script=nan@3", "--ctx-size", "256")
    codes = []
    for _ in range(4):
        try:
            codes.append(post(s.url, "/v1/completions", {"prompt": "abc", "max_tokens": 3}).status)
        except urllib.error.HTTPError as e:
            codes.append(e.code)
    assert codes.count(500) == 1 and codes.count(200) == 3
    assert s.status("/health") == 200


def test_curl_shows_tokens_as_they_come(start, tiny_model):
    s = start(tiny_model("llama"), "--device", "null:step_us=30000,min_token=10", "--ctx-size", "256")
    body = json.dumps({"prompt": "abc", "max_tokens": 10, "stream": True, "ignore_eos": True})
    curl = subprocess.Popen(["curl", "-sN", s.url + "/v1/completions", "-H", "Content-Type: application/json",
                             "-d", body], stdout=subprocess.PIPE)
    times = []
    for line in curl.stdout:
        if line.startswith(b"data: "):
            times.append(time.monotonic())
    curl.wait()
    assert len(times) >= 10
    assert times[-1] - times[0] > 0.2, "the events came all at once"


@pytest.mark.timing
def test_idle_costs_no_cpu(start, default_model):
    s = start(default_model)
    post(s.url, "/v1/completions", {"prompt": "Hello", "max_tokens": 4}).read()
    time.sleep(1)
    ticks = lambda: sum(int(x) for x in open(f"/proc/{s.process.pid}/stat").read().rsplit(")", 1)[1].split()[11:13])
    before = ticks()
    time.sleep(5)
    assert (ticks() - before) / os.sysconf("SC_CLK_TCK") <= 0.05
