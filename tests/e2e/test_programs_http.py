"""The routes of generation programs: every one of them, its errors, who may use it, and what happens to runs that are streamed,
left, cancelled, answered, queued and reloaded. Small random models do: texts say nothing here."""
import concurrent.futures
import http.client
import json
import os
import socket
import threading
import time

import pytest
from programs import ask, held, main_of, metrics, read_stream, stream
from wire import post

GEN = "return s:add('Once upon a time'):gen{name = 'x', max_tokens = 8, ignore_eos = true}"
# takes a second or so, however fast the model is
MANY = "for i = 1, 300 do local b = s:copy() b:add('Go ', i, ':'):gen{max_tokens = 16, ignore_eos = true} b:release() end return 'through'"
LONG = "return s:add('Once'):gen{name = 'x', max_tokens = 400, ignore_eos = true}"
ASKS = main_of("local out = {} for i, v in ipairs(parallel({1, 2}, function(x) return call_tool('f', {x = x}) end)) do out[i] = v end return out",
               'tools = {f = {params = {x = "int"}}}')
ONE_TOOL = main_of("local ok, v = pcall(call_tool, 'f', {x = a.x}) print(ok and 'good' or v.code) return ok and v or {code = v.code, message = v.message}",
                   'args = {x = {type = "int", default = 1}}, tools = {f = {doc = "Does.", params = {x = "int"}}}')


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    from conftest import Server
    s = Server(model, "--ctx-size", 512, "--programs-dir", tmp_path_factory.mktemp("programs"), "--programs-max-source-kb", 4)
    yield s
    assert s.stop() == 0, s.log[-3000:]


def put(server, name, text, headers=None):
    return ask(server, "PUT", f"/v1/programs/{name}", {"source": text}, headers)


def inline(server, text, headers=None, **options):
    return ask(server, "POST", "/v1/programs", {"source": text, **options}, headers)


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.01)
    raise AssertionError("not in time")


def status_of(server, run):
    return ask(server, "GET", f"/v1/program_runs/{run}")[1]["status"]


def error(reply, status, code):
    got, data = reply
    assert got == status and data["error"]["code"] == code, reply
    return data["error"]


# ---- named programs ----

def test_a_program_is_uploaded_listed_described_run_and_removed(server):
    text = main_of(GEN, 'version = "2", doc = "Tells.", args = {n = {type = "int", default = 3, max = 5}}, returns = "string", limits = {max_gens = 7}')
    status, data = put(server, "tell", text)
    assert status == 200 and data["name"] == "tell" and data["origin"] == "upload" and data["load_error"] is None, data
    entry = next(p for p in ask(server, "GET", "/v1/programs")[1]["data"] if p["name"] == "tell")
    assert set(entry) == {"name", "version", "doc", "sha256", "origin", "load_error"} and entry["version"] == "2" and len(entry["sha256"]) == 64
    status, data = ask(server, "GET", "/v1/programs/tell")
    assert status == 200 and data["args_schema"]["properties"]["n"]["maximum"] == 5 and data["args_schema"]["additionalProperties"] is False
    assert data["returns_schema"]["type"] == "string" and data["tools"] == [] and data["limits"]["max_gens"] == 7 and "template_mode" in data
    status, run = ask(server, "POST", "/v1/programs/tell/run", {"args": {"n": 2}, "seed": 5, "include": ["text", "trace"]})
    assert status == 200 and run["object"] == "program.run" and run["status"] == "completed" and run["program"] == "tell" and run["seed"] == 5, run
    assert isinstance(run["value"], str) and run["variables"]["x"] == run["value"] and run["text"].startswith("Once upon") and len(run["trace"]) == 1
    assert run["usage"]["completion_tokens"] == 8 and run["usage"]["gens"] == 1 and run["model"] and run["created"] > 1700000000
    assert ask(server, "GET", f"/v1/program_runs/{run['id']}") == (200, run)
    assert put(server, "tell", main_of("return 1"))[0] == 200
    assert ask(server, "POST", "/v1/programs/tell/run", {})[1]["value"] == 1
    assert ask(server, "DELETE", "/v1/programs/tell")[0] == 200
    error(ask(server, "DELETE", "/v1/programs/tell"), 404, "program_not_found")
    error(ask(server, "GET", "/v1/programs/tell"), 404, "program_not_found")
    error(ask(server, "POST", "/v1/programs/tell/run", {}), 404, "program_not_found")


def test_a_broken_upload_says_where_and_changes_nothing(server):
    assert put(server, "good", main_of("return 1"))[0] == 200
    e = error(put(server, "good", "return program{\n main = = 1}"), 400, "syntax_error")
    assert e["line"] == 2 and e["program"] == "good" and e["type"] == "program_error"
    error(put(server, "good", "return program{main = function() end, mian = 1}"), 400, "bad_program")
    error(put(server, "good", "return 1"), 400, "bad_program")
    error(put(server, "good", "x" * 5000), 413, "request_too_large")
    error(put(server, "Bad%20name", main_of("return 1")), 400, "invalid_value")
    error(ask(server, "PUT", "/v1/programs/good", {}), 400, "missing_required_parameter")
    assert ask(server, "POST", "/v1/programs/good/run", {})[1]["value"] == 1


def test_a_text_is_checked_without_a_run(server):
    status, data = inline(server, main_of("return 1", 'doc = "D", args = {a = "string"}'), run=False)
    assert status == 200 and data["doc"] == "D" and data["args_schema"]["required"] == ["a"], data
    error(inline(server, "return program{", run=False), 400, "syntax_error")


# ---- bodies ----

@pytest.mark.parametrize("options, status, code, param", [
    ({"args": {"n": "x"}}, 400, "invalid_arguments", "args.n"), ({"args": {}}, 400, "invalid_arguments", "args.n"),
    ({"args": {"n": 1, "m": 2}}, 400, "invalid_arguments", "args.m"), ({"args": []}, 400, "invalid_type", "args"),
    ({"args": {"n": 1}, "stream": 1}, 400, "invalid_type", "stream"), ({"args": {"n": 1}, "seed": -1}, 400, "invalid_value", "seed"),
    ({"args": {"n": 1}, "seed": "x"}, 400, "invalid_type", "seed"), ({"args": {"n": 1}, "limits": {"x": 1}}, 400, "invalid_value", "limits"),
    ({"args": {"n": 1}, "include": ["all"]}, 400, "invalid_value", "include"), ({"args": {"n": 1}, "sampling": 1}, 400, "invalid_type", "sampling"),
    ({"args": {"n": 1}, "stream_vars": [1]}, 400, "invalid_type", "stream_vars"), ({"args": {"n": 1}, "cache_salt": 1}, 400, "invalid_type", "cache_salt"),
    ({"args": {"n": 1}, "priority": "high"}, 400, "invalid_type", "priority"), ({"args": {"n": 1}, "model": "none"}, 404, "model_not_found", "model"),
    ({"args": {"n": 1}, "background": "yes"}, 400, "invalid_type", "background"),
])
def test_bad_bodies_are_refused(server, options, status, code, param):
    text = main_of("return a.n", 'args = {n = "int"}')
    assert error(inline(server, text, **options), status, code)["param"] == param
    put(server, "number", text)
    assert error(ask(server, "POST", "/v1/programs/number/run", options), status, code)["param"] == param
    if code == "invalid_arguments":  # a stream that has not begun is refused as well
        assert error(inline(server, text, **options, stream=True), status, code)["param"] == param


def test_other_paths_and_methods_are_refused(server):
    error(ask(server, "POST", "/v1/programs/number/walk", {}), 404, "not_found")
    error(ask(server, "POST", "/v1/programs/number", {}), 404, "not_found")
    error(ask(server, "PUT", "/v1/programs", {}), 405, "method_not_allowed")
    error(ask(server, "GET", "/v1/program_runs/prun_none"), 404, "run_not_found")
    error(ask(server, "DELETE", "/v1/program_runs/prun_none"), 404, "run_not_found")
    error(ask(server, "GET", "/v1/program_runs/prun_none/events"), 404, "run_not_found")
    error(ask(server, "POST", "/v1/program_runs/prun_none/tool_results", {"results": []}), 404, "run_not_found")
    assert post(server.port, "/v1/programs", "no object")[0] == 400


def test_a_failure_tells_where_it_happened(server):
    put(server, "fails", "local function deep(x)\n  return x.y.z\nend\nreturn program{main = function(s)\n  local v = deep({})\n  return v\nend}")
    e = error(ask(server, "POST", "/v1/programs/fails/run", {}), 422, "runtime_error")
    assert e["type"] == "program_error" and e["line"] == 2 and e["program"] == "fails" and e["message"].startswith("fails:2:"), e
    assert [f["line"] for f in e["traceback"]][:2] == [2, 5] and e["run"].startswith("prun_"), e
    status, run = ask(server, "GET", f"/v1/program_runs/{e['run']}")
    assert status == 200 and run["status"] == "failed" and run["error"]["code"] == "runtime_error" and run["value"] is None
    events = stream(server, "/v1/programs/fails/run", {"stream": True})
    assert events[-1][1] == "run.failed" and events[-1][2]["error"]["line"] == 2


# ---- streams ----

def test_a_stream_has_numbers_names_and_the_run(server):
    events = stream(server, "/v1/programs", {"source": main_of("emit('note', {1}) print('hello') " + GEN), "stream": True, "seed": 9})
    assert [i for i, _, _ in events] == list(range(len(events)))
    names = [name for _, name, _ in events]
    assert names[0] == "run.created" and names[-1] == "run.completed" and {"custom", "log", "var.start", "var.done"} <= set(names), names
    assert len({data["run"] for _, _, data in events}) == 1
    assert next(d for _, n, d in events if n == "custom")["value"] == [1] and next(d for _, n, d in events if n == "log")["text"] == "hello"
    last = events[-1][2]
    assert "".join(d["delta"] for _, n, d in events if n == "var.delta") == last["value"] and last["object"] == "program.run" and last["log"].strip() == "hello"


def test_only_the_wanted_variables_are_streamed(server):
    text = main_of("s:add('One'):gen{name = 'a', max_tokens = 4, ignore_eos = true} s:gen{name = 'b', max_tokens = 4, ignore_eos = true}")
    for wanted, names in ((["b"], {"b"}), (True, {"a", "b"}), (False, set()), ([], set())):
        events = stream(server, "/v1/programs", {"source": text, "stream": True, "stream_vars": wanted})
        assert {d["name"] for _, n, d in events if n == "var.delta"} <= names
        assert {d["name"] for _, n, d in events if n == "var.done"} == {"a", "b"}


def events_of(server, run, start=0, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", f"/v1/program_runs/{run}/events?from={start}", headers=headers or {})
    reply = connection.getresponse()
    data = reply.read()
    connection.close()
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/event-stream"), data
    return read_stream(data)


@pytest.mark.concurrent
def test_a_run_in_the_background_is_attached_to_from_anywhere(server):
    status, run = inline(server, main_of(LONG), background=True)
    assert status == 202 and run["status"] in ("queued", "running") and run["value"] is None, run
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        streams = list(pool.map(lambda start: events_of(server, run["id"], start), (0, 0, 3, 7)))
    whole = streams[0]
    assert [i for i, _, _ in whole] == list(range(len(whole))) and whole[-1][1] == "run.completed"
    assert streams[1] == whole and streams[2] == whole[3:] and streams[3] == whole[7:]
    assert events_of(server, run["id"], len(whole) - 1) == whole[-1:]
    assert events_of(server, run["id"], len(whole) + 5) == []
    assert status_of(server, run["id"]) == "completed"


def test_a_stream_that_breaks_goes_on_elsewhere(server):
    body = json.dumps({"source": main_of(LONG), "stream": True, "background": True})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/v1/programs", body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    seen = b""
    while seen.count(b"\n\n") < 5:
        seen += reply.read1(256)
    connection.close()
    seen = seen[:seen.rindex(b"\n\n") + 2]
    first = read_stream(seen + b"data: [DONE]\n\n")
    rest = events_of(server, first[0][2]["run"], first[-1][0] + 1)
    numbers = [i for i, _, _ in first + rest]
    assert numbers == list(range(len(numbers))) and rest[-1][1] == "run.completed"


# ---- the end ----

def test_runs_are_cancelled_again_and_again(server):
    status, run = inline(server, main_of(MANY), background=True)
    until(lambda: status_of(server, run["id"]) == "running")
    status, data = ask(server, "DELETE", f"/v1/program_runs/{run['id']}")
    assert status == 200 and data["status"] == "cancelled" and data["error"]["code"] == "cancelled", data
    assert ask(server, "DELETE", f"/v1/program_runs/{run['id']}") == (200, data)
    assert ask(server, "GET", f"/v1/program_runs/{run['id']}") == (200, data)
    until(lambda: held(server) == {})


def test_whoever_waits_for_a_run_that_is_cancelled_hears_of_it(server):
    run = inline(server, main_of("call_tool('f', {}) " + MANY, "tools = {f = {}}"))[1]
    call = run["required_action"]["tool_calls"][0]["id"]
    done = []
    waiter = threading.Thread(target=lambda: done.append(results(server, run["id"], [{"id": call, "output": 1}])))
    waiter.start()
    until(lambda: status_of(server, run["id"]) == "running")
    assert ask(server, "DELETE", f"/v1/program_runs/{run['id']}")[1]["status"] == "cancelled"
    waiter.join(60)
    e = error(done[0], 422, "cancelled")
    assert e["run"] == run["id"]


@pytest.mark.concurrent
@pytest.mark.parametrize("streams", [False, True])
def test_a_client_that_leaves_takes_its_run_along(server, streams):
    body = json.dumps({"source": main_of(MANY), "stream": streams}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.sendall(b"POST /v1/programs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        until(lambda: metrics(server)["serverd_program_runs_active"] > 0)
        time.sleep(0.05)
    until(lambda: held(server) == {}, 3)


def test_ended_runs_can_be_looked_at_for_a_while(start, model):
    s = start(model, "--ctx-size", 512, "--programs-finished-ttl-s", 1)
    run = inline(s, main_of("return 1"))[1]
    assert ask(s, "GET", f"/v1/program_runs/{run['id']}")[0] == 200
    until(lambda: ask(s, "GET", f"/v1/program_runs/{run['id']}")[0] == 404, 5)
    assert s.stop() == 0


def test_too_many_runs_wait_and_still_more_are_refused(start, model):
    s = start(model, "--ctx-size", 512, "--programs-max-runs", 1, "--programs-max-queue", 1, "--programs-deadline-s", 60)
    first = inline(s, ONE_TOOL, background=True)[1]
    until(lambda: status_of(s, first["id"]) == "requires_action")
    second = inline(s, main_of("return 2"), background=True)[1]
    assert second["status"] == "queued" and status_of(s, second["id"]) == "queued"
    connection = http.client.HTTPConnection("127.0.0.1", s.port)
    connection.request("POST", "/v1/programs", json.dumps({"source": main_of("return 3")}), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    assert reply.status == 429 and reply.headers["retry-after"], reply.read()
    ask(s, "DELETE", f"/v1/program_runs/{first['id']}")
    until(lambda: status_of(s, second["id"]) == "completed")
    assert s.stop() == 0


def test_a_drain_lets_runs_end(start, model):
    s = start(model, "--ctx-size", 512, "--drain-timeout", 20)
    done = []
    waiter = threading.Thread(target=lambda: done.append(inline(s, main_of(MANY))))
    waiter.start()
    until(lambda: metrics(s)["serverd_program_runs_active"] > 0)
    assert s.stop() == 0
    waiter.join(30)
    assert done[0][0] == 200 and done[0][1]["value"] == "through", done


def test_a_run_that_waits_for_nobody_does_not_keep_the_server(start, model):
    s = start(model, "--ctx-size", 512, "--drain-timeout", 1)
    run = inline(s, ONE_TOOL, background=True)[1]
    until(lambda: status_of(s, run["id"]) == "requires_action")
    begin = time.monotonic()
    assert s.stop() == 0 and time.monotonic() - begin < 10


# ---- tools ----

def results(server, run, answers, **options):
    return ask(server, "POST", f"/v1/program_runs/{run}/tool_results", {"results": answers, **options})


def test_tools_are_answered_by_parts(server):
    status, run = inline(server, ASKS)
    assert status == 200 and run["status"] == "requires_action", run
    calls = run["required_action"]["tool_calls"]
    assert [(c["name"], c["arguments"]) for c in calls] == [("f", {"x": 1}), ("f", {"x": 2})] and len({c["id"] for c in calls}) == 2
    error(results(server, run["id"], [{"id": "call_none", "output": 1}]), 409, "tool_call_not_pending")
    status, data = results(server, run["id"], [{"id": calls[1]["id"], "output": {"b": [1.5, None]}}])
    assert status == 200 and [c["id"] for c in data["required_action"]["tool_calls"]] == [calls[0]["id"]]
    error(results(server, run["id"], [{"id": calls[1]["id"], "output": 1}]), 409, "tool_call_not_pending")
    status, data = results(server, run["id"], [{"id": calls[0]["id"], "output": "one"}])
    assert status == 200 and data["status"] == "completed" and data["value"] == ["one", {"b": [1.5, None]}], data
    error(results(server, run["id"], [{"id": calls[0]["id"], "output": 1}]), 409, "tool_call_not_pending")


def test_a_tool_may_fail_and_be_answered_without_a_wait(server):
    run = inline(server, ONE_TOOL)[1]
    call = run["required_action"]["tool_calls"][0]
    status, data = results(server, run["id"], [{"id": call["id"], "error": "no such thing"}], wait=False)
    assert status == 202 and data["id"] == run["id"]
    until(lambda: status_of(server, run["id"]) == "completed")
    value = ask(server, "GET", f"/v1/program_runs/{run['id']}")[1]["value"]
    assert value["code"] == "tool_error" and "no such thing" in value["message"]


@pytest.mark.parametrize("answers, code", [(None, "invalid_type"), ([1], "invalid_type"), ([{"id": "a"}], "invalid_value"),
                                           ([{"id": "a", "output": 1, "error": "x"}], "invalid_value"), ([{"id": "a", "error": 1}], "invalid_type")])
def test_bad_results_are_refused(server, answers, code):
    run = inline(server, ONE_TOOL)[1]
    error(results(server, run["id"], answers), 400, code)
    assert ask(server, "DELETE", f"/v1/program_runs/{run['id']}")[1]["status"] == "cancelled"


def test_a_tool_that_nobody_answers_times_out(server):
    run = inline(server, ONE_TOOL, limits={"tool_wait_s": 1})[1]
    assert run["status"] == "requires_action"
    until(lambda: status_of(server, run["id"]) == "completed")
    data = ask(server, "GET", f"/v1/program_runs/{run['id']}")[1]
    assert data["value"]["code"] == "tool_timeout" and "tool_timeout" in data["log"]


def test_a_stream_goes_on_behind_its_tools(server):
    events = stream(server, "/v1/programs", {"source": ASKS, "stream": True})
    run, action = events[-1][2]["run"], events[-1][2]["required_action"]
    assert events[-1][1] == "run.requires_action" and [n for _, n, _ in events].count("tool.call") == 2
    asked = [d for _, n, d in events if n == "tool.call"]
    assert [c["id"] for c in asked] == [c["id"] for c in action["tool_calls"]] and asked[0]["arguments"] == {"x": 1}
    rest = stream(server, f"/v1/program_runs/{run}/tool_results", {"results": [{"id": c["id"], "output": i} for i, c in enumerate(asked)], "stream": True})
    assert rest[0][0] == events[-1][0] + 1 and rest[-1][1] == "run.completed" and rest[-1][2]["value"] == [0, 1]
    assert [i for i, _, _ in events + rest] == list(range(len(events + rest)))
    assert events_of(server, run) == events + rest  # nothing is lost or doubled


@pytest.mark.concurrent
def test_early_results_are_taken_while_others_compute(server):
    text = main_of("return s:fork(2, function(b, i) if i == 1 then return call_tool('f', {x = 1}) end return b:add('Go'):gen{max_tokens = 300, ignore_eos = true} end):join()",
                   'tools = {f = {params = {x = "int"}}}')
    run = inline(server, text, background=True)[1]
    call = until(lambda: next((d for _, n, d in read_some(server, run["id"]) if n == "tool.call"), None))
    status, data = results(server, run["id"], [{"id": call["id"], "output": "early"}])
    assert status == 200 and data["status"] == "completed" and data["value"][0] == "early", data


def read_some(server, run):
    """What a run has said until now."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", f"/v1/program_runs/{run}/events")
    reply = connection.getresponse()
    data = b""
    while b"tool.call" not in data and b"[DONE]" not in data:
        data += reply.read1(4096)
    connection.close()
    data = data[:data.rindex(b"\n\n") + 2]
    return read_stream(data if data.endswith(b"data: [DONE]\n\n") else data + b"data: [DONE]\n\n")


# ---- batches ----

def test_a_batch_gives_results_in_order_as_single_runs_do(server):
    text = main_of("return {n = a.n, t = s:add('Number ', a.n, ':'):gen{max_tokens = 4, ignore_eos = true, temperature = 1}}", 'args = {n = "int"}')
    put(server, "many", text)
    items = [{"args": {"n": i}, "id": f"item-{i}"} for i in range(20)]
    status, data = ask(server, "POST", "/v1/programs/many/batch", {"items": items, "seed": 4, "max_parallel": 6})
    assert status == 200 and data["object"] == "program.batch" and data["status"] == "completed", data
    assert [(r["index"], r["id"], r["value"]["n"]) for r in data["results"]] == [(i, f"item-{i}", i) for i in range(20)]
    assert data["usage"]["completion_tokens"] == 80 and data["usage"]["gens"] == 20
    for r in data["results"][::7]:
        single = ask(server, "POST", "/v1/programs/many/run", {"args": {"n": r["index"]}, "seed": r["seed"]})[1]
        assert single.get("value") == r["value"], single
    assert ask(server, "GET", f"/v1/program_runs/{data['id']}") == (200, data)


def test_a_batch_keeps_or_stops_at_failures(server):
    text = main_of("if a.n == 1 then error('one') end return a.n", 'args = {n = "int"}')
    items = [{"args": {"n": i}} for i in range(4)]
    status, data = inline(server, text, items=items)
    assert status == 200 and [r["status"] for r in data["results"]] == ["completed", "failed", "completed", "completed"]
    assert data["results"][1]["error"]["code"] == "runtime_error" and data["results"][3]["value"] == 3
    status, data = inline(server, text, items=items, on_error="stop", max_parallel=1)
    assert status == 200 and [r["status"] for r in data["results"]] == ["completed", "failed", "cancelled", "cancelled"]


def test_bad_batches_are_refused(server):
    text = main_of("return a.n", 'args = {n = "int"}')
    assert error(inline(server, text, items=[{"args": {"n": 1}}, {"args": {"n": "x"}}]), 400, "invalid_arguments")["param"] == "items[1].args.n"
    assert error(inline(server, text, items=[]), 400, "invalid_type")["param"] == "items"
    assert error(inline(server, text, items=[1]), 400, "invalid_type")["param"] == "items[0]"
    assert error(inline(server, text, items=[{"args": {"n": 1}}], on_error="x"), 400, "invalid_value")["param"] == "on_error"
    assert error(inline(server, text, items=[{"args": {"n": 1}}], max_parallel=0), 400, "invalid_value")["param"] == "max_parallel"


@pytest.mark.concurrent
def test_a_batch_is_streamed_and_asks_for_tools_of_all_items(server):
    body = {"source": ONE_TOOL, "items": [{"args": {"x": 1}}, {"args": {"x": 2}}], "stream": True}
    events = stream(server, "/v1/programs", body)
    batch = events[0][2]["run"]
    assert events[0][1] == "run.created" and batch.startswith("pbatch_") and events[-1][1] == "run.requires_action"
    calls = events[-1][2]["required_action"]["tool_calls"]
    assert sorted(c["arguments"]["x"] for c in calls) == [1, 2] and len({c["run"] for c in calls}) == 2 and len({c["id"] for c in calls}) == 2
    rest = stream(server, f"/v1/program_runs/{batch}/tool_results",
                  {"results": [{"id": c["id"], "output": c["arguments"]["x"] * 10} for c in calls], "stream": True})
    assert rest[-1][1] == "batch.completed" and [r["value"] for r in rest[-1][2]["results"]] == [10, 20]
    assert sorted(d["index"] for _, n, d in rest if n == "item.done") == [0, 1]
    assert [i for i, _, _ in events + rest] == list(range(len(events + rest)))


@pytest.mark.concurrent
def test_a_batch_is_cancelled_whole(server):
    text = main_of(MANY, 'args = {n = {type = "int", default = 1}}')
    batch = inline(server, text, items=[{}] * 30, max_parallel=2, background=True)[1]
    until(lambda: status_of(server, batch["id"]) == "running")
    status, data = ask(server, "DELETE", f"/v1/program_runs/{batch['id']}")
    assert status == 200 and data["status"] == "cancelled" and len(data["results"]) == 30
    assert sum(r["status"] == "cancelled" for r in data["results"]) >= 25
    until(lambda: held(server) == {})


# ---- the folder ----

def test_files_are_read_again_within_a_second(start, model, tmp_path):
    s = start(model, "--ctx-size", 512, "--programs-dir", tmp_path)
    assert ask(s, "GET", "/v1/programs")[1]["data"] == []

    def write(name, text):
        path = tmp_path / (name + ".tmp")
        path.write_text(text)
        os.replace(path, tmp_path / (name + ".lua"))

    def value():
        status, data = ask(s, "POST", "/v1/programs/it/run", {})
        return data["value"] if status == 200 else None

    write("it", main_of("return 1"))
    until(lambda: value() == 1, 1.5)
    waiting = main_of("call_tool('f', {}) return 'old'", "tools = {f = {}}")
    write("it", waiting)
    until(lambda: ask(s, "GET", "/v1/programs/it")[1]["tools"], 1.5)
    old = [ask(s, "POST", "/v1/programs/it/run", {})[1] for _ in range(50)]
    assert all(run["status"] == "requires_action" for run in old)
    write("it", main_of("return 2"))
    until(lambda: value() == 2, 1.5)
    write("it", "return program{\n\n  main = function( end}")
    entry = until(lambda: (e := ask(s, "GET", "/v1/programs/it")[1]) and e["load_error"] and e, 1.5)
    assert entry["load_error"]["code"] == "syntax_error" and entry["load_error"]["line"] == 3 and value() == 2, entry
    for run in old:  # they keep what they began with
        call = run["required_action"]["tool_calls"][0]
        assert ask(s, "POST", f"/v1/program_runs/{run['id']}/tool_results", {"results": [{"id": call["id"], "output": None}]})[1]["value"] == "old"
    write("it", main_of("return 3"))
    until(lambda: value() == 3, 1.5)
    assert ask(s, "GET", "/v1/programs/it")[1]["load_error"] is None
    os.symlink(tmp_path / "it.lua", tmp_path / "link.lua")
    (tmp_path / "Bad Name.lua").write_text(main_of("return 1"))
    os.mkfifo(tmp_path / "pipe.lua")
    (tmp_path / "big.lua").write_text("-" * 300000)
    time.sleep(0.8)
    listed = {p["name"]: p for p in ask(s, "GET", "/v1/programs")[1]["data"]}
    assert set(listed) == {"it", "big"} and listed["big"]["load_error"] and listed["it"]["origin"] == "file"
    error(ask(s, "POST", "/v1/programs/big/run", {}), 404, "program_not_found")
    # an upload goes before a file, whose name comes back
    assert put(s, "it", main_of("return 'uploaded'"))[0] == 200 and value() == "uploaded"
    assert ask(s, "DELETE", "/v1/programs/it")[0] == 200 and value() == 3
    error(ask(s, "DELETE", "/v1/programs/it"), 400, "invalid_value")
    os.remove(tmp_path / "it.lua")
    until(lambda: ask(s, "GET", "/v1/programs/it")[0] == 404, 1.5)
    counts = metrics(s)
    assert counts['serverd_program_reload_total{result="ok"}'] >= 4 and counts['serverd_program_reload_total{result="error"}'] >= 2
    assert s.stop() == 0, s.log


# ---- keys ----

KEYS = """runner-key scope=programs name=runner
writer-key scope=programs,programs:write name=writer
infer-key scope=infer name=infer
plain-key name=plain
admin-key admin name=admin
"""


def bearer(key):
    return {"Authorization": f"Bearer {key}-key"}


@pytest.fixture
def keyed(start, model, tmp_path):
    def run(*options):
        path = tmp_path / "keys"
        path.write_text(KEYS)
        return start(model, "--ctx-size", 512, "--api-key-file", path, "--programs-dir", tmp_path, *options)

    return run


def test_keys_have_scopes_for_programs(keyed):
    s = keyed()
    text = main_of("return 1")
    assert ask(s, "GET", "/v1/programs")[0] == 401
    error(ask(s, "GET", "/v1/programs", None, bearer("infer")), 403, "insufficient_scope")
    for key in ("runner", "plain", "infer"):
        error(put(s, "one", text, bearer(key)), 403, "insufficient_scope")
    assert put(s, "one", text, bearer("writer"))[0] == 200 and put(s, "one", text, bearer("admin"))[0] == 200
    for key in ("runner", "writer", "plain", "admin"):
        assert ask(s, "POST", "/v1/programs/one/run", {}, bearer(key))[1]["value"] == 1
    error(ask(s, "POST", "/v1/programs/one/run", {}, bearer("infer")), 403, "insufficient_scope")
    for key in ("runner", "writer", "plain"):
        error(inline(s, text, bearer(key)), 403, "insufficient_scope")
    assert inline(s, text, bearer("admin"))[1]["value"] == 1
    error(ask(s, "DELETE", "/v1/programs/one", None, bearer("runner")), 403, "insufficient_scope")
    assert ask(s, "DELETE", "/v1/programs/one", None, bearer("writer"))[0] == 200


def test_a_run_is_its_key_s_alone(keyed):
    s = keyed("--programs-inline", "all")
    run = inline(s, ONE_TOOL, bearer("runner"))[1]
    path = f"/v1/program_runs/{run['id']}"
    call = run["required_action"]["tool_calls"][0]["id"]
    for key in ("writer", "admin"):
        error(ask(s, "GET", path, None, bearer(key)), 404, "run_not_found")
        error(ask(s, "DELETE", path, None, bearer(key)), 404, "run_not_found")
        error(ask(s, "GET", path + "/events", None, bearer(key)), 404, "run_not_found")
        error(ask(s, "POST", path + "/tool_results", {"results": [{"id": call, "output": 1}]}, bearer(key)), 404, "run_not_found")
    assert ask(s, "POST", path + "/tool_results", {"results": [{"id": call, "output": 1}]}, bearer("runner"))[1]["value"] == 1


def test_programs_in_requests_can_be_off(start, model, tmp_path):
    s = start(model, "--ctx-size", 512, "--programs-inline", "off", "--programs-dir", "off")
    error(inline(s, main_of("return 1")), 403, "insufficient_scope")
    assert put(s, "one", main_of("return 1"))[0] == 200
    assert ask(s, "POST", "/v1/programs/one/run", {})[1]["value"] == 1


# ---- many ----

@pytest.mark.concurrent
def test_many_clients_do_all_at_once(server):
    """Runs, batches, streams, tools and cancels together; every reply is whole, and nothing is left."""
    put(server, "job", main_of(GEN))
    put(server, "asks", ONE_TOOL)

    def one(i):
        if i % 5 == 0:
            status, run = ask(server, "POST", "/v1/programs/asks/run", {"args": {"x": i}})
            assert status == 200, run
            call = run["required_action"]["tool_calls"][0]
            assert results(server, run["id"], [{"id": call["id"], "output": i}])[1]["value"] == i
        elif i % 5 == 1:
            events = stream(server, "/v1/programs/job/run", {"stream": True})
            assert events[-1][1] == "run.completed" and [n for n, _, _ in events] == list(range(len(events))), events[-1]
        elif i % 5 == 2:
            run = ask(server, "POST", "/v1/programs/job/run", {"background": True})[1]
            assert ask(server, "DELETE", f"/v1/program_runs/{run['id']}")[1]["status"] in ("cancelled", "completed")
        elif i % 5 == 3:
            data = ask(server, "POST", "/v1/programs/job/batch", {"items": [{}] * 4})[1]
            assert [r["status"] for r in data["results"]] == ["completed"] * 4
        else:
            assert ask(server, "POST", "/v1/programs/job/run", {"seed": 1})[1]["status"] == "completed"

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(120)))
    until(lambda: held(server) == {})
    counts = metrics(server)
    assert counts['serverd_program_runs_total{program="job",status="completed"}'] > 90 and counts["serverd_program_run_seconds_count"] > 90
    assert counts["serverd_program_gap_seconds_count"] >= 0 and counts['serverd_program_ops_total{op="gen"}'] > 90
