"""The short form of tests/tools/fuzz_programs.py: no crash, documented errors, the same values again, nothing kept."""
import os
import sys

import pytest
from conftest import ROOT
from programs import number_of_runs

sys.path.insert(0, str(ROOT / "tests" / "tools"))
import fuzz_programs  # noqa: E402

N_RUNS = number_of_runs(300)
FIRST_SEED = int(os.environ.get("SERVERD_TEST_SEED", "1"))


@pytest.mark.concurrent
@pytest.mark.parametrize("arch,options", [("llama", []), ("llama", ["--kv-memory", "1M"]), ("gemma3", [])])
def test_random_programs_break_nothing_and_keep_nothing(start, tiny_model, arch, options):
    s = start(tiny_model(arch), "--ctx-size", 512, "--programs-finished-ttl-s", 5, "--programs-tool-wait-s", 5, *options)
    counts, failures = fuzz_programs.fuzz(s.port, N_RUNS, FIRST_SEED)
    assert s.process.poll() is None, s.log[-5000:]
    assert not failures, "\n".join(failures[:3])
    assert counts["completed"] > 0.1 * N_RUNS, counts
    assert fuzz_programs.left_over(s.url) == {}
    assert s.stop() == 0, s.log[-5000:]
