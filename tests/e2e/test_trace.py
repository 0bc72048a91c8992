"""Operations of steps: the file of --trace, and what serverd-inspect trace says of it."""
import json
import random
import subprocess

from conftest import BUILD, clean_environment
from test_introspection import call

INSPECT = BUILD / "src" / "tools" / "inspect" / "serverd-inspect"


def inspect(*arguments):
    return subprocess.run([str(INSPECT), "trace", *map(str, arguments)], capture_output=True, text=True, timeout=60,
                          env=clean_environment())


def record(start, model, path, steps, prompt=200):
    s = start(model, "--trace", path, "--trace-steps", steps, "--speculation", "off", "--threads", "2")
    call(s.url, "/v1/completions", {"prompt": [3 + i % 200 for i in range(prompt)], "max_tokens": 30, "ignore_eos": True})
    assert s.stop() == 0
    return json.loads(path.read_text())


def check_tracks(events):
    """Each worker does one thing at a time, and all of it in a step; layers follow each other."""
    steps = {e["args"]["step"]: e for e in events if e.get("cat") == "execute"}
    tracks = {}
    for e in (e for e in events if e.get("cat") in ("op", "wait", "layer")):
        tracks.setdefault(e["tid"], []).append(e)
    for track in tracks.values():
        end = 0
        for e in sorted(track, key=lambda e: e["ts"]):
            step = steps[e["args"]["step"]]
            assert e["ts"] >= end - 0.002, e
            end = e["ts"] + e["dur"]
            assert e["ts"] >= step["ts"] - 0.002 and end <= step["ts"] + step["dur"] + 0.004
    return steps


def test_the_first_steps_are_written(start, tiny_model, tmp_path):
    path = tmp_path / "trace.json"
    trace = record(start, tiny_model("llama", "Q8_0"), path, 20)
    steps = check_tracks(trace["traceEvents"])
    assert trace["otherData"]["steps"] == len(steps) == 20 and trace["otherData"]["events_lost"] == 0
    ops = [e for e in trace["traceEvents"] if e.get("cat") == "op"]
    assert all(e["args"]["tensors"] and e["args"]["delegate"] == "cpu" for e in ops)
    assert {e["args"]["op"] for e in ops} >= {"embed", "linear", "rms_norm", "rope", "attn", "glu"}
    for step in steps.values():  # what is neither is shorter than what is shown as waiting
        of_step = [e for e in trace["traceEvents"] if e.get("cat") in ("op", "wait") and
                   e["args"]["step"] == step["args"]["step"] and e["args"]["worker"] == 0]
        assert sum(e["dur"] for e in of_step) >= 0.5 * step["dur"]


def test_every_worker_is_shown(start, tiny_model, tmp_path):
    workers = set()
    for i in range(10):  # on a busy machine a worker may sleep through steps as short as these
        trace = record(start, tiny_model("llama", "Q8_0"), tmp_path / f"{i}.json", 20, prompt=1500)
        workers |= {e["args"]["worker"] for e in trace["traceEvents"] if e.get("cat") == "op"}
        if workers == {0, 1}:
            break
    assert workers == {0, 1}


def test_the_end_writes_what_there_is(start, tiny_model, tmp_path):
    trace = record(start, tiny_model("gemma3", "Q8_0"), tmp_path / "trace.json", 10000)
    assert 25 < len(check_tracks(trace["traceEvents"])) < 60


def test_a_report_adds_up(start, tiny_model, tmp_path):
    model, path = tiny_model("llama", "Q8_0"), tmp_path / "trace.json"
    trace = record(start, model, path, 20)
    report = json.loads(inspect(path, "--program", model, "--json", "--no-limits", "--nodes", 1000).stdout)
    assert report["decode"]["steps"] + report["prefill"]["steps"] == 20
    n_ops = 0
    for name in ("decode", "prefill"):
        part = report[name]
        shares = [sum(row["share"] for row in part[kind]) for kind in ("op", "layer", "delegate", "node")]
        assert max(shares) - min(shares) < 1e-6 and 0 < shares[0] <= 1.0001
        for row in part["op"]:
            assert 0 <= row["p10_us"] <= row["p50_us"] <= row["p90_us"]
        linear = next(row for row in part["op"] if row["op"] == "linear")
        assert linear["macs"] > 0 and linear["weight_bytes"] > 0
        assert any(row["tensors"] for row in part["node"])
        n_ops += len(part["node"])
    assert n_ops > 0
    us = sum(e["dur"] for e in trace["traceEvents"] if e.get("cat") == "op") / trace["otherData"]["workers"]
    told = sum(report[n]["steps"] * report[n]["mean_us"] * sum(row["share"] for row in report[n]["op"])
               for n in ("decode", "prefill"))
    assert abs(us - told) <= 0.01 * us
    text = inspect(path, "--program", model, "--read-gbps", 10, "--int8-gmacs", 100, "--fp32-gmacs", 50).stdout
    assert "## decode" in text and "| linear" in text and "blk.0." in text


def test_wrong_files_are_refused(start, tiny_model, tmp_path):
    model, path, bad = tiny_model("llama", "Q8_0"), tmp_path / "trace.json", tmp_path / "bad.json"
    record(start, model, path, 5)
    other = inspect(path, "--program", tiny_model("gemma3", "Q8_0"), "--no-limits")
    assert other.returncode == 1 and "nodes" in other.stderr
    for text in (b"", b"{}\n", b"[" * 100000, b"\xff\x00\n", b'{"otherData":{"model":"x"},"traceEvents":[\n]}'):
        bad.write_bytes(text)
        assert inspect(bad, "--program", model, "--no-limits").returncode == 1
    whole, dice = path.read_bytes(), random.Random(1)
    for _ in range(60):
        text = bytearray(whole)
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(len(text))
            text[at:at + dice.randrange(0, 20)] = dice.randbytes(dice.randrange(0, 4))
        bad.write_bytes(text[:dice.randrange(len(text))] if dice.randrange(2) else text)
        assert inspect(bad, "--program", model, "--no-limits").returncode in (0, 1)
