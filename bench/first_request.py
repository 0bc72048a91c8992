#!/usr/bin/env python3
"""Times a start and the first requests of a serverd, its idle CPU and its memory.

Usage: first_request.py SERVERD MODEL [ROUNDS]        standard library only
Prints one line a round and the medians: exec to listening, exec to ready, exec to the first
token of an 8-word prompt, time to first token when warm, CPU share over 10 idle seconds, and
resident memory split into the model file's pages, other files, and anonymous memory.
"""
import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request


def first_token(url):
    body = {"prompt": "The quick brown fox jumps over the lazy", "max_tokens": 8, "stream": True, "temperature": 0}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    begin = time.monotonic()
    with urllib.request.urlopen(request, timeout=120) as reply:
        reply.readline()
        seen = time.monotonic()
        reply.read()
    return begin, seen


def memory(pid, model):
    """MB resident: of the model's file, of other files, anonymous."""
    parts = {"model": 0, "files": 0, "anonymous": 0}
    kind = "anonymous"
    for line in open(f"/proc/{pid}/smaps"):
        if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            path = line.split(maxsplit=5)[5].strip() if len(line.split(maxsplit=5)) > 5 else ""
            kind = "model" if os.path.basename(path) == os.path.basename(model) else "files"
        elif line.startswith("Rss:"):
            rss = int(line.split()[1])
        elif line.startswith("Anonymous:"):
            anonymous = int(line.split()[1])
            parts["anonymous"] += anonymous
            parts[kind] += rss - anonymous
    return {k: round(v / 1000, 1) for k, v in parts.items()}


def one_round(binary, model):
    begin = time.monotonic()
    process = subprocess.Popen([binary, "--model-path", model, "--port", "0"], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    try:
        url = None
        while url is None:
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            url = found and found.group()
        listening = time.monotonic()
        while True:
            try:
                urllib.request.urlopen(url + "/ready").read()
                break
            except urllib.error.HTTPError:
                time.sleep(0.002)
        ready = time.monotonic()
        before = memory(process.pid, model)
        _, seen = first_token(url)
        warm = []
        for _ in range(5):
            sent, token = first_token(url)
            warm.append(token - sent)
        time.sleep(1)
        ticks = lambda: sum(map(int, open(f"/proc/{process.pid}/stat").read().rsplit(")", 1)[1].split()[11:13]))
        used = ticks()
        time.sleep(10)
        idle = (ticks() - used) / os.sysconf("SC_CLK_TCK") / 10
        return {"listening_ms": (listening - begin) * 1e3, "ready_ms": (ready - begin) * 1e3,
                "first_token_ms": (seen - begin) * 1e3, "warm_ttft_ms": statistics.median(warm) * 1e3,
                "idle_cpu_percent": idle * 100, "memory_ready_mb": before,
                "memory_used_mb": memory(process.pid, model)}
    finally:
        process.terminate()
        process.wait()


def main():
    rounds = [one_round(sys.argv[1], sys.argv[2]) for _ in range(int(sys.argv[3]) if len(sys.argv) > 3 else 5)]
    for r in rounds:
        print(json.dumps(r))
    print("median", json.dumps({k: round(statistics.median(r[k] for r in rounds), 2)
                                for k, v in rounds[0].items() if not isinstance(v, dict)}))


if __name__ == "__main__":
    main()
