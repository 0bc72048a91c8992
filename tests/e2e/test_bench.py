"""serverd-bench against the real binary: short runs, and what they write."""
import json
import socket
import subprocess

import pytest

from conftest import BINARY, BUILD, clean_environment

BENCH = BUILD / "src" / "tools" / "bench" / "serverd-bench"


def run(*arguments, code=0):
    done = subprocess.run([str(BENCH), *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          env=clean_environment())
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def null_server(tiny_model):
    from conftest import Server
    s = Server(tiny_model("llama"), "--device", "null", "--ctx-size", "4096")
    yield s
    assert s.stop() == 0, s.log


@pytest.mark.parametrize("scenario, options, n", [
    ("closed", ["-n", 5, "-c", 2], 5),
    ("poisson", ["-n", 5, "--rate", 200], 5),
    ("shared", ["-n", 4, "-c", 2], 4),
    ("multiturn", ["-c", 2, "--turns", 2], 4),
    ("fewshot", ["-c", 2, "--preambles", 2, "--questions", 2], 4),
    ("closed", ["-n", 3, "--endpoint", "completions", "--max-tokens-max", 9], 3),
])
def test_serve_reports_every_request_and_a_summary(null_server, tmp_path, scenario, options, n):
    jsonl, html = tmp_path / "out.jsonl", tmp_path / "out.html"
    done = run("serve", scenario, "--url", null_server.url, "--prompt-words", 20, "--max-tokens", 6, "-o", jsonl,
               "--html", html, *options)
    lines = read_lines(jsonl)
    requests, summary = lines[:-1], lines[-1]
    assert [r["kind"] for r in requests] == ["request"] * n
    assert sorted(r["index"] for r in requests) == list(range(n))
    for r in requests:
        assert r["error"] == "" and r["http_status"] == 200
        assert 6 <= r["output_tokens"] <= 9 and r["prompt_tokens"] > 20 and r["finish"] == "length"
        assert 0 < r["ttft_ms"] <= r["e2e_ms"]
    assert summary["kind"] == "serve" and summary["scenario"] == scenario
    assert summary["n"] == n and summary["errors"] == 0
    assert summary["output_tokens"] == sum(r["output_tokens"] for r in requests)
    assert summary["prompt_tokens"] == sum(r["prompt_tokens"] for r in requests)
    assert summary["output_tok_s"] == pytest.approx(summary["output_tokens"] / summary["wall_s"], rel=1e-6)
    for name in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"):
        p = summary[name]
        assert p["p50"] <= p["p90"] <= p["p99"] <= p["max"], name
    assert "TTFT" in done.stdout and "goodput" in done.stdout
    page = html.read_text()
    assert page.startswith("<!doctype html>") and page.count("<svg") >= 3 and "http://www" not in page


def test_the_same_seed_sends_the_same_prompts(null_server, tmp_path):
    counts = []
    for name in ("a", "b"):
        run("serve", "--url", null_server.url, "-n", 4, "--prompt-words-max", 150, "--seed", 7, "-o", tmp_path / name)
        counts.append([r["prompt_tokens"] for r in read_lines(tmp_path / name)[:-1]])
    assert counts[0] == counts[1] and len(set(counts[0])) > 1


def test_errors_are_counted_and_all_of_them_are_a_failure(null_server, tmp_path):
    done = run("serve", "--url", null_server.url, "-n", 2, "--warmup", 0, "--prompt-words", 9000, "-o",
               tmp_path / "out", code=1)
    assert "every request failed" in done.stderr
    lines = read_lines(tmp_path / "out")
    assert lines[-1]["errors"] == 2 and lines[0]["http_status"] == 400 and "HTTP 400" in lines[0]["error"]


def test_keys_are_sent_and_not_shown(tiny_model, start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# a comment\nsecret-key-1\n")
    server = start(tiny_model("llama"), "--device", "null", "--api-key-file", keys, wait_ready=False)
    server.wait_ready()
    done = run("serve", "--url", server.url, "-n", 1, "--api-key-file", keys, "-o", tmp_path / "out", "--html",
               tmp_path / "page")
    for text in (done.stdout, (tmp_path / "out").read_text(), (tmp_path / "page").read_text()):
        assert "secret" not in text
    assert "401" in run("serve", "--url", server.url, "-n", 1, code=1).stderr


@pytest.mark.parametrize("arguments, words", [
    (["serve", "--ulr", "x"], "did you mean --url"),
    (["serve", "-s", "closd"], "did you mean closed"),
    (["model", "-p", "many"], "--prompt"),
    (["serv"], "did you mean serve"),
    ([], "Usage"),
])
def test_bad_usage_ends_with_2(arguments, words):
    assert words in run(*arguments, code=2).stderr


def test_model_measures_and_names_its_limits(tiny_model, tmp_path):
    done = run("model", tiny_model("llama"), "-p", 32, "-n", 4, "-d", "0,16", "-b", 2, "--batch-prompt", 16,
               "--batch-gen", 2, "-r", 2, "-t", 1, "-o", tmp_path / "out")
    lines = read_lines(tmp_path / "out")
    assert [line["test"] for line in lines] == ["pp32", "tg4", "pp32 @ d16", "tg4 @ d16", "pp16 x 2", "tg2 x 2",
                                                "pp16+tg2 x 2"]
    for line in lines:
        assert line["kind"] == "model" and line["threads"] == 1 and line["architecture"] == "llama"
        assert 0 < line["tok_s"]["min"] <= line["tok_s"]["mean"] <= line["tok_s"]["max"] and line["tok_s"]["n"] == 2
        assert line["limits_before"]["read_gbps"] > 0 and line["read_share"] > 0
        assert line["body_macs"] == 38912  # the last layer's mlp is behind the selection of rows
    assert "limits, 1 threads" in done.stdout


def test_kernels_have_a_row_for_each_level_and_number_of_rows(tmp_path):
    done = run("kernels", "--type", "q8_0,F16", "-M", "1,16", "--seconds", 0.001, "--context", 256, "-t", 1, "--n-out", 64,
               "--k", 256, "--weight-mib", 1, "-o", tmp_path / "out")
    lines = read_lines(tmp_path / "out")
    levels = {line["isa"] for line in lines}
    assert levels and len({(line["what"], line["isa"], line["form"], line["work"]) for line in lines}) == len(lines)
    for level in levels:
        rows = [(line["what"], line["work"]) for line in lines if line["isa"] == level]
        assert {("linear Q8_0", "M 1"), ("linear Q8_0", "M 16"), ("linear F16", "M 1"), ("linear F16", "M 16")} <= set(rows)
        assert {"quantise", "attention, prefill", "attention, decode"} <= {what for what, _ in rows}
    assert all(line["seconds"] > 0 and line["limit"] in ("read", "int8", "bf16", "fp32") for line in lines)
    assert "no type is called" in run("kernels", "--type", "Q9_9", code=1).stderr
    assert "limits at the end" in done.stdout


def test_simulate_runs_what_it_generates(tmp_path):
    trace, out = tmp_path / "trace.jsonl", tmp_path / "out"
    trace.write_text(run("simulate", "--generate", "tenants", "-n", 60, "--rate", 4).stdout)
    assert len(read_lines(trace)) == 60
    options = ["--max-running", 4, "-o", out, "--label", "few"]
    from_file = run("simulate", trace, "--block-tokens", 16, *options).stdout
    direct = run("simulate", "-w", "tenants", "-n", 60, "--rate", 4, *options).stdout
    for text in (from_file, direct):
        assert "longest wait/mean" in text and "key greedy" in text and "hit rate" in text
    lines = read_lines(out)
    runs = [line for line in lines if line["kind"] == "simulate"]
    keys = [line for line in lines[: len(lines) // 2] if line["kind"] == "key"]
    assert runs[0]["done"] == 60 == sum(line["done"] for line in keys) and len(keys) == 5
    assert runs[0]["max_running"] == 4 and runs[0]["label"] == "few"
    for name in ("queue_ms", "ttft_ms", "itl_ms", "makespan_s", "cached_tokens", "steps"):
        assert runs[0][name] == runs[1][name], name
    assert "line 1: hash_ids" in run("simulate", trace, code=1).stderr  # blocks of 512
    assert "one of them" in run("simulate", trace, "-w", "mixed", code=1).stderr


def test_scheduler_measures_steps_and_the_tree(tmp_path):
    done = run("scheduler", "--running", "2,4", "--waiting", "0,3", "--steps", 5, "--nodes", 50, "--tokens", 128,
               "--looks", 20, "-o", tmp_path / "out")
    lines = read_lines(tmp_path / "out")
    assert len(lines) == 9 and all(0 < line["p50_us"] <= line["p99_us"] <= line["max_us"] for line in lines)
    assert "step with turnover, 4 running, 3 waiting" in done.stdout and "find and hold 128 tokens" in done.stdout


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_compare_starts_both_servers_in_turn(tiny_model, tmp_path):
    port = free_port()
    command = f"{BINARY} -m '{tiny_model('llama')}' --device null --port {port} --max-running "
    done = run("compare", "-a", command + "2", "-b", command + "4", "--url", f"http://127.0.0.1:{port}", "-R", 2, "-n", 4,
               "-c", 2, "--max-tokens", 4, "-o", tmp_path / "out", "--logs", tmp_path / "log")
    lines = read_lines(tmp_path / "out")
    sides = [(line["round"], line["side"]) for line in lines if line["kind"] == "serve"]
    assert sides == [(0, "a"), (0, "b"), (1, "b"), (1, "a")]
    ratios = {line["metric"]: line for line in lines if line["kind"] == "compare"}
    assert ratios["output tok/s"]["min"] <= ratios["output tok/s"]["ratio"] <= ratios["output tok/s"]["max"]
    assert "2 rounds" in done.stdout
    for side in "ab":
        assert (tmp_path / f"log.{side}.log").read_text().count("ready") >= 2
    with socket.socket() as s:  # both are gone
        assert s.connect_ex(("127.0.0.1", port)) != 0


def test_compare_says_that_a_server_does_not_start(tiny_model):
    port = free_port()
    done = run("compare", "-a", f"{BINARY} -m /no/such.gguf --port {port}", "-b", "true", "--url",
               f"http://127.0.0.1:{port}", code=1)
    assert "server a" in done.stderr and "ended before it was ready" in done.stderr
