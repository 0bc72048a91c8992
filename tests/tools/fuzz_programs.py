#!/usr/bin/env python3
"""Random generation programs, run in all ways at once: whole, streamed, in batches, in the background; cancelled, left,
answered late, partly or wrongly by their tools.

    fuzz_programs.py --serverd BINARY --model FILE [--runs N] [--seed N] [--clients N] [-- OPTIONS...]

What has to hold: every reply is well-formed and its error a documented one; traces keep the rules of the cache; a program
that is run again with its seed gives the same value, whatever else runs; streams join to values and their events are numbered
without gaps; nothing is held at the end. Exit 1 if something does not. A failure prints the seed that repeats it.
"""
import argparse
import collections
import http.client
import json
import pathlib
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import fuzz_client  # noqa: E402

SECONDS = 60
CODES = set("""released state_busy role_nesting unsupported unknown_variable invalid_option context_length_exceeded invalid_grammar incomplete
    invalid_tool_arguments tool_error tool_timeout bad_return_value budget_exceeded branch_limit gen_limit call_depth yield_not_allowed runtime_error
    instruction_limit cpu_limit memory_limit deadline_exceeded cancelled kv_exhausted no_chat_template invalid_arguments program_not_found
    bad_program syntax_error mine""".split())
TOOLS = """tools = {inner = {params = {x = "int"}, run = function(p) return {twice = p.x * 2} end}, outer = {params = {x = "int"}},
  bad = {params = {}, run = function() error("inside") end}}"""


# ---- programs ----

class Writer:
    """Writes one program; `is_steady`: its value is a function of its seed."""

    def __init__(self, dice):
        self.dice, self.n, self.is_steady, self.has_outer = dice, 0, True, False

    def name(self, prefix):
        self.n += 1
        return f"{prefix}{self.n}"

    def text(self):
        return json.dumps(self.dice.choice(["a", " b", "\n", "Hello there. ", " x y z", "1. ", "the end ", "", "ab" * 40, "<|im_end|>", "ä🙂 "]),
                          ensure_ascii=False)

    def program(self):
        begin = "" if self.dice.randrange(8) == 0 else f' s:add({self.text()}, "begin ")\n'
        body = self.block("s", 3)
        limits = self.dice.choice([""] * 6 + ["limits = {max_gens = 12}, ", "limits = {max_branches = 5}, ", "limits = {max_total_tokens = 200}, ",
                                              "limits = {instructions = 3000}, "])
        defaults = self.dice.choice(["", "defaults = {temperature = 0}, ", "defaults = {max_tokens = 3, top_k = 5}, "])
        return ("return program{" + limits + defaults + TOOLS + ",\nmain = function(s, a)\n local out = {}\n" + begin + body +
                "\n return {out = out, text = s:text(), n = s:len(), r = math.random(1000)}\nend}")

    def block(self, s, depth):
        return "\n".join(self.statement(s, depth) for _ in range(self.dice.randrange(1, 6)))

    def statement(self, s, depth):
        kinds = [self.add] * 4 + [self.gen] * 5 + [self.select] * 2 + [self.score, self.turn, self.variable, self.tool, self.say, self.look, self.fault]
        if depth > 0:
            kinds += [self.fork] * 3 + [self.map, self.copy, self.parallel, self.loop, self.protected, self.scope]
        return " " + self.dice.choice(kinds)(s, depth)

    def add(self, s, _):
        return f"{s}:add({self.text()}, {self.dice.randrange(100)})"

    def gen_options(self):
        d = self.dice
        options = [f"max_tokens = {d.randrange(1, 7)}"]
        if d.randrange(2):
            options.append(f'name = "{self.name("g")}"')
        form = d.choice([""] * 6 + ['regex = "[a-c]{1,4}"', 'dtype = "int"', 'dtype = "bool"', 'dtype = "string"',
                                    'json_schema = {type = "object", required = {"a"}, properties = {a = {type = "boolean"}}}',
                                    'ebnf = \'root ::= "x" | "yy"\'', 'choices = {"a", "bc"}', "stop = {'e', 'th'}", 'stop_regex = "[0-9]"',
                                    "stop_token_ids = {5, 6}", "n = 2", "logprobs = 2", "ignore_eos = true", "min_tokens = 2", "keep_stop = true, stop = 'e'",
                                    "stream = false"])
        if form:
            options.append(form)
        if d.randrange(3) == 0:
            options.append(d.choice(["temperature = 0", "temperature = 1.5", "top_p = 0.5", "top_k = 3", "seed = 4", "repetition_penalty = 1.3",
                                     "presence_penalty = 1", "min_p = 0.1"]))
        return ", ".join(options)

    def gen(self, s, _):
        call = f"{s}:gen{{{self.gen_options()}}}"
        return f"out[#out + 1] = {call}" if self.dice.randrange(2) else f"local {self.name('v')} = {call}"

    def select(self, s, _):
        d = self.dice
        choices = d.choice(['" a", " b"', '"yes", "no", "maybe not"', '"a"', '"ab", "abc", "abcd", "b"', '"x", "x"', '"", "a"'])
        method = d.choice(["", ', method = "joint"', ', method = "greedy_token"', ', method = "unconditional_likelihood_normalized"'])
        return f"out[#out + 1] = select('#', {s}:select{{choices = {{{choices}}}{method}, name = \"{self.name('c')}\"}})"

    def score(self, s, _):
        return f"out[#out + 1] = #{s}:score({self.text()}).tokens"

    def turn(self, s, _):
        role = self.dice.choice(["system", "user", "assistant", "tool"])
        return self.dice.choice([f'{s}:open("{role}")', f"{s}:close()", f"{s}:user({self.text()})", f"{s}:system({self.text()})",
                                 f"out[#out + 1] = {s}:assistant{{{self.gen_options()}}}",
                                 f"{s}:assistant(function(b) b:add({self.text()}):gen{{max_tokens = 2}} end)"])

    def variable(self, s, _):
        return self.dice.choice([f'{s}:set("k", {{1, "a"}})', f'out[#out + 1] = {s}:get("k")', f"out[#out + 1] = {s}.v.k or 0",
                                 f"for k in pairs({s}.v) do out[#out + 1] = k end"])

    def tool(self, s, _):
        kind = self.dice.choice(["inner", "inner", "outer", "outer", "bad", "nix"])
        self.has_outer = self.has_outer or kind == "outer"
        argument = self.dice.choice(["{x = 1}", "{x = 7}", "{}", "{x = 'a'}"]) if kind != "outer" else "{x = 3}"
        call = f'call_tool("{kind}", {argument})'
        return f"{s}:add(json.encode({call}))" if kind == "outer" else f"pcall(call_tool, '{kind}', {argument})"

    def say(self, s, _):
        return self.dice.choice([f"print({self.text()}, {s}:len())", f'emit("e", {{n = {s}:len()}})', "out[#out + 1] = math.random(5)",
                                 f"out[#out + 1] = count_tokens({self.text()})", "local t = {} for i = 1, 200 do t[i] = tostring(i) end table.sort(t)"])

    def look(self, s, _):
        return self.dice.choice([f"out[#out + 1] = {s}:text()", f"out[#out + 1] = {s}:len()", f"out[#out + 1] = #{s}:messages()",
                                 f"for n in pairs({s}.v) do pcall(function() out[#out + 1] = #{s}:meta(n).tokens end) end"])

    def fault(self, s, _):
        return self.dice.choice(["error({code = 'mine', message = 'x'})", f"{s}:gen{{nix = 1}}", "local x = nil; x.y = 1", f"{s}:release()",
                                 "error('plain')", f"{s}:cancel()"]) if self.dice.randrange(8) == 0 else f"{s}:special('<|im_end|>')"

    def branch(self, depth):
        b, inner = self.name("b"), depth - 1
        # what it finds is its own: the order in which siblings go on is the engine's
        return b, f"function({b}, i) local out = {{}}\n{self.block(b, inner)}\n return {{out, {b}:len()}} end"

    def fork(self, s, depth):
        d = self.dice
        _, fn = self.branch(depth)
        mode = d.choice(["()", '("wait")', '("gather")', '{mode = "concat"}', '{mode = "concat", vars = true, sep = "|"}', '{on_error = "keep"}', "{first = 1}",
                         "none", "release"])
        if mode == "{first = 1}":
            self.is_steady = False  # who is first depends on the other requests
        g = self.name("h")
        begin = f"local {g} = {s}:fork({d.randrange(1, 5)}, {fn})"
        if mode == "none":
            return begin
        if mode == "release":
            self.is_steady = False  # how far its task came
            return begin + f" {g}[1]:release()"
        return begin + f" local r = {g}:join{mode} out[#out + 1] = {'#r' if 'keep' in mode else 'r'}"

    def map(self, s, depth):
        _, fn = self.branch(depth)
        return f"out[#out + 1] = {s}:map({{1, 2, 3}}, {fn.replace(', i)', ', x, i)', 1)})"

    def copy(self, s, depth):
        c = self.name("k")
        return f"do local {c} = {s}:copy()\n{self.block(c, depth - 1)}\n" + self.dice.choice([f" {c}:release()", "", f" out[#out + 1] = {c}:text()"]) + " end"

    def parallel(self, s, depth):
        c = self.name("k")
        return (f"out[#out + 1] = parallel({{1, 2}}, function(x, i) local {c}, out = {s}:copy(), {{}}\n"
                f"{self.block(c, depth - 1)}\n return {{out, {c}:text()}} end)")

    def loop(self, s, depth):
        return f"for i = 1, {self.dice.randrange(1, 4)} do\n{self.block(s, depth - 1)}\n end"

    def protected(self, s, depth):
        return f"local ok, e = pcall(function()\n{self.block(s, depth - 1)}\n end) out[#out + 1] = ok or tostring(e)"

    def scope(self, s, depth):
        return f'{s}:scope("{self.name("z")}", function({s})\n{self.block(s, depth - 1)}\n end)'


# ---- asking ----

class Bad(Exception):
    pass


class Asker:
    """One connection for each request; replies are checked."""

    def __init__(self, port):
        self.port = port

    def open(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        return connection

    def ask(self, method, path, body=None):
        connection = self.open(method, path, body)
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        value = json.loads(data) if data else {}
        if reply.status >= 400:
            check_error(reply.status, value.get("error"))
        return reply.status, value

    def stream(self, method, path, body):
        connection = self.open(method, path, body)
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        if not reply.headers["content-type"].startswith("text/event-stream"):
            value = json.loads(data)
            check_error(reply.status, value.get("error"))
            return []
        return read_events(data.decode("utf-8"))


def check_error(status, error):
    if not error or not error.get("message") or not error.get("type"):
        raise Bad(f"status {status} with the error {error}")
    if status not in (400, 404, 409, 422, 429, 503) or status in (400, 422) and error.get("code") not in CODES:
        raise Bad(f"status {status}, {error}")


def read_events(text):
    if not text.endswith("data: [DONE]\n\n"):
        raise Bad(f"the stream ends with {text[-200:]!r}")
    events = []
    for block in text.split("\n\n")[:-2]:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if lines:
            fields = dict(line.split(": ", 1) for line in lines)
            events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return events


def check_object(run):
    if run.get("object") != "program.run" or run["status"] not in ("queued", "running", "requires_action", "completed", "failed", "cancelled"):
        raise Bad(f"no run: {json.dumps(run)[:300]}")
    if (run["status"] == "failed") != bool(run.get("error")) and run["status"] != "cancelled":
        raise Bad(f"status {run['status']} with error {run.get('error')}")
    if run.get("error") and run["error"].get("code") not in CODES:
        raise Bad(f"error {run['error']}")
    seen = set()
    for o in run.get("trace") or []:
        if o["prompt"] != o["reused"] + o["prefill"]:
            raise Bad(f"{o}")
        # fewer: other runs, a stop's dropped tokens or guessed ones have left the keys
        if o["branch"] in seen and o["op"] == "gen" and o["prefill"] > o["appended"] + o["carry"] and not run["usage"]["reprefilled_tokens"]:
            raise Bad(f"not K3: {o}")
        seen.add(o["branch"])


def check_events(events, first):
    """Numbers without gaps, the object last, deltas that join to what var.done says. The object."""
    if [i for i, _, _ in events] != list(range(first, first + len(events))):
        raise Bad(f"numbers {[i for i, _, _ in events][:20]} from {first}")
    texts = {}
    for _, name, data in events:
        key = data.get("branch"), data.get("name")
        if name == "var.start":
            texts[key] = ""
        elif name == "var.delta" and key in texts:
            texts[key] += data["delta"]
        elif name == "var.done" and key in texts and isinstance(data.get("value"), str):
            text = texts.pop(key)
            if text not in ("", data["value"]) and not text.lstrip().startswith('"'):  # whose value is decoded
                raise Bad(f"{text!r} does not join to {data}")
    run = events[-1][2]
    if not re.fullmatch(r"(run\.(requires_action|completed|failed|cancelled)|batch\.completed)", events[-1][1]):
        raise Bad(f"the last event is {events[-1][1]}")
    return run


class Way:
    """One program run in one way."""

    def __init__(self, dice, port):
        self.dice, self.asker = dice, Asker(port)
        self.writer = Writer(dice)
        self.body = {"source": self.writer.program(), "seed": dice.randrange(1000), "include": ["trace"],
                     "cache_salt": dice.choice(["", "", "a", "b"])}
        if not self.body["cache_salt"]:
            del self.body["cache_salt"]

    def results_of(self, run):
        calls = run["required_action"]["tool_calls"]
        return [{"id": c["id"], "output": {"y": c["arguments"]["x"] + 1}} for c in calls]

    def finish(self, status, run):
        """Answers tools until the run has ended; some answers are wrong, or but a part."""
        while status < 400 and run["status"] == "requires_action":
            check_object(run)
            results, path = self.results_of(run), f"/v1/program_runs/{run['id']}/tool_results"
            if not results:
                raise Bad("requires_action without a call")
            trick = self.dice.randrange(6)
            if trick == 0:
                wrong, _ = self.asker.ask("POST", path, {"results": [{"id": "call_nix", "output": 1}]})
                if wrong != 409:
                    raise Bad(f"a wrong id is answered {wrong}")
            if trick == 1 and len(results) > 1:
                status, run = self.asker.ask("POST", path, {"results": results[:1]})
                continue
            status, run = self.asker.ask("POST", path, {"results": results})
        if status < 400:
            check_object(run)
        return status, run

    def whole(self):
        return self.finish(*self.asker.ask("POST", "/v1/programs", self.body))

    def twice(self):
        status, run = self.whole()
        if status == 200 and self.writer.is_steady and run["status"] == "completed":
            again_status, again = self.whole()
            if again_status == 200 and again["value"] != run["value"]:
                raise Bad(f"{json.dumps(run['value'])[:1500]}\n    then {json.dumps(again['value'])[:1500]}")
            if again_status != 200:
                raise Bad(f"{run['status']}, then {again_status} {again}")
        return status, run

    def streamed(self):
        events = self.asker.stream("POST", "/v1/programs", {**self.body, "stream": True})
        if not events:
            return 400, {}
        first = events[0][0]
        run = check_events(events, first)
        while run["status"] == "requires_action":
            n = events[-1][0] + 1
            events = self.asker.stream("POST", f"/v1/program_runs/{run['id']}/tool_results", {"results": self.results_of(run), "stream": True})
            run = check_events(events, n)
        check_object(run)
        if self.dice.randrange(3) == 0:  # all of it again
            again = self.asker.stream("GET", f"/v1/program_runs/{run['id']}/events?from={first}", None)
            check_events(again, first)
        return 200, run

    def background(self):
        status, run = self.asker.ask("POST", "/v1/programs", {**self.body, "background": True})
        if status >= 400:
            return status, run
        end = time.monotonic() + SECONDS
        if self.dice.randrange(2):
            time.sleep(self.dice.random() * 0.02)
            self.asker.ask("DELETE", f"/v1/program_runs/{run['id']}")
        while run["status"] in ("queued", "running"):
            if time.monotonic() > end:
                raise Bad(f"{run['id']} is {run['status']} for ever")
            status, run = self.asker.ask("GET", f"/v1/program_runs/{run['id']}")
            time.sleep(0.005)
        return self.finish(status, run)

    def left(self):
        """The client goes: in the middle of the stream, or of the wait."""
        data = json.dumps({**self.body, "stream": bool(self.dice.randrange(2))}).encode()
        sock = socket.create_connection(("127.0.0.1", self.asker.port), timeout=SECONDS)
        sock.sendall(b"POST /v1/programs HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        if self.dice.randrange(2):
            sock.recv(self.dice.choice([1, 200, 2000]))
        else:
            time.sleep(self.dice.random() * 0.03)
        sock.close()
        return 0, {}

    def batch(self):
        del self.body["include"]
        items = [{"args": {}, "id": str(i)} for i in range(self.dice.randrange(1, 6))]
        status, batch = self.asker.ask("POST", "/v1/programs", {**self.body, "items": items, "on_error": self.dice.choice(["keep", "stop"]),
                                                                "max_parallel": self.dice.randrange(1, 4)})
        if status >= 400:
            return status, batch
        if batch["status"] == "requires_action":
            self.asker.ask("DELETE", f"/v1/program_runs/{batch['id']}")
        elif len(batch["results"]) != len(items):
            raise Bad(f"{len(batch['results'])} results of {len(items)} items")
        return status, batch

    def go(self):
        """(how, outcome)"""
        way = self.dice.choice([self.whole, self.twice, self.twice, self.streamed, self.streamed, self.background, self.left, self.batch])
        status, run = way()
        if status >= 400:
            return way.__name__, (run.get("error") or {}).get("code") or str(status)
        return way.__name__, run.get("status", "left")


def fuzz(port, n, seed=1, n_clients=8, progress=None):
    """(Counter of ways and outcomes, failures)"""
    counts, failures, lock = collections.Counter(), [], threading.Lock()
    seeds = iter(range(seed, seed + n))

    def work():
        while True:
            with lock:
                number = next(seeds, None)
                if number is None or len(failures) >= 20:
                    return
                if progress and (number - seed) % max(1, n // 10) == 0:
                    progress(number - seed, counts, failures)
            way = Way(random.Random(number), port)
            try:
                name, outcome = way.go()
            except (Bad, OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as e:
                with lock:
                    failures.append(f"--seed {number} --runs 1 --clients 1: {type(e).__name__} {e}\n{way.body['source']}")
                continue
            with lock:
                counts[name] += 1
                counts[outcome] += 1

    threads = [threading.Thread(target=work, daemon=True) for _ in range(n_clients)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return counts, failures


def left_over(url, seconds=30):
    """As fuzz_client's, and what programs hold."""
    end = time.monotonic() + seconds
    while True:
        g = fuzz_client.gauges(url)
        left = {k: v for k, v in g.items() if v and k in ("program_runs_active", "program_runs_waiting_tool", "program_branches_active", "program_pinned_pages")}
        if not left or time.monotonic() > end:
            return {**left, **fuzz_client.left_over(url, max(1, end - time.monotonic()))}
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--serverd", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--show", action="store_true", help="prints the first program and ends")
    parser.add_argument("options", nargs="*", help="of the server")
    a = parser.parse_args()
    if a.show:
        print(Way(random.Random(a.seed), 0).body["source"])
        return
    folder = tempfile.mkdtemp()
    log = open(f"{folder}/serverd.log", "w", encoding="utf-8")
    process = subprocess.Popen([a.serverd, "--model-path", a.model, "--port", "0", "--ctx-size", "512", "--programs-tool-wait-s", "2", "--data-path", "off",
                                "--programs-finished-ttl-s", "5", *a.options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    found = None
    for line in process.stdout:
        log.write(line)
        found = found or re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if "daemon: ready" in line:
            break
    if not found:
        sys.exit(f"the server did not start; see {log.name}")
    threading.Thread(target=lambda: [log.write(line) for line in process.stdout], daemon=True).start()
    url = found[0]
    begin, memory = time.monotonic(), [fuzz_client.memory_mib(process.pid)]
    counts, failures = fuzz(int(found[1]), a.runs, a.seed, a.clients, lambda n, c, f: print(f"{n} runs, {len(f)} failures", flush=True))
    is_alive = process.poll() is None
    memory.append(fuzz_client.memory_mib(process.pid) if is_alive else 0)
    left = left_over(url) if is_alive else "the server"
    if is_alive:
        process.terminate()
    code = process.wait(60)
    log.flush()
    print(f"{a.runs} runs from seed {a.seed} in {time.monotonic() - begin:.0f} s: " + ", ".join(f"{k}: {v}" for k, v in sorted(counts.items())))
    print(f"memory {memory} MiB; left over: {left}; exit code {code}; log {log.name}")
    for failure in failures:
        print(failure)
    sys.exit(bool(failures or left or code))


if __name__ == "__main__":
    main()
