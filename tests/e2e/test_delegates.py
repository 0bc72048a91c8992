"""Several back-ends in one server: parts of a model on other ones, and one out of tree, built as
somebody else would with the plain compiler and the public headers alone."""
import json
import os
import re
import shutil
import subprocess
import urllib.request

import pytest

from conftest import BINARY, ROOT, clean_environment

BODY = {"prompt": "the quick brown fox", "max_tokens": 24, "temperature": 0, "logprobs": 3}


def answer(url):
    request = urllib.request.Request(url + "/v1/completions", json.dumps(BODY).encode(), {"Content-Type": "application/json"})
    choice = json.load(urllib.request.urlopen(request, timeout=120))["choices"][0]
    return choice["text"], choice["logprobs"]


def fallbacks(url):
    text = urllib.request.urlopen(url + "/metrics").read().decode()
    found = re.search(r"^serverd_delegate_fallbacks_total (\d+)", text, re.M)
    return int(found.group(1)) if found else 0


def explained(log):
    """What --explain says: [(first node, last node, device)], and all lines."""
    runs = [(int(a), int(b), name) for a, b, name in re.findall(r"nodes (\d+)-(\d+) \(.*?\): ([\w.-]+), ", log)]
    assert runs and runs[0][0] == 0
    for before, after in zip(runs, runs[1:]):
        assert after[0] == before[1] + 1 and after[2] != before[2]
    return runs


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    folder = tmp_path_factory.mktemp("delegate")
    headers = folder / "prefix" / "include" / "serverd"
    headers.mkdir(parents=True)
    for name in ("delegate.h", "status.h"):
        shutil.copy(ROOT / "include" / "serverd" / name, headers)
    for name in ("example.c", "Makefile"):
        shutil.copy(ROOT / "examples" / "delegate" / name, folder)
    subprocess.run(["make", "-C", str(folder), f"PREFIX={folder / 'prefix'}", "CFLAGS=-O2 -Wall -Wextra -Werror"], check=True)
    path = folder / "example.so"
    path.chmod(0o755)
    return path


def test_a_cut_model_answers_as_a_whole_one(start, tiny_model):
    model = tiny_model("gemma3", "Q8_0")
    whole = start(model, "--explain")
    assert [name for _, _, name in explained(whole.log)] == ["cpu"]
    cut = start(model, "--place", "blk.1=cpu.1", "--explain")
    assert [name for _, _, name in explained(cut.log)] == ["cpu", "cpu.1", "cpu"]
    assert "override" in cut.log
    assert answer(cut.url) == answer(whole.url)
    exact = start(model, "--device", "hetero:cpu,cpu-reference", "--place", "output=cpu-reference", "--explain")
    assert explained(exact.log)[-1][2] == "cpu-reference"
    assert answer(exact.url)[0]


def test_the_example_runs_its_operations(start, tiny_model, example):
    model = tiny_model("llama", "F32")
    plain = start(model)
    with_example = start(model, "--delegate", example, "--place", "rms_norm=example,glu=example", "--explain")
    assert "example" in {name for _, _, name in explained(with_example.log)}
    assert "rms_norm): example" in with_example.log and "unsupported-op" in with_example.log
    assert answer(with_example.url)[0] == answer(plain.url)[0]
    assert fallbacks(with_example.url) == 0


def test_what_fails_to_start_costs_a_warning(start, tiny_model, example):
    model = tiny_model("llama", "F32")
    plain = start(model)
    without = start(model, "--delegate", example, "--place", "rms_norm=example", "--explain",
                    env={"EXAMPLE_DELEGATE_FAIL": "open"})
    assert len(re.findall(r" warn .*example is not used.*told to fail", without.log)) == 1
    assert {name for _, _, name in explained(without.log)} == {"cpu"} and "init-failed" in without.log
    assert fallbacks(without.url) == 1
    assert answer(without.url) == answer(plain.url)


@pytest.mark.parametrize("options, words", [
    (["--place", "blk.99=cpu"], ["place", "blk.99"]),
    (["--place", "blk.0=gpu"], ["place", "gpu"]),
    (["--place", "softcap=cpu"], ["place", "softcap"]),
    (["--device", "hetero:cpu,npu"], ["device", "npu"]),
    (["--delegate", "/no/such.so"], ["delegate", "/no/such.so"]),
])
def test_a_wish_that_cannot_be_is_named(tiny_model, options, words):
    done = subprocess.run([str(BINARY), "--model-path", str(tiny_model("llama")), "--port", "0", *options],
                          capture_output=True, text=True, timeout=60, env=clean_environment())
    assert done.returncode != 0
    assert all(word in done.stderr for word in words), done.stderr


def test_a_delegate_that_others_can_write_is_refused(tiny_model, example, tmp_path):
    path = tmp_path / "open.so"
    shutil.copy(example, path)
    os.chmod(path, 0o777)
    done = subprocess.run([str(BINARY), "--model-path", str(tiny_model("llama")), "--port", "0", "--delegate", str(path)],
                          capture_output=True, text=True, timeout=60, env=clean_environment())
    assert done.returncode != 0 and "written by others" in done.stderr and str(path) in done.stderr
