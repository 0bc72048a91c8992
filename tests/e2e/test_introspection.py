"""What operators see of a running daemon: the KV cache, a trace of steps, metrics, a line for each request."""
import concurrent.futures
import json
import re
import time
import urllib.error
import urllib.request

import pytest

PREAMBLE = "The river Danube rises in the Black Forest and flows through ten countries. " * 4


def call(url, path, body=None, key=None, method=None):
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=120) as reply:
        return reply.read()


def metrics(url):
    text = call(url, "/metrics").decode()
    return {m[1]: float(m[2]) for m in re.finditer(r"(?m)^(serverd_\S+) (\S+)$", text)}


def complete(url, prompt, **fields):
    body = {"prompt": prompt, "max_tokens": 24, "temperature": 0, "ignore_eos": True, **fields}
    return json.loads(call(url, "/v1/completions", body))["usage"]


def dump(url, query=""):
    found = json.loads(call(url, "/debug/kvcache" + query))
    pages = found["pages"]
    assert pages["free"] + pages["private"] + pages["locked"] + pages["evictable"] == pages["total"]
    windows = found["window_pages"]
    assert sum(windows[kind] for kind in ("free", "pinned", "middle", "kept")) == windows["total"]
    shown = [node for space in found["namespaces"] for node in space["nodes"]]
    if not found["is_cut"]:
        assert sum(node["n_pages"] for node in shown) == pages["locked"] + pages["evictable"]
        assert sum(node["n_pages"] for node in shown if node["locks"]) == pages["locked"]
    for space in found["namespaces"]:
        known = set()
        for node in space["nodes"]:
            assert node["parent"] is None or node["parent"] in known
            known.add(node["id"])
    return found


def check_nesting(events):
    """Slices of a thread lie inside each other or apart; those of a request have their ends."""
    slack, open_slices, n_steps = 0.002, [], 0
    for e in (e for e in events if e["ph"] == "X"):
        begin, end = e["ts"], e["ts"] + e["dur"]
        while open_slices and open_slices[-1] <= begin + slack:
            open_slices.pop()
        assert not open_slices or end <= open_slices[-1] + slack, e
        assert (e["name"] == "step") == (not open_slices), e
        open_slices.append(end)
        if e["name"] == "step":
            n_steps += 1
            assert e["args"]["rows"] == e["args"]["decode_rows"] + e["args"]["prefill_rows"] > 0
    tracks = {}
    for e in (e for e in events if e["ph"] in "be"):
        stack = tracks.setdefault(e["id"], [])
        if e["ph"] == "b":
            stack.append(e)
        else:
            begun = stack.pop()
            assert begun["name"] == e["name"] and begun["ts"] <= e["ts"]
    assert not any(tracks.values())
    return n_steps, len(tracks)


def wait_idle(url):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = metrics(url)
        if found["serverd_requests_running"] == 0 and found["serverd_batch_rows"] == 0:
            return found
        time.sleep(0.05)
    raise AssertionError("does not become idle")


def check_idle(found):
    for name in ("requests_running", "requests_waiting", "requests_waiting_tokens", "kv_pages_private",
                 "kv_pages_locked", "kv_usage_ratio", "batch_rows", "sse_streams"):
        assert found["serverd_" + name] == 0, name
    assert found["serverd_kv_pages_free"] + found["serverd_kv_pages_evictable"] == found["serverd_kv_pages_total"]
    n_prompt, n_cached = found["serverd_prompt_tokens_total"], found["serverd_cached_tokens_total"]
    assert n_prompt == n_cached + found["serverd_computed_tokens_total"]
    for phase in ("schedule", "compute", "sample", "emit"):
        count = found[f'serverd_step_time_seconds_count{{phase="{phase}"}}']
        assert count == found["serverd_steps_total"]


def run_and_look(url, n_requests, steps):
    """Requests of a few beginnings, with a trace and dumps beside them."""
    before = wait_idle(url)
    prompts = [PREAMBLE[: 60 + 50 * (i % 4)] + f"Question {i % 7}." for i in range(n_requests)]
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        trace = pool.submit(call, url, f"/debug/trace?steps={steps}&seconds=60", method="POST")
        usages = [pool.submit(complete, url, p, n=1 + i % 2) for i, p in enumerate(prompts)]
        dumps = [dump(url, query) for query in ("", "?tokens=1", "?limit=1") for _ in range(3)]
        usages = [u.result() for u in usages]
        trace = json.loads(trace.result())
    assert any(d["pages"]["locked"] for d in dumps)
    n_steps, n_tracks = check_nesting(trace["traceEvents"])
    assert n_steps == trace["otherData"]["steps"] == steps and n_tracks > 0
    after = wait_idle(url)
    check_idle(after)
    for name, values in (("prompt_tokens_total", [u["prompt_tokens"] for u in usages]),
                         ("generated_tokens_total", [u["completion_tokens"] for u in usages]),
                         ("cached_tokens_total",
                          [u["prompt_tokens_details"]["cached_tokens"] for u in usages])):
        assert after["serverd_" + name] - before["serverd_" + name] == sum(values), name
    return dump(url)


@pytest.mark.concurrent
def test_a_busy_daemon_shows_what_it_does(start, tiny_model):
    s = start(tiny_model("llama"), "--device", "null:step_us=2000,min_token=10", "--ctx-size", "512",
              "--http-threads", "2")
    for _ in range(2):
        found = run_and_look(s.url, 40, 50)
    assert found["counters"]["hits"] > 0 and found["pages"]["locked"] == 0
    assert found["n_nodes"] > 4 and all(len(n["tokens"]) == 8 for n in found["namespaces"][0]["nodes"])
    assert len(dump(s.url, "?limit=2")["namespaces"][0]["nodes"]) == 2 and dump(s.url, "?limit=2")["is_cut"]
    assert s.stop() == 0


@pytest.mark.slow
def test_so_does_the_default_model(start, default_model):
    run_and_look(start(default_model).url, 16, 40)


@pytest.mark.concurrent
def test_little_memory_shows_as_evictions_and_preemptions(start, tiny_model):
    s = start(tiny_model("llama"), "--device", "null:min_token=10", "--ctx-size", "512", "--kv-memory", "4K")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: complete(s.url, PREAMBLE[i:200 + 3 * i], max_tokens=40), range(60)))
    found = wait_idle(s.url)
    check_idle(found)
    evicted = sum(v for k, v in found.items() if k.startswith("serverd_evicted_tokens_total{"))
    assert evicted > 0 and evicted % 16 == 0
    counters = dump(s.url)["counters"]
    assert sum(counters["evicted_tokens"].values()) == evicted
    assert counters["preemptions"] == found["serverd_preemptions_total"]
    assert counters["recomputed_tokens"] == found["serverd_recomputed_tokens_total"]


def test_a_client_that_leaves_ends_its_trace_and_sigterm_does_not_wait_for_one(start, tiny_model):
    s = start(tiny_model("llama"), "--device", "null")
    for _ in range(2):
        request = urllib.request.Request(s.url + "/debug/trace?seconds=60", method="POST")
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(request, timeout=0.3)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                assert json.loads(call(s.url, "/debug/trace?seconds=1", method="POST"))["traceEvents"]
                break
            except urllib.error.HTTPError as e:
                assert e.code == 429
                time.sleep(0.05)
        else:
            raise AssertionError("the trace goes on")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        trace = pool.submit(call, s.url, "/debug/trace?seconds=60", method="POST")
        time.sleep(0.3)
        begin = time.monotonic()
        assert s.stop() == 0
        assert time.monotonic() - begin < 10
        assert json.loads(trace.result())["otherData"]["steps"] == 0


def test_keys_have_names_and_administrators(start, tiny_model, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("user-key-0123456789 name=alice\nroot-key-0123456789 admin name=root\n")
    s = start(tiny_model("llama"), "--api-key-file", keys, "--log-format", "json")
    for key, code in ((None, 401), ("wrong", 401), ("user-key-0123456789", 403)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            call(s.url, "/debug/kvcache", key=key)
        assert caught.value.code == code
    call(s.url, "/v1/completions", {"prompt": list(range(3, 40)), "max_tokens": 5, "ignore_eos": True},
         "user-key-0123456789")
    assert json.loads(call(s.url, "/debug/kvcache", key="root-key-0123456789"))["pages"]["evictable"] > 0
    assert s.stop() == 0
    lines = [json.loads(line) for line in s.lines if line.startswith("{")]
    requests = [line for line in lines if line["message"] == "request"]
    assert [(r.get("key"), r["status"]) for r in requests] == [
        (None, 401), (None, 401), ("alice", 403), ("alice", 200), ("root", 200)]
    served = requests[3]
    assert served["path"] == "/v1/completions" and served["finish"] == "length"
    assert (served["prompt_tokens"], served["cached_tokens"], served["output_tokens"]) == (37, 0, 5)
    parts = served["queue_ms"] + served["prefill_ms"] + served["decode_ms"]
    assert 0 < parts <= served["total_ms"] + 0.01
    assert "0123456789" not in s.log
