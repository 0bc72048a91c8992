#!/usr/bin/env python3
"""Generation programs against the same logic on the client: wall time, requests, prefilled tokens.

    compare_programs.py --serverd BINARY --model FILE.gguf [--llama-server BINARY] [--rounds N] [--items N] [PROGRAM...]
    compare_programs.py --url http://127.0.0.1:8000 ...

Each side begins with an empty cache; the best of `rounds` counts. Prefilled tokens are those that the engine computed.
classify runs as a batch of `items`, on the client as so many requests at once. With --llama-server its side is the
client's code, too. Prints a table; exit 1 if a program prefilled more than the client did, or gave another value than
the client's token by token (--check), or took longer (--check-time).
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import client_programs as client

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEED = 7
NO_EQUAL = {"tree_of_thought"}  # it draws


def texts(n):
    words = ["arrived", "late", "broke", "works", "cheap", "lovely", "slow", "quiet", "heavy", "bright"]
    return [f"It was {words[i % 10]} and {words[i // 10 % 10]}, order {i}." for i in range(n)]


class Side:
    """One way to run a program: `run` gives its value; prefilled() what the server computed so far."""

    def __init__(self, name, url, run, dialect="serverd"):
        self.name, self.url, self.dialect, self.run_program = name, url, dialect, run
        self.endpoint = client.Endpoint(url, dialect)

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as reply:
            return json.loads(reply.read())

    def empty_cache(self):
        if self.dialect == "serverd":
            urllib.request.urlopen(urllib.request.Request(self.url + "/flush_cache", b"", method="POST"), timeout=60).read()
            return
        for slot in self.get("/slots"):
            urllib.request.urlopen(urllib.request.Request(f"{self.url}/slots/{slot['id']}?action=erase", b"", method="POST"), timeout=60).read()

    def prefilled(self):
        return self.get("/debug/kvcache")["counters"]["computed_tokens"] if self.dialect == "serverd" else self.endpoint.n_prefill

    def measure(self, name, args):
        """(seconds, requests, prefilled tokens, value)"""
        self.empty_cache()
        self.endpoint.reset()
        before, begin = self.prefilled(), time.monotonic()
        value = self.run_program(self.endpoint, name, args)
        return time.monotonic() - begin, self.endpoint.n_requests, self.prefilled() - before, value


def run_client(state):
    def run(endpoint, name, args):
        if name != "classify":
            return client.run(endpoint, name, args, state)
        with concurrent.futures.ThreadPoolExecutor(len(args)) as pool:
            return list(pool.map(lambda a: client.run(endpoint, name, a, state), args))

    return run


def value_of(run):
    if run["status"] != "completed":
        raise client.Refused(f"{run['status']}: {run.get('error')}")
    return run["value"]


def run_program(endpoint, name, args):
    """Named programs are not relied upon: the source is sent."""
    options = {"source": (ROOT / f"configs/programs/{name}.lua").read_text(), "seed": SEED, "sampling": {"temperature": 0}}
    if name == "classify":
        reply = endpoint.post("/v1/programs", {**options, "items": [{"args": a} for a in args], "max_parallel": len(args)})
        endpoint.n_requests += 1
        return [value_of(r) for r in reply["results"]]
    run = endpoint.post("/v1/programs", {**options, "args": args})
    endpoint.n_requests += 1
    while run["status"] == "requires_action":
        results = [{"id": c["id"], "output": client.lookup(**c["arguments"])} for c in run["required_action"]["tool_calls"]]
        run = endpoint.post(f"/v1/program_runs/{run['id']}/tool_results", {"results": results})
        endpoint.n_requests += 1
    return value_of(run)


class Process:
    """A server of a command line, until it says where it listens or answers."""

    def __init__(self, command, url=None):
        self.child = subprocess.Popen(shlex.split(command), stdout=subprocess.PIPE if url is None else subprocess.DEVNULL,
                                      stderr=subprocess.STDOUT if url is None else subprocess.DEVNULL, text=True,
                                      env={"OMP_WAIT_POLICY": "passive", **os.environ})  # spinning threads stop each other
        self.url = url
        while self.url is None:
            line = self.child.stdout.readline()
            if not line:
                sys.exit(f"{command} does not start")
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            self.url = found and found[0]
        if url is None:
            threading.Thread(target=self.child.stdout.read, daemon=True).start()
        self.wait("/health" if url else "/ready")

    def wait(self, path):
        for _ in range(1200):
            try:
                urllib.request.urlopen(self.url + path, timeout=5).read()
                return
            except OSError:
                time.sleep(0.1)
        sys.exit(f"{self.url} does not get ready")

    def stop(self):
        self.child.terminate()
        self.child.wait(30)


def same(a, b):
    """Equal values, margins and the like up to rounding."""
    if isinstance(a, float) or isinstance(b, float):
        return abs(a - b) < 1e-4
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def best(side, name, args, rounds):
    seconds, n_requests, prefilled, value = side.measure(name, args)
    for _ in range(rounds - 1):
        again, _, fewer, _ = side.measure(name, args)
        seconds, prefilled = min(seconds, again), min(prefilled, fewer)
    return seconds, n_requests, prefilled, value


def compare(sides, names, rounds, n_items, check, check_time):
    """Prints the table; the names of those that are worse than they have to be."""
    bad = []
    print("| program | side | ms | requests | prefilled | time, of the client's | prefilled, of the client's |\n|---|---|---|---|---|---|---|")
    for name in names:
        args = [{"text": t} for t in texts(n_items)] if name == "classify" else client.EXAMPLES[name]
        rows = {side.name: best(side, name, args, rounds) for side in sides}
        base = rows["client"]
        for side, (seconds, n_requests, prefilled, value) in rows.items():
            print(f"| {name} | {side} | {seconds * 1000:.0f} | {n_requests} | {prefilled} | {seconds / base[0]:.2f} | "
                  f"{prefilled / max(1, base[2]):.2f} |", flush=True)
        if "program" not in rows:
            continue
        program = rows["program"]
        if name not in NO_EQUAL and program[2] > base[2]:
            bad.append(f"{name}: {program[2]} tokens prefilled, the client's {base[2]}")
        if check_time and program[0] > base[0]:
            bad.append(f"{name}: {program[0]:.3f} s, the client's {base[0]:.3f} s")
        if check and name not in NO_EQUAL:
            side = next(s for s in sides if s.name == "client")
            expected = Side("tokens", side.url, run_client(client.TokenState)).measure(name, args)[3]
            if not same(program[3], expected):
                bad.append(f"{name}: {json.dumps(program[3])}, token by token {json.dumps(expected)}")
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--serverd")
    parser.add_argument("--url", help="of a serverd that runs")
    parser.add_argument("--model")
    parser.add_argument("--llama-server")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--no-programs", action="store_true", help="the clients' sides alone")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--check-time", action="store_true")
    parser.add_argument("programs", nargs="*")
    a = parser.parse_args()
    running, sides = [], []
    try:
        if not a.url:
            running.append(Process(f"{a.serverd} --model-path {a.model} --port 0 --ctx-size 4096 --threads {a.threads} --data-path off"))
        url = a.url or running[0].url
        if not a.no_programs:
            sides.append(Side("program", url, run_program))
        sides.append(Side("client", url, run_client(client.TextState)))
        if a.llama_server:
            port = 18439
            running.append(Process(f"{a.llama_server} -m {a.model} -t {a.threads} -fa on -np 16 -c 32768 --port {port} --slots --no-webui "
                                   f"--slot-save-path {tempfile.gettempdir()}",  # without it no slot is emptied
                                   f"http://127.0.0.1:{port}"))
            sides.append(Side("llama-server", running[-1].url, run_client(client.TextState), "llama-server"))
        bad = compare(sides, a.programs or list(client.PROGRAMS), a.rounds, a.items, a.check, a.check_time)
    finally:
        for process in running:
            process.stop()
    for line in bad:
        print(line)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
