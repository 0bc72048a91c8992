"""The short form of tests/tools/fuzz_client.py: no crash, no 500, nothing kept, whatever clients send."""
import os
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "tools"))
import fuzz_client  # noqa: E402

N_REQUESTS = int(os.environ.get("SERVERD_TEST_REQUESTS", "2000"))
FIRST_SEED = int(os.environ.get("SERVERD_TEST_SEED", "1"))
MEMORY_MIB = 128  # that it may grow by, sanitizers' and caches' included; a leak shows in longer runs


@pytest.mark.concurrent
@pytest.mark.parametrize("arch,share", [("llama", 0.8), ("bert", 0.2)])
def test_nothing_breaks_and_nothing_is_kept(start, tiny_model, tmp_path, arch, share):
    s = start(tiny_model(arch), "--ctx-size", 256, "--response-ttl", 1, "--data-path", tmp_path / "data")
    outcome, memory = fuzz_client.fuzz(s.port, s.process.pid, int(N_REQUESTS * share), FIRST_SEED)
    assert s.process.poll() is None, s.log[-5000:]
    assert not outcome.failures, "\n".join(outcome.failures[:5])
    assert outcome.counts[200] > 0.05 * N_REQUESTS * share, outcome.counts
    assert fuzz_client.left_over(s.url) == {}
    assert memory[-1] - memory[1] < MEMORY_MIB, memory
    assert s.stop() == 0, s.log[-5000:]
