#!/usr/bin/env python3
"""Times what a streamed token costs a serverd outside the model: CPU by thread, with the null
back-end, whose steps sleep. The client is serverd-bench, a process of its own.

Usage: stream_cost.py SERVERD SERVERD_BENCH MODEL [--streams 16] [--step-us 12000] [--tokens 256]
                      [--rounds 3] [--endpoint chat|completions]        standard library only
Prints a line a round, microseconds of CPU a token: all threads, each thread, and the context
switches and socket writes a token. The engine's part includes filling the null back-end's logits.
"""
import argparse
import os
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.request


def threads(pid):
    """{name: (CPU ns, context switches)}, threads of one name added up."""
    out = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        base = f"/proc/{pid}/task/{task}/"
        try:
            name = open(base + "comm").read().strip()
            ns = int(open(base + "schedstat").read().split()[0])
            switches = sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", open(base + "status").read())))
        except FileNotFoundError:
            continue
        old = out.get(name, (0, 0))
        out[name] = (old[0] + ns, old[1] + switches)
    return out


def writes(pid):
    return int(re.search(r"syscw: (\d+)", open(f"/proc/{pid}/io").read()).group(1))


def wait_ready(url, server):
    for _ in range(600):
        try:
            if urllib.request.urlopen(url + "/health", timeout=5).status == 200:
                return
        except (urllib.error.URLError, ConnectionError):
            pass
        if server.poll() is not None:
            raise SystemExit("serverd ended")
        time.sleep(0.05)
    raise SystemExit("serverd is not ready")


def one_round(args, url, pid, endpoint):
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as out:
        begin, n_writes = threads(pid), writes(pid)
        done = subprocess.run([args.bench, "serve", "-s", "closed", "-u", url, "--endpoint", endpoint, "-n",
                               str(2 * args.streams), "-c", str(args.streams), "--prompt-words", "20", "--warmup", "0",
                               "--max-tokens", str(args.tokens), "-o", out.name], capture_output=True, text=True)
        end, n_writes = threads(pid), writes(pid) - n_writes
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
    n = 2 * args.streams * args.tokens
    parts = {name: ((ns - begin.get(name, (0, 0))[0]) / n / 1e3, (sw - begin.get(name, (0, 0))[1]) / n)
             for name, (ns, sw) in end.items()}
    total = sum(us for us, _ in parts.values())
    text = "  ".join(f"{name} {us:.2f}" for name, (us, _) in sorted(parts.items(), key=lambda p: -p[1][0]) if us > 0.05)
    switches = sum(sw for _, sw in parts.values())
    print(f"{endpoint:12} {total:6.2f} us  ({text})  {switches:.2f} switches, {n_writes / n:.2f} writes", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("serverd")
    parser.add_argument("bench")
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--step-us", type=int, default=12000)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--endpoint", default="chat,completions")
    args = parser.parse_args()
    server = subprocess.Popen([args.serverd, args.model, "--device", f"null:step_us={args.step_us},min_token=300",
                               "--port", "0", "--max-running", str(args.streams)], stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            found = re.search(r"listens on (http://\S+)", line)
            if found:
                url = found.group(1).rstrip('"}')
                break
        wait_ready(url, server)
        for endpoint in args.endpoint.split(","):
            for _ in range(args.rounds):
                one_round(args, url, server.pid, endpoint)
    finally:
        server.terminate()
        server.wait()


main()
