"""What serverd-inspect says that a daemon takes of memory is what it takes when all sequences are as long as they may
be."""
import concurrent.futures
import json
import pathlib
import random
import re
import subprocess
import urllib.request

import pytest

from conftest import BUILD, clean_environment, find_model

INSPECT = BUILD / "src" / "tools" / "inspect" / "serverd-inspect"
COMPILE = BUILD / "src" / "tools" / "compile" / "serverd-compile"
MEASURE_PLAN = BUILD / "tests" / "runtime" / "measure_plan"


def peak_of(process):
    text = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) * 1024


def fill(url, context, seqs, n_vocab):
    """Every sequence at once, to the end of its context; no two begin alike."""
    def one(seed):
        ids = random.Random(seed)
        n_new = min(32, context // 4)
        body = {"prompt": [ids.randrange(n_vocab) for _ in range(context - n_new)], "max_tokens": n_new,
                "ignore_eos": True, "temperature": 0.7, "seed": seed}
        request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as reply:
            return json.loads(reply.read())["usage"]["total_tokens"]

    with concurrent.futures.ThreadPoolExecutor(seqs) as pool:
        assert list(pool.map(one, range(seqs))) == [context] * seqs


def check(start, path, context, seqs, kv_dtype="bf16"):
    told = json.loads(subprocess.run(
        [str(INSPECT), str(path), "--json", "--tokens", "--context", str(context), "--seqs", str(seqs), "--kv-dtype", kv_dtype],
        capture_output=True, text=True, check=True, env=clean_environment()).stdout)
    memory = told["memory"]
    assert memory["holds_all_contexts"]
    assert memory["peak"] == sum(memory[k] for k in ("mapped", "packed", "activations", "scratch", "kv", "engine",
                                                     "process"))
    assert memory["activations"] < memory["activations_naive"]
    server = start(path, "--ctx-size", context, "--max-running", seqs, "--kv-dtype", kv_dtype, "--no-request-log")
    fill(server.url, context, seqs, len(told["tokens"]))
    peak = peak_of(server.process)
    predicted = memory["peak"]
    print(f"{path.name} {context} x {seqs}: {peak / 1e6:.1f} MB, {predicted / 1e6:.1f} MB predicted, "
          f"{100 * (predicted / peak - 1):+.1f} %")
    assert abs(predicted / peak - 1) <= 0.03, (peak, memory)


@pytest.mark.slow
def test_a_small_model_takes_what_was_predicted(start, tiny_model, tmp_path):
    path = tmp_path / "tiny.sdp"
    subprocess.run([str(COMPILE), str(tiny_model("llama", "Q8_0")), "-o", str(path)], check=True)
    check(start, path, 2048, 64, "f32")


@pytest.mark.parametrize("name", ["SmolLM2-135M-Instruct.Q4_1", "gemma-3-270m-q4_k_m"])
@pytest.mark.parametrize("context, sessions", [(512, 1), (512, 4)])
def test_the_library_takes_what_it_plans(tmp_path, name, context, sessions):
    source = find_model(f"{name}.gguf")
    if not source:
        pytest.skip("the model is not there")
    path = tmp_path / f"{name}.sdp"
    subprocess.run([str(COMPILE), str(source), "-o", str(path)], check=True)
    planned, taken = map(int, subprocess.check_output([str(MEASURE_PLAN), str(path), str(context), str(sessions)]).split())
    assert abs(planned / taken - 1) <= 0.03, (planned, taken)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SmolLM2-135M-Instruct.Q4_1", "qwen2.5-coder-0.5b-instruct-q4_k_m",
                                  "gemma-3-270m-q4_k_m"])
@pytest.mark.parametrize("context, seqs", [(512, 1), (1024, 2), (512, 8)])
def test_a_model_takes_what_was_predicted(start, tmp_path, name, context, seqs):
    source = find_model(f"{name}.gguf")
    if not source:
        pytest.skip("the model is not there")
    path = tmp_path / f"{name}.sdp"
    subprocess.run([str(COMPILE), str(source), "-o", str(path)], check=True)
    check(start, path, context, seqs)
