"""serverd-run against a server that plays a script: what it asks, what it prints, how it ends."""
import http.server
import json
import os
import pathlib
import signal
import subprocess
import threading
import time

import pytest
from conftest import BUILD, ROOT

RUN = BUILD / "src" / "tools" / "run_program" / "serverd-run"
PROGRAM = ROOT / "tests" / "programs" / "react.lua"
DESCRIPTION = {"name": "react", "version": "2", "doc": "Answers.", "load_error": None, "args_schema": {
    "type": "object", "required": ["question"], "additionalProperties": False,
    "properties": {"question": {"type": "string", "description": "What to ask."}, "max_steps": {"type": "integer", "default": 4}}},
    "tools": [{"name": "lookup", "doc": "Look up a term.", "external": True}, {"name": "sum", "doc": "Add.", "external": False}]}


def run_object(status="completed", **members):
    return {"id": "run_1", "object": "program.run", "status": status, "value": None, "error": None, "usage": {"prompt_tokens": 7}, **members}


def events(*pairs):
    """A stream of (name, data)."""
    text = ": hello\n\n"
    for i, (name, data) in enumerate(pairs):
        text += f"id: {i}\nevent: {name}\ndata: {json.dumps(data)}\n\n"
    return text + "data: [DONE]\n\n"


class Script(http.server.ThreadingHTTPServer):
    """Answers each (method, path) with the next of its replies: (status, object or stream's text). A callable is
    called with the handler instead. `asked` lists (method, path, body, headers)."""
    daemon_threads = True

    def __init__(self, replies):
        self.asked, self.replies = [], {k: list(v) if isinstance(v, list) else [v] for k, v in replies.items()}
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def bodies(self, path):
        return [body for _, p, body, _ in self.asked if p == path]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked.append((self.command, self.path, json.loads(body) if body else None, dict(self.headers)))
        replies = self.server.replies.get((self.command, self.path), [(404, {"error": {"message": "no such route", "code": "not_found"}})])
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if callable(reply):
            reply(self)
            return
        status, content = reply
        is_stream = isinstance(content, str)
        data = (content if is_stream else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/event-stream" if is_stream else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, *_):
        pass


@pytest.fixture
def script():
    running = []

    def make(replies):
        running.append(Script(replies))
        return running[-1]

    yield make
    for s in running:
        s.shutdown()
        s.server_close()


def call(server, *words, text=None, env=None):
    return subprocess.run([RUN, *map(str, words), "--server", server if isinstance(server, str) else server.url], input=text,
                          capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})})


def test_a_value_comes_out_and_arguments_go_in(script):
    s = script({("GET", "/v1/programs/react"): (200, DESCRIPTION), ("POST", "/v1/programs/react/run"): (200, events(
        ("run.created", {"run": "run_1", "branch": "0", "seed": 5}), ("log", {"run": "run_1", "branch": "0", "text": "step \x1b[1m one"}),
        ("run.completed", run_object(value={"b": 1, "a": ["ä"]}))))})
    done = call(s, "react", "--arg", "question=Why 12?", "--arg", "max_steps=2", "--seed", 5, "--model", "m", env={"KEY": "secret"})
    assert (done.returncode, done.stderr) == (0, "| step ?[1m one\n")
    assert done.stdout == '{\n  "b": 1,\n  "a": [\n    "ä"\n  ]\n}\n'
    assert s.bodies("/v1/programs/react/run") == [
        {"args": {"question": "Why 12?", "max_steps": 2}, "stream": True, "stream_vars": [], "seed": 5, "model": "m"}]
    assert "Authorization" not in s.asked[0][3]


def test_a_file_is_sent_as_source_with_the_key(script, tmp_path):
    s = script({("POST", "/v1/programs"): (200, events(("run.completed", run_object(value="Text.\n"))))})
    arguments = tmp_path / "a.json"
    arguments.write_text('{"question": "Why?"}')
    done = call(s, PROGRAM, "--args-json", arguments, "--api-key-env", "KEY", env={"KEY": "secret"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "Text.\n\n", "")
    (method, path, body, headers), = s.asked
    assert body["source"] == PROGRAM.read_text() and body["args"] == {"question": "Why?"} and headers["Authorization"] == "Bearer secret"
    done = call(s, PROGRAM, "--args-json", "-", text='{"question": "How?"}')
    assert done.returncode == 0 and s.asked[-1][2]["args"] == {"question": "How?"}


def test_a_text_that_goes_to_a_file_stays_as_it_is(script):
    text = "one\rtwo\x1b[1m\x7f ä\0end"
    s = script({("POST", "/v1/programs/react/run"): (200, events(("run.completed", run_object(value=text))))})
    done = subprocess.run([RUN, "react", "--server", s.url], capture_output=True, timeout=60)
    assert done.returncode == 0 and done.stdout == text.encode() + b"\n"


def test_external_tools_are_commands(script):
    waits = events(("run.created", {"run": "run_1"}), ("tool.call", {"run": "run_1", "id": "c1", "name": "lookup", "arguments": {}}),
                   ("run.requires_action", run_object("requires_action", required_action={"tool_calls": [
                       {"id": "c1", "name": "lookup", "arguments": {"term": "Danube"}, "branch": "0"},
                       {"id": "c2", "name": "lookup", "arguments": {"term": "fail"}, "branch": "0.1"},
                       {"id": "c3", "name": "other", "arguments": {}, "branch": "0.2"}]})))
    ends = events(("run.completed", run_object(value=3)))
    s = script({("POST", "/v1/programs/react/run"): (200, waits), ("POST", "/v1/program_runs/run_1/tool_results"): (200, ends)})
    tool = "read x; case $x in *fail*) echo not there; exit 1;; *) echo \"$x\";; esac"
    done = call(s, "react", "--tool", "lookup=" + tool)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    assert "no command for the tool other" in done.stderr
    body, = s.bodies("/v1/program_runs/run_1/tool_results")
    assert body == {"stream": True, "results": [{"id": "c1", "output": {"term": "Danube"}}, {"id": "c2", "error": "exit code 1: not there"},
                                                {"id": "c3", "error": "the client does not have this tool"}]}


def test_a_batch_prints_a_line_for_each_item(script, tmp_path):
    lines = tmp_path / "items.jsonl"
    lines.write_text('{"text": "a"}\n{"args": {"text": "b"}, "id": "x"}\n')
    failed = run_object("failed", error={"code": "gen_limit", "message": "classify:3: more than 2 gens", "type": "program_error"})
    s = script({("POST", "/v1/programs/classify/batch"): (200, events(
        ("item.done", {"run": "batch_1", "index": 1, "result": failed}), ("item.done", {"run": "batch_1", "index": 0, "result": {}}),
        ("batch.completed", {"id": "batch_1", "object": "program.batch", "status": "completed",
                             "results": [run_object(value={"label": "neutral"}), failed]})))})
    done = call(s, "classify", "--batch", lines)
    assert (done.returncode, done.stdout) == (1, '{"label":"neutral"}\nnull\n')
    assert "item 1: classify:3: more than 2 gens (gen_limit)\n" in done.stderr and "1 of 2 items failed" in done.stderr
    assert s.asked[0][2]["items"] == [{"args": {"text": "a"}}, {"args": {"text": "b"}, "id": "x"}]


def test_a_stream_is_shown_variable_by_variable(script):
    def delta(branch, name, text):
        return "var.delta", {"run": "run_1", "branch": branch, "name": name, "delta": text}

    stream = events(("run.created", {"run": "run_1", "seed": 1}), delta("0", "why", "One "), delta("0", "why", "two."), delta("0.1", "a", "x"),
                    delta("0", "why", " Three."), ("select.done", {"branch": "0", "name": "answer", "value": " yes", "index": 0}),
                    ("custom", {"name": "progress", "value": {"n": 1}}), ("run.completed", run_object(value="done")))
    s = script({("POST", "/v1/programs/react/run"): (200, stream)})
    done = call(s, "react", "--stream")
    assert done.stdout == "done\n" and s.asked[-1][2].keys() == {"args", "stream"}
    assert done.stderr == "[0 why] One two.\n[0.1 a] x\n[0 why]  Three.\n[0 answer] = yes\nprogress: {\"n\":1}\n"
    done = call(s, "react", "--stream", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["event"] for r in rows] == ["run.created"] + ["var.delta"] * 4 + ["select.done", "custom", "run.completed"]
    assert rows[-1]["data"] == run_object(value="done") and done.stderr == ""


def test_the_trace_is_a_table(script):
    operation = {"op": "gen", "branch": "0", "line": 7, "name": "answer1", "prompt": 30, "reused": 20, "prefill": 10, "appended": 9, "carry": 1,
                 "completion": 5, "batch_peers": 0, "ms": 12.34}
    s = script({("POST", "/v1/programs/react/run"): (200, events(("run.completed", run_object(value=1, trace=[operation]))))})
    done = call(s, "react", "--trace")
    assert done.stdout == "1\n" and s.asked[0][2]["include"] == ["trace"]
    title, row, usage = done.stderr.splitlines()
    assert title.split() == ["op", "branch", "line", "name", "prompt", "reused", "prefill", "appended", "carry", "out", "peers", "ms"]
    assert row.split() == ["gen", "0", "7", "answer1", "30", "20", "10", "9", "1", "5", "0", "12.3"] and usage.split() == ["prompt_tokens", "7"]


def test_programs_are_checked_and_described(script):
    s = script({("GET", "/v1/programs/react"): (200, DESCRIPTION), ("POST", "/v1/programs"): [
        (200, {**DESCRIPTION, "name": None}), (400, {"error": {"message": "inline:3: unexpected symbol near '}'", "code": "syntax_error"}})]})
    done = call(s, "react", "--describe")
    assert done.stdout == ("react 2: Answers.\n  --arg question=string, required: What to ask.\n  --arg max_steps=integer, default 4\n"
                           "  tool lookup, run by the client: Look up a term.\n  tool sum: Add.\n")
    assert json.loads(call(s, "react", "--describe", "--json").stdout) == DESCRIPTION
    done = call(s, PROGRAM, "--check")
    assert done.stdout == f"{PROGRAM}: ok\n" and s.asked[-1][2] == {"source": PROGRAM.read_text(), "run": False}
    done = call(s, PROGRAM, "--check")
    assert (done.returncode, done.stdout) == (1, "") and "inline:3: unexpected symbol" in done.stderr
    s.replies["GET", "/v1/programs/react"] = [(200, {**DESCRIPTION, "load_error": "react:1: bad"})]
    done = call(s, "react", "--check")
    assert done.returncode == 1 and "react:1: bad" in done.stderr


FAILED = run_object("failed", error={"message": "react:14: attempt to index a nil value", "type": "program_error", "code": "runtime_error", "line": 14,
                                     "traceback": [{"func": "step", "program": "react", "line": 14}, {"func": "main", "program": "react", "line": 20}]})
INVALID = {"error": {"message": "args.k: must be an integer", "type": "invalid_request_error", "code": "invalid_arguments", "param": "args.k"}}


@pytest.mark.parametrize("reply,code,text", [
    ((200, events(("run.failed", FAILED))), 1, "in step, react:14\n    in main, react:20\n"),
    ((422, {"error": FAILED["error"]}), 1, "react:14: attempt to index a nil value"),
    ((200, events(("run.cancelled", run_object("cancelled")))), 1, "the run cancelled"),
    ((400, INVALID), 2, "args.k: must be an integer"),
    ((401, {"error": {"message": "no key", "code": "invalid_api_key"}}), 2, "no key"),
    ((404, {"error": {"message": "no program react", "code": "program_not_found"}}), 2, "no program react"),
    ((429, {"error": {"message": "too many runs"}}), 3, "too many runs"),
    ((503, {"error": {"message": "draining"}}), 3, "draining"),
    ((502, {}), 3, "HTTP 502"),
    ((200, "data: {\"x\":1}\n\n"), 3, "ended without [DONE]"),
    ((200, "data: {\n\n"), 3, "no JSON"),
    ((200, "data: [DONE]\n\n"), 3, "holds no run"),
    ((200, {"strange": 1}), 3, "holds no run"),
    ((200, events(("run.requires_action", run_object("requires_action")))), 3, "names no call"),
])
def test_each_end_has_its_code(script, reply, code, text):
    done = call(script({("POST", "/v1/programs/react/run"): reply}), "react")
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert text in done.stderr


def test_wrong_command_lines_are_2_and_no_server_is_3(script, tmp_path):
    s = script({("GET", "/v1/programs/react"): (200, DESCRIPTION)})
    for words, text in [((), "Usage"), (("Foo",), "neither"), (("x.lua",), "x.lua"), (("react", "--nix"), "unknown option"),
                        (("react", "--arg", "questoin=x"), "did you mean question?"), (("react", "--arg", "max_steps=x"), "not JSON"),
                        (("react", "--tool", "lookup"), "NAME=COMMAND"), (("react", "--seed", "-1"), "--seed"),
                        (("react", "--batch", tmp_path / "none"), "none"), (("react", "--batch", PROGRAM, "--arg", "question=1"), "beside"),
                        (("react", "--args-json", PROGRAM), "react.lua, line 1")]:
        done = subprocess.run([RUN, *map(str, words), *(["--server", s.url] if words else [])], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and text in done.stderr, (words, done.stderr)
    assert [path for _, path, _, _ in s.asked] == ["/v1/programs/react"] * 2
    assert call("http://127.0.0.1:1", "react").returncode == 3
    assert call("ftp://x", "react").returncode == 2


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("waits_for_tool", [False, True])
def test_an_interrupted_run_is_cancelled(script, tmp_path, sig, waits_for_tool):
    started, left = tmp_path / "started", threading.Event()

    def hang(handler):
        data = events(("run.created", {"run": "run_1", "branch": "0", "seed": 1})).replace("data: [DONE]\n\n", "").encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(data)
        handler.wfile.flush()
        started.touch()
        left.wait(30)

    waits = events(("run.requires_action", run_object("requires_action", required_action={"tool_calls": [
        {"id": "c1", "name": "lookup", "arguments": {}}]})))
    s = script({("POST", "/v1/programs/react/run"): (200, waits) if waits_for_tool else hang,
                ("DELETE", "/v1/program_runs/run_1"): (200, run_object("cancelled"))})
    process = subprocess.Popen([RUN, "react", "--server", s.url, "--tool", f"lookup=touch {started}; exec sleep 100"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 30
    while not pathlib.Path(started).exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(sig)
    out, log = process.communicate(timeout=30)
    left.set()
    assert (process.returncode, out) == (130, "") and "interrupted" in log
    assert [(m, p) for m, p, _, _ in s.asked][1:] == [("DELETE", "/v1/program_runs/run_1")]
