"""Sixteen clients at once, or more, get what each gets alone, token for token."""
import concurrent.futures
import json
import os
import urllib.request

import pytest

pytestmark = pytest.mark.slow

TOPICS = ["rivers", "bread", "the moon", "chess", "bicycles", "volcanoes", "tea", "violins", "glaciers", "bees",
          "bridges", "paper", "salt", "owls", "kites", "lighthouses"]
N_STREAMS = int(os.environ.get("SERVERD_TEST_STREAMS", len(TOPICS)))


def stream_text(url, topic, n_tokens=48):
    body = {"messages": [{"role": "user", "content": f"Write about {topic}. " + "Be precise. " * len(topic)}],
            "temperature": 0, "max_tokens": n_tokens, "stream": True}
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    text, finish = "", None
    with urllib.request.urlopen(request, timeout=300) as reply:
        for line in reply:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            choice = json.loads(line[6:])["choices"][0]
            text += choice["delta"].get("content") or ""
            finish = choice["finish_reason"] or finish
    return text, finish


def test_sixteen_streams_equal_each_alone(server):
    alone = [stream_text(server.url, topic) for topic in TOPICS]
    with concurrent.futures.ThreadPoolExecutor(N_STREAMS) as pool:
        together = list(pool.map(lambda i: stream_text(server.url, TOPICS[i % len(TOPICS)]), range(N_STREAMS)))
    assert together == [alone[i % len(alone)] for i in range(N_STREAMS)]
    assert len({text for text, _ in alone}) == 16


def test_a_small_kv_pool_changes_nothing(start, default_model, server):
    """Sequences are preempted and resumed; the text stays the same."""
    alone = [stream_text(server.url, topic, 64) for topic in TOPICS[:8]]
    small = start(default_model, "--kv-memory", "12M", "--ctx-size", "512")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda t: stream_text(small.url, t, 64), TOPICS[:8]))
    assert together == alone


def test_chunk_size_and_threads_change_nothing(start, default_model, server):
    alone = stream_text(server.url, TOPICS[0])
    other = start(default_model, "--prefill-chunk", "16", "--threads", "1")
    assert stream_text(other.url, TOPICS[0]) == alone
