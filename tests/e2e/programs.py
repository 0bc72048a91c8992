"""Generation programs over HTTP, for tests: runs, streams, tools, and the rules that a trace has to keep."""
import http.client
import json
import os

from conftest import BUILD, ROOT
from wire import post

FOLDER = ROOT / "configs" / "programs"


def number_of_runs(usual):
    """SERVERD_TEST_PROGRAMS, or so many; few under ThreadSanitizer, which keeps memory for every yield of Lua: a longjmp in a
    library that it has not instrumented leaves its stack longer."""
    return int(os.environ.get("SERVERD_TEST_PROGRAMS", min(usual, 60) if "tsan" in BUILD.name else usual))


class Failed(Exception):
    """A run that failed, or was refused: the HTTP status and its error."""

    def __init__(self, status, error):
        super().__init__(f"{status} {error}")
        self.status, self.error = status, error
        self.code = error.get("code")


def source(name):
    return (FOLDER / f"{name}.lua").read_text()


def main_of(body, fields=""):
    """The source of a program whose main does `body`."""
    return "return program{" + fields + (", " if fields else "") + "main = function(s, a)\n" + body + "\nend}"


def ask(server, method, path, body=None, headers=None, seconds=300):
    """(status, object)"""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=seconds)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        data = reply.read()
        return reply.status, json.loads(data) if data else None
    finally:
        connection.close()


def flush(server):
    """Empties the cache."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/flush_cache")
    assert connection.getresponse().status == 200
    connection.close()


def checked(status, data):
    if status >= 300:
        raise Failed(status, data["error"])
    if data.get("status") == "failed":
        raise Failed(status, data["error"])
    return data


def run(server, text, args=None, headers=None, **options):
    """The object of a run of a source text, with its trace; greedy unless told otherwise."""
    body = {"source": text, "args": args or {}, "include": ["trace"], "sampling": {"temperature": 0}, **options}
    return checked(*ask(server, "POST", "/v1/programs", body, headers))


def run_named(server, name, args=None, **options):
    return run(server, source(name), args, **options)


def value(server, body, args=None, fields="", **options):
    """What `return`s of a main's body give."""
    return run(server, main_of(body, fields), args, **options)["value"]


def batch(server, text, items, **options):
    body = {"source": text, "items": items, "sampling": {"temperature": 0}, **options}
    return checked(*ask(server, "POST", "/v1/programs", body))


def answer_tools(server, data, tools, **options):
    """Goes on with a run until it waits no more."""
    while data["status"] == "requires_action":
        results = [{"id": c["id"], "output": tools[c["name"]](**c["arguments"])} for c in data["required_action"]["tool_calls"]]
        data = checked(*ask(server, "POST", f"/v1/program_runs/{data['id']}/tool_results", {"results": results, **options}))
    return data


def stream(server, path, body):
    """[(id, event, data)] of a stream that is read to its end."""
    status, _, data = post(server.port, path, body)
    assert status == 200, data
    return read_stream(data)


def read_stream(data):
    events = []
    assert data.endswith(b"data: [DONE]\n\n"), data[-100:]
    for block in data.decode("utf-8").split("\n\n")[:-2]:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields:
            assert set(fields) == {"id", "event", "data"}, block
            events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return events


def operations(data, op=None, branch=None):
    return [o for o in data["trace"] if op in (None, o["op"]) and branch in (None, o["branch"])]


def check_trace(data):
    """K3: what was reused and what was computed make the prompt; behind a branch's first operation only what is new is computed."""
    seen = set()
    for o in data["trace"]:
        assert o["prompt"] == o["reused"] + o["prefill"], o
        assert o["carry"] in (0, 1) and o["prefill"] >= 0 and o["reused"] >= 0, o
        if o["branch"] in seen:
            # fewer: a stop's dropped token that is appended again has its keys still, and so has a last token behind which one was guessed
            assert o["appended"] + o["carry"] - 2 <= o["prefill"] <= o["appended"] + o["carry"], o
        elif o["branch"] != "0":  # a fork's pages are its parent's
            assert o["prefill"] <= o["appended"] + 1, o
        seen.add(o["branch"])
    usage = data["usage"]
    assert usage["reprefilled_tokens"] == 0, usage
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"], usage
    assert usage["retokenized_tokens"] <= usage["gens"], usage


def metrics(server):
    """{name with labels: value}"""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(v) for name, v in rows}


def held(server):
    """What runs and requests still hold."""
    m = metrics(server)
    return {k: v for k, v in m.items() if v and k.split("{")[0] in (
        "serverd_kv_pages_locked", "serverd_kv_pages_private", "serverd_program_pinned_pages", "serverd_program_runs_active",
        "serverd_program_branches_active", "serverd_requests_running", "serverd_requests_waiting")}
