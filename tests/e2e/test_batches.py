"""/v1/batches with the openai package: results as of direct requests, whatever happens to the server."""
import json
import resource
import signal
import time

import httpx
import openai
import pytest

from test_files import NULL, client_of, contents, data  # noqa: F401

CHAT = "/v1/chat/completions"


def lines(n, url="/v1/completions", **body):
    return [{"custom_id": f"line {i}", "method": "POST", "url": url,
             "body": {"model": "default", "prompt": [11 + i % 50, 12 + i // 50], "max_tokens": 4, "seed": i, **body}}
            for i in range(n)]


def jsonl(items):
    return "".join(json.dumps(item) + "\n" for item in items).encode()


def submit(client, items, endpoint="/v1/completions", **more):
    body = items if isinstance(items, bytes) else jsonl(items)
    f = client.files.create(file=("in.jsonl", body), purpose="batch")
    return client.batches.create(input_file_id=f.id, endpoint=endpoint, completion_window="24h", **more)


def wait(client, batch, seconds=120, until=("completed", "failed", "expired", "cancelled")):
    end = time.monotonic() + seconds
    while (batch := client.batches.retrieve(batch.id)).status not in until:
        assert time.monotonic() < end, batch
        time.sleep(0.05)
    return batch


def read(client, file_id):
    if file_id is None:
        return []
    return [json.loads(line) for line in client.files.content(file_id).read().decode().splitlines()]


def plain(body):
    """What of a reply is not by chance."""
    return {k: v for k, v in body.items() if k not in ("id", "created", "usage")}


def direct(s, items):
    """Texts as direct requests give them."""
    with httpx.Client(base_url=s.url, timeout=60) as http:
        return {i["custom_id"]: plain(http.post(i["url"], json=i["body"]).json()) for i in items}


def test_a_batch_gives_what_direct_requests_do(start, tiny_model, data):
    s = start(tiny_model("llama"), "--data-path", data)
    client = client_of(s)
    items = lines(40, CHAT, messages=[{"role": "user", "content": "hello"}])
    for i, item in enumerate(items):
        del item["body"]["prompt"]
        item["body"]["messages"][0] = {"role": "user", "content": f"ünd \"{i}\"\n"}
    batch = submit(client, items, CHAT, metadata={"a": "b"})
    assert (batch.object, batch.endpoint, batch.completion_window, batch.metadata) == ("batch", CHAT, "24h", {"a": "b"})
    assert batch.expires_at == batch.created_at + 86400
    batch = wait(client, batch)
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (40, 40, 0)
    assert batch.errors is None and batch.error_file_id is None
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    output = read(client, batch.output_file_id)
    assert [line["custom_id"] for line in output] == [item["custom_id"] for item in items]
    assert len({line["id"] for line in output}) == 40
    usage = [line["response"]["body"]["usage"] for line in output]
    assert batch.usage.total_tokens == sum(u["total_tokens"] for u in usage) > 0
    assert batch.model == "default"
    expected = direct(s, items)
    for line in output:
        assert set(line) == {"id", "custom_id", "response", "error"} and line["error"] is None
        assert set(line["response"]) == {"status_code", "request_id", "body"} and line["response"]["status_code"] == 200
        assert plain(line["response"]["body"]) == expected[line["custom_id"]]
    f = client.files.retrieve(batch.output_file_id)
    assert (f.purpose, f.filename) == ("batch_output", batch.id + "_output.jsonl")
    assert client.batches.list().data[0] == batch
    assert s.stop() == 0


@pytest.mark.parametrize("endpoint, body", [
    ("/v1/responses", {"input": "hello", "max_output_tokens": 3}),
    ("/v1/embeddings", {"input": ["hello", "you"]}),
])
def test_other_endpoints(start, tiny_model, data, endpoint, body):
    s = start(tiny_model("bert" if "embed" in endpoint else "llama"), "--data-path", data)
    client = client_of(s)
    items = [{"custom_id": "1", "method": "POST", "url": endpoint, "body": body}]
    batch = wait(client, submit(client, items, endpoint))
    assert (batch.status, batch.request_counts.completed) == ("completed", 1)
    assert batch.usage.input_tokens > 0
    assert read(client, batch.output_file_id)[0]["response"]["body"]["object"] in ("response", "list")
    assert s.stop() == 0


def test_a_thousand_lines_outlive_two_kills(start, tiny_model, data):
    def run():
        return start(tiny_model("llama"), "--data-path", data, "--batch-running", "4")

    s = run()
    client = client_of(s)
    items = lines(1000)
    items[500]["body"]["prompt"] = 7  # a line that fails
    batch = submit(client, items)
    for share in (0.2, 0.6):
        while client.batches.retrieve(batch.id).request_counts.completed < share * 1000:
            time.sleep(0.02)
        s.process.send_signal(signal.SIGKILL)
        s.process.wait()
        s = run()
        client = client_of(s)
        resumed = client.batches.retrieve(batch.id)
        assert share * 1000 <= resumed.request_counts.completed < 1000, resumed
    batch = wait(client, batch)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 999, 1)
    output, errors = read(client, batch.output_file_id), read(client, batch.error_file_id)
    assert [line["custom_id"] for line in output] == [i["custom_id"] for i in items if i is not items[500]]
    assert [(line["custom_id"], line["response"]["status_code"]) for line in errors] == [("line 500", 400)]
    assert errors[0]["response"]["body"]["error"]["param"] == "prompt"
    expected = direct(s, items)
    assert {line["custom_id"]: plain(line["response"]["body"]) for line in output + errors} == expected
    assert batch.usage.output_tokens == sum(line["response"]["body"]["usage"]["completion_tokens"] for line in output)
    assert contents(data) == sorted([batch.input_file_id, batch.output_file_id, batch.error_file_id])
    assert s.stop() == 0


def test_a_drain_ends_what_runs_and_keeps_the_rest(start, tiny_model, data):
    slow = ("--device", "null:min_token=10;step_us=20000", "--batch-running", "4")
    s = start(tiny_model("llama"), *slow, "--data-path", data)
    client = client_of(s)
    batch = submit(client, lines(60, ignore_eos=True))
    while client.batches.retrieve(batch.id).request_counts.completed < 5:
        time.sleep(0.02)
    begin = time.monotonic()
    assert s.stop() == 0
    assert time.monotonic() - begin < 10
    s = start(tiny_model("llama"), *NULL, "--data-path", data)
    batch = wait(client_of(s), batch)
    assert (batch.status, batch.request_counts.completed) == ("completed", 60)
    assert len(read(client_of(s), batch.output_file_id)) == 60
    assert s.stop() == 0


def test_cancel(start, tiny_model, data):
    slow = ("--device", "null:min_token=10;step_us=20000", "--batch-running", "4")
    s = start(tiny_model("llama"), *slow, "--data-path", data)
    client = client_of(s)
    batch = submit(client, lines(500, ignore_eos=True))
    while client.batches.retrieve(batch.id).request_counts.completed < 5:
        time.sleep(0.02)
    cancelled = client.batches.cancel(batch.id)
    assert cancelled.status == "cancelling" and cancelled.cancelling_at
    batch = wait(client, batch, 10)
    assert batch.status == "cancelled" and batch.cancelled_at >= batch.cancelling_at
    output = read(client, batch.output_file_id)
    assert 5 <= len(output) == batch.request_counts.completed < 500
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(batch.id)
    with pytest.raises(openai.NotFoundError):
        client.batches.cancel("batch_" + "0" * 24)
    assert s.stop() == 0


def test_clients_do_not_wait_for_batches(start, tiny_model, data):
    s = start(tiny_model("llama"), "--device", "null:min_token=10;step_us=5000", "--data-path", data,
              "--batch-running", "64", "--max-running", "4")
    client = client_of(s)
    batch = submit(client, lines(200, ignore_eos=True, max_tokens=100))
    while client.batches.retrieve(batch.id).status != "in_progress":
        time.sleep(0.02)
    time.sleep(0.5)
    for _ in range(5):
        begin = time.monotonic()
        client.completions.create(model="default", prompt=[11], max_tokens=4)
        assert time.monotonic() - begin < 0.5  # a line of the batch takes as long
    assert client.batches.cancel(batch.id).status == "cancelling"
    wait(client, batch, 10)
    assert s.stop() == 0


@pytest.mark.parametrize("text, errors", [
    (b"", [("empty_file", None)]),
    (b"\n \r\n\n", [("empty_file", None)]),
    (b"{", [("invalid_json_line", 1)]),
    (b"\xff\xfe", [("invalid_json_line", 1)]),
    (b"[" * 100000, [("invalid_json_line", 1)]),
    (jsonl(lines(3))[:-5], [("invalid_json_line", 3)]),
    (jsonl(lines(1) + lines(2)), [("duplicate_custom_id", 2)]),
    (jsonl([{**lines(1)[0], "custom_id": 5}]), [("invalid_custom_id", 1)]),
    (jsonl([{**lines(1)[0], "custom_id": ""}]), [("invalid_custom_id", 1)]),
    (jsonl([{**lines(1)[0], "custom_id": "x" * 600}]), [("invalid_custom_id", 1)]),
    (b"\n" + jsonl([{**lines(1)[0], "method": "GET"}]), [("invalid_method", 2)]),
    (jsonl([{**lines(1)[0], "url": CHAT}]), [("invalid_url", 1)]),
    (jsonl([{**lines(1)[0], "body": []}]), [("invalid_body", 1)]),
    (jsonl([{}, {"custom_id": "a"}, {"custom_id": "b", "method": "POST", "url": "/v1/completions"}]),
     [("missing_required_parameter", 1), ("missing_required_parameter", 2), ("missing_required_parameter", 3)]),
    (jsonl(lines(1)) + b"{" + b" " * 3_000_000 + b"}\n" + b"{\n", [("line_too_long", 2), ("invalid_json_line", 3)]),
    (b"{\n" * 500, [("invalid_json_line", i + 1) for i in range(100)]),
], ids=lambda value: "" if isinstance(value, bytes) else value[0][0])
def test_lines_that_are_no_requests(start, tiny_model, data, text, errors):
    s = start(tiny_model("llama"), *NULL, "--data-path", data, "--max-body", "1M")
    client = client_of(s)
    batch = wait(client, submit(client, text))
    assert batch.status == "failed" and batch.failed_at
    assert batch.errors.object == "list"
    assert [(e.code, e.line) for e in batch.errors.data] == errors
    assert all(e.message for e in batch.errors.data)
    assert (batch.request_counts.total, batch.output_file_id, batch.error_file_id) == (0, None, None)
    assert s.stop() == 0


@pytest.mark.parametrize("change", [
    {"input_file_id": None}, {"input_file_id": "file-" + "0" * 24}, {"input_file_id": 5}, {"endpoint": "/v1/files"},
    {"endpoint": None}, {"completion_window": "24"}, {"completion_window": "0h"}, {"completion_window": "99999d"},
    {"completion_window": "24hh"}, {"metadata": []}, {"metadata": {"a": 1}}, {"metadata": {"a": "x" * 513}},
    {"metadata": {str(i): "" for i in range(17)}}, {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
], ids=str)
def test_batches_that_cannot_be(start, tiny_model, data, change):
    s = start(tiny_model("llama"), *NULL, "--data-path", data)
    client = client_of(s)
    f = client.files.create(file=b"x", purpose="batch")
    body = {"input_file_id": f.id, "endpoint": CHAT, "completion_window": "24h", **change}
    reply = httpx.post(s.url + "/v1/batches", json={k: v for k, v in body.items() if v is not None})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == next(iter(change))
    other = client.files.create(file=b"x", purpose="user_data")
    assert httpx.post(s.url + "/v1/batches", json={**body, "input_file_id": other.id}).status_code == 400
    assert client.batches.list().data == []
    assert s.stop() == 0


def test_batches_belong_to_their_key(start, tiny_model, data, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("one\ntwo\nthree scope=infer\nfour scope=batch\n")
    s = start(tiny_model("llama"), *NULL, "--data-path", data, "--api-key-file", keys)
    one, two, four = (client_of(s, key) for key in ("one", "two", "four"))
    batch = wait(one, submit(one, lines(3)))
    assert batch.status == "completed"
    assert two.batches.list().data == []
    for call in (two.batches.retrieve, two.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            call(batch.id)
    with pytest.raises(openai.NotFoundError):
        two.files.content(batch.output_file_id)
    with pytest.raises(openai.BadRequestError):
        two.batches.create(input_file_id=batch.input_file_id, endpoint="/v1/completions", completion_window="24h")
    with pytest.raises(openai.PermissionDeniedError):
        client_of(s, "three").batches.list()
    assert wait(four, submit(four, lines(3))).request_counts.completed == 3
    assert s.stop() == 0


def test_an_input_may_be_deleted_while_it_is_read(start, tiny_model, data):
    slow = ("--device", "null:min_token=10;step_us=20000", "--batch-running", "4")
    s = start(tiny_model("llama"), *slow, "--data-path", data)
    client = client_of(s)
    batch = submit(client, lines(60, ignore_eos=True))
    while client.batches.retrieve(batch.id).status != "in_progress":
        time.sleep(0.02)
    client.files.delete(batch.input_file_id)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(batch.input_file_id)
    s.process.kill()
    s.process.wait()
    s = start(tiny_model("llama"), *NULL, "--data-path", data)
    client = client_of(s)
    batch = wait(client, batch)
    assert (batch.status, batch.request_counts.completed) == ("completed", 60)
    client.files.delete(batch.output_file_id)  # takes what nobody reads any more along
    assert contents(data) == []
    assert s.stop() == 0


def test_a_key_over_its_rate_has_its_lines_later(start, tiny_model, data, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("limited name=l rpm=600 tpm=100000\n")
    s = start(tiny_model("llama"), *NULL, "--data-path", data, "--api-key-file", keys)
    client = client_of(s, "limited")
    batch = wait(client, submit(client, lines(620)))
    assert (batch.status, batch.request_counts.completed) == ("completed", 620)
    metrics = httpx.get(s.url + "/metrics", headers={"Authorization": "Bearer limited"}).text
    assert 'serverd_batch_lines_total{outcome="ok"} 620' in metrics
    assert "serverd_files 2\n" in metrics
    assert 'serverd_batch_lines_total{outcome="again"}' in metrics
    # a key that is no more: its lines are refused, and the batch ends
    slow = submit(client, lines(3))
    keys.write_text("other\n")
    s.process.send_signal(signal.SIGHUP)
    while "1 API keys are in use" not in s.log:
        time.sleep(0.02)
    with pytest.raises(openai.AuthenticationError):
        client.batches.retrieve(slow.id)
    assert s.stop() == 0


def test_a_full_disk_ends_uploads_and_batches_but_not_the_server(start, tiny_model, data):
    s = start(tiny_model("llama"), *NULL, "--data-path", data)
    client = client_of(s)
    items = lines(3000)
    f = client.files.create(file=("in.jsonl", jsonl(items)), purpose="batch")
    _, hard = resource.prlimit(s.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(s.process.pid, resource.RLIMIT_FSIZE, (400_000, hard))
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=b"x" * 500_000, purpose="batch")
    assert (caught.value.status_code, caught.value.code) == (507, "insufficient_storage")
    batch = client.batches.create(input_file_id=f.id, endpoint="/v1/completions", completion_window="24h")
    batch = wait(client, batch)
    assert batch.status == "failed"
    assert [e.code for e in batch.errors.data] == ["insufficient_storage"]
    assert (batch.output_file_id, batch.error_file_id) == (None, None)
    assert direct(s, items[:3])["line 0"]["choices"]
    resource.prlimit(s.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    batch = client.batches.create(input_file_id=f.id, endpoint="/v1/completions", completion_window="24h")
    batch = wait(client, batch)
    assert (batch.status, batch.request_counts.completed) == ("completed", 3000)
    assert s.stop() == 0


def test_a_real_model_answers_a_batch_as_it_does_clients(start, default_model, data):
    s = start(default_model, "--data-path", data, "--ctx-size", "512", "--batch-running", "6", "--max-running", "4")
    client = client_of(s)
    items = [{"custom_id": str(i), "method": "POST", "url": CHAT,
              "body": {"model": "default", "max_tokens": 12, "temperature": 0.8 * (i % 2), "seed": i,
                       "messages": [{"role": "user", "content": f"Name {i + 2} rivers of Europe."}]}} for i in range(12)]
    batch = submit(client, items, CHAT)
    expected = direct(s, items)  # meanwhile, so that lines lose their places and get them back
    batch = wait(client, batch)
    output = read(client, batch.output_file_id)
    assert {line["custom_id"]: plain(line["response"]["body"]) for line in output} == expected
    assert s.stop() == 0


def test_results_that_have_no_room_fail_their_batch(start, tiny_model, data):
    s = start(tiny_model("llama"), *NULL, "--data-path", data, "--data-size", "1M")
    client = client_of(s)
    items = lines(2400)
    first = wait(client, submit(client, items))
    assert first.status == "failed"
    assert [e.code for e in first.errors.data] == ["insufficient_storage"]
    client.files.delete(first.input_file_id)
    second = wait(client, submit(client, items[:400]))
    assert (second.status, second.request_counts.completed) == ("completed", 400)
    assert contents(data) == sorted([second.input_file_id, second.output_file_id])
    assert s.stop() == 0
