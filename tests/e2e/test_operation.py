"""What operators do to a running daemon: keys with scopes and limits, drain, configuration, TLS."""
import json
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request

import httpx
import openai
import pytest


def call(url, method="GET", body=None, key=None, context=None):
    """(status, headers, decoded body)"""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as reply:
            return reply.status, reply.headers, json.load(reply)
    except urllib.error.HTTPError as e:
        return e.code, e.headers, json.load(e)


def wait_for(what, seconds=10):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_the_openai_package_understands_limits_and_scopes(start, tiny_model, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("limited name=web rpm=2 tpm=1000\nsearch scope=embed\nops admin\n")
    s = start(tiny_model("llama"), "--device", "null:min_token=10", "--api-key-file", keys)

    def client(key):
        return openai.OpenAI(base_url=s.url + "/v1", api_key=key, max_retries=0)

    def complete(key, **more):
        return client(key).completions.with_raw_response.create(
            model="default", prompt=[11, 12], max_tokens=8, extra_body={"ignore_eos": True}, **more)

    reply = complete("limited")
    usage = reply.parse().usage
    assert usage.total_tokens == 10
    assert reply.headers["x-ratelimit-limit-requests"] == "2"
    assert reply.headers["x-ratelimit-remaining-requests"] == "1"
    assert 990 <= int(reply.headers["x-ratelimit-remaining-tokens"]) <= 1000
    assert reply.headers["x-ratelimit-reset-tokens"] == "1s"
    assert reply.headers["request-id"] == reply.headers["x-request-id"]
    assert int(reply.headers["openai-processing-ms"]) >= 0
    assert reply.headers["server-timing"].startswith("queue;dur=")
    complete("limited")
    with pytest.raises(openai.RateLimitError) as caught:
        complete("limited")
    assert caught.value.code == "rate_limit_exceeded"
    wait_ms = int(caught.value.response.headers["retry-after-ms"])
    assert 20000 < wait_ms <= 30000
    assert caught.value.response.headers["x-should-retry"] == "true"
    with pytest.raises(openai.PermissionDeniedError) as caught:
        complete("search")
    assert caught.value.code == "insufficient_scope"
    assert client("search").models.list().data
    assert call(s.url + "/v1/loads", key="limited")[0] == 403
    assert call(s.url + "/v1/loads", key="ops")[0] == 200
    # a reload changes limits and keeps what was used
    keys.write_text("limited name=web rpm=3 tpm=1000\n")
    s.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "1 API keys are in use" in s.log)
    complete("limited")
    with pytest.raises(openai.RateLimitError):
        complete("limited")
    keys.write_text("limited rpm=nothing\n")
    s.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "the keys stay as they were" in s.log)
    with pytest.raises(openai.RateLimitError):
        complete("limited")
    assert s.stop() == 0
    assert "limited rpm" not in s.log


@pytest.mark.concurrent
def test_drain_takes_out_of_service_and_back(start, tiny_model):
    s = start(tiny_model("llama"), "--device", "null:step_us=5000,min_token=10", "--ctx-size", "512")
    client = openai.OpenAI(base_url=s.url + "/v1", api_key="x", max_retries=0)
    stream = client.completions.create(model="default", prompt="abc", max_tokens=100, stream=True,
                                       stream_options={"include_usage": True}, extra_body={"ignore_eos": True})
    next(iter(stream))
    status, _, reply = call(s.url + "/admin/drain", "POST")
    assert status == 200 and reply["status"] == "draining"
    assert s.status("/ready") == 503 and s.status("/health") == 200
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model="default", prompt="abc", max_tokens=1)
    assert caught.value.status_code == 503 and caught.value.code == "draining"
    *_, last = stream
    assert last.usage.completion_tokens == 100
    assert call(s.url + "/admin/drain", "DELETE")[0] == 200
    assert s.status("/ready") == 200
    assert client.completions.create(model="default", prompt="abc", max_tokens=1).choices
    # the end comes out of a drain, too
    assert call(s.url + "/admin/drain", "POST", {"timeout_s": 0.1})[0] == 200
    assert s.stop() == 0


def test_load_and_configuration_are_told(start, tiny_model):
    s = start(tiny_model("llama"), "--ctx-size", "256", "--model-alias", "gpt-4o-mini,claude",
              env={"SERVERD_MAX_RUNNING": "3"})
    for name in ("gpt-4o-mini", "claude"):
        status, _, reply = call(s.url + "/v1/completions", "POST", {"model": name, "prompt": "abcd " * 20,
                                                                     "max_tokens": 30, "temperature": 0})
        assert status == 200 and reply["model"].startswith("llama")
    info = call(s.url + "/get_server_info")[2]
    assert info["options"]["ctx-size"] == {"value": 256, "reason": "command line"}
    assert info["options"]["max-running"] == {"value": 3, "reason": "environment"}
    assert info["options"]["port"]["value"] == 0 and info["options"]["api-key-file"]["value"] is None
    assert info["max_total_num_tokens"] % info["page_size"] == 0
    accepted = info["internal_states"][0]["avg_spec_accept_length"]
    assert accepted is None or accepted >= 1
    load, = call(s.url + "/v1/loads")[2]["loads"]
    assert load["num_running_reqs"] == 0 and 0 < load["cache_hit_rate"] < 1
    assert call(s.url + "/flush_cache", "POST")[2]["success"]
    tokenizer = call(s.url + "/tokenizer_info")[2]
    assert tokenizer["eos_token"] and tokenizer["vocab_size"] > 0
    assert call(s.url + "/get_model_info")[2]["is_generation"] is True


def make_certificate(folder, name):
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", f"/CN={name}",
                    "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return cert, key


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_https_and_a_new_certificate(start, tiny_model, tmp_path):
    cert, key = make_certificate(tmp_path, "old")
    next_cert, next_key = make_certificate(tmp_path, "next")
    trusts_next = ssl.create_default_context(cadata=next_cert.read_text())
    trusts_old = ssl.create_default_context(cadata=cert.read_text())
    s = start(tiny_model("llama"), "--device", "null:step_us=5000,min_token=10", "--tls-cert", cert, "--tls-key", key,
              wait_ready=False)
    url = s.url.replace("http://", "https://")
    wait_for(lambda: "ready" in s.log)
    assert call(url + "/ready", context=trusts_old)[0] == 200
    client = openai.OpenAI(base_url=url + "/v1", api_key="x", max_retries=0,
                           http_client=httpx.Client(verify=trusts_old))
    stream = client.completions.create(model="default", prompt="abc", max_tokens=100, stream=True,
                                       stream_options={"include_usage": True}, extra_body={"ignore_eos": True})
    next(iter(stream))
    cert.write_bytes(next_cert.read_bytes())  # the key is still the old one
    s.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "the certificate stays as it was" in s.log)
    assert call(url + "/ready", context=trusts_old)[0] == 200
    key.write_bytes(next_key.read_bytes())
    s.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "the certificate was read again" in s.log)
    assert call(url + "/ready", context=trusts_next)[0] == 200
    with pytest.raises(urllib.error.URLError):
        call(url + "/ready", context=trusts_old)
    *_, last = stream
    assert last.usage.completion_tokens == 100
    assert s.stop() == 0
    assert "PRIVATE" not in s.log


def test_a_certificate_needs_its_key(tiny_model, tmp_path):
    from conftest import BINARY, clean_environment
    cert = tmp_path / "cert.pem"
    cert.write_text("none")
    for options, word in ((["--tls-cert", cert], "tls-key"), (["--tls-key", cert], "tls-cert"),
                          (["--tls-cert", cert, "--tls-key", cert], "cert.pem")):
        result = subprocess.run([str(BINARY), "--model-path", str(tiny_model("llama")), "--port", "0",
                                 *map(str, options)], capture_output=True, text=True, timeout=30,
                                env=clean_environment())
        assert result.returncode == 2 and word in result.stderr, result.stderr
