"""/v1/files with the openai package and with bare requests."""
import io
import os
import shutil
import socket
import time

import httpx
import openai
import pytest

from test_operation import make_certificate

NULL = ("--device", "null:min_token=10")


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def client_of(s, key="none"):
    return openai.OpenAI(base_url=s.url + "/v1", api_key=key, max_retries=0)


def contents(data):
    return sorted(p.name for p in (data / "files").iterdir())


def upload(s, body, boundary="bb", key=None, **more):
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return httpx.post(s.url + "/v1/files", content=body, headers=headers, timeout=30, **more)


def form(file=b"hello", name="a.jsonl", purpose="batch", more=()):
    parts = [f'Content-Disposition: form-data; name="{k}"\r\n\r\n{v}'.encode()
             for k, v in [("purpose", purpose), *more] if v is not None]
    if file is not None:
        parts.append(f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
                     "Content-Type: application/octet-stream\r\n\r\n".encode() + file)
    return b"".join(b"--bb\r\n" + p + b"\r\n" for p in parts) + b"--bb--\r\n"


def test_the_openai_package_keeps_and_finds_files(start, tiny_model, data):
    s = start(tiny_model("llama"), *NULL, "--data-path", data)
    client = client_of(s)
    contents_of = [b"", b"x", os.urandom(3_000_000), b'{"a":"\r\n--b\r\n"}\n' * 1000]
    made = [client.files.create(file=(f"file {i}.jsonl", io.BytesIO(body)), purpose="batch" if i % 2 else "user_data")
            for i, body in enumerate(contents_of)]
    for i, (f, body) in enumerate(zip(made, contents_of)):
        assert (f.object, f.bytes, f.filename, f.status) == ("file", len(body), f"file {i}.jsonl", "processed")
        assert (f.expires_at is None) == (i % 2 == 0)
        assert client.files.retrieve(f.id) == f
        assert client.files.content(f.id).read() == body
    assert [f.id for f in client.files.list()] == [f.id for f in reversed(made)]
    assert [f.id for f in client.files.list(order="asc", limit=3)] == [f.id for f in made]  # follows pages
    page = client.files.list(order="asc", limit=3)
    assert page.has_more and [f.id for f in page.data] == [f.id for f in made[:3]]
    assert [f.id for f in client.files.list(purpose="batch")] == [made[3].id, made[1].id]
    assert [f.id for f in client.files.list(after=made[2].id)] == [made[1].id, made[0].id]
    expiring = client.files.create(file=("e", b"e"), purpose="vision", expires_after={"anchor": "created_at", "seconds": 3600})
    assert expiring.expires_at == expiring.created_at + 3600

    deleted = client.files.delete(made[2].id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made[2].id, True, "file")
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(made[2].id)
    assert made[2].id not in contents(data)

    # what was kept outlives the process, however it ends; what was not whole does not
    (data / "files" / ("file-" + "0" * 24)).write_text("left by a crash")
    (data / "files" / "not-ours").write_text("of the user")
    s.process.kill()
    s.process.wait()
    s = start(tiny_model("llama"), *NULL, "--data-path", data)
    client = client_of(s)
    for i in (0, 1, 3):
        assert client.files.content(made[i].id).read() == contents_of[i]
    assert contents(data) == sorted([made[0].id, made[1].id, made[3].id, expiring.id, "not-ours"])
    assert s.stop() == 0


def test_files_belong_to_their_key(start, tiny_model, data, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("one\ntwo\nthree scope=infer\n")
    s = start(tiny_model("llama"), *NULL, "--data-path", data, "--api-key-file", keys)
    f = client_of(s, "one").files.create(file=b"secret", purpose="batch")
    two = client_of(s, "two")
    assert list(two.files.list()) == []
    assert list(two.files.list(after=f.id)) == []
    for call in (two.files.retrieve, two.files.content, two.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(f.id)
    assert client_of(s, "one").files.content(f.id).read() == b"secret"
    with pytest.raises(openai.PermissionDeniedError):
        client_of(s, "three").files.list()
    assert s.stop() == 0


@pytest.mark.parametrize("body, status, param", [
    (form(), 200, None),
    (form(file=None), 400, "file"),
    (form(purpose=None), 400, "purpose"),
    (form(purpose="batch_output"), 400, "purpose"),
    (form(purpose="x" * 1000), 400, "purpose"),
    (form(name=""), 400, "file"),
    (form(name="n" * 300), 400, "file"),
    (form(more=[("expires_after[anchor]", "last_active_at"), ("expires_after[seconds]", "3600")]), 400, "expires_after[anchor]"),
    (form(more=[("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "12")]), 400, "expires_after[seconds]"),
    (form(more=[("expires_after[seconds]", "3600")]), 400, "expires_after[anchor]"),
    (form(more=[("purpose", "vision")]), 400, "purpose"),
    (form(more=[("unknown", "x" * 5000)]), 200, None),
    (form(file=b"x" * 70_000), 413, "file"),
    (form()[:-30], 400, None),
    (b"", 400, "file"),
    (b"no form at all", 400, "file"),
    (b"--bb\r\n\r\nno name\r\n--bb--\r\n", 400, None),
], ids=lambda value: "" if isinstance(value, bytes) else str(value))
def test_forms(start, tiny_model, data, body, status, param):
    s = start(tiny_model("llama"), *NULL, "--data-path", data, "--max-file", "65536")
    reply = upload(s, body)
    assert reply.status_code == status, reply.text
    if status != 200:
        assert reply.json()["error"]["param"] == param
        assert contents(data) == []
    assert s.stop() == 0


def test_uploads_are_bounded(start, tiny_model, data):
    s = start(tiny_model("llama"), *NULL, "--data-path", data, "--data-size", "2M", "--max-file", "1500000")
    # chunked, so that the size is known late; and far too much, refused by the head
    assert upload(s, (form(b"x" * 1_600_000)[i:i + 4096] for i in range(0, 1_600_200, 4096))).status_code == 413
    first = upload(s, form(b"x" * 1_400_000)).json()
    reply = upload(s, form(b"x" * 1_400_000))
    assert reply.status_code == 507
    assert reply.json()["error"]["code"] == "insufficient_storage"
    assert contents(data) == [first["id"]]
    assert httpx.delete(s.url + "/v1/files/" + first["id"]).status_code == 200
    assert upload(s, form(b"x" * 1_400_000)).status_code == 200
    with socket.create_connection(("127.0.0.1", s.port)) as sock:
        sock.sendall(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n"
                     b"Content-Type: multipart/form-data; boundary=bb\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 413")
    assert httpx.post(s.url + "/v1/files", json={}).status_code == 415
    assert s.stop() == 0


def test_an_upload_that_breaks_off_leaves_nothing(start, tiny_model, data):
    s = start(tiny_model("llama"), *NULL, "--data-path", data)
    body = form(b"x" * 100_000)
    for n in (0, 10, 200, 50_000, 100_100):
        with socket.create_connection(("127.0.0.1", s.port)) as sock:
            sock.sendall(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=bb\r\n"
                         b"Content-Length: %d\r\n\r\n" % len(body) + body[:n])
            time.sleep(0.05)
    end = time.monotonic() + 10
    while contents(data) and time.monotonic() < end:
        time.sleep(0.05)
    assert contents(data) == []
    assert httpx.get(s.url + "/v1/files").json()["data"] == []
    assert s.stop() == 0


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "order=up", "after=%2e%2e", "purpose=" + "p" * 40])
def test_lists_refuse_what_they_do_not_know(start, tiny_model, data, query):
    s = start(tiny_model("llama"), *NULL, "--data-path", data)
    assert httpx.get(s.url + "/v1/files?" + query).status_code == 400
    for path in ("x", "file-1/contents", "..%2findex.sqlite", "file-" + "0" * 24, "a" * 100):
        assert httpx.get(s.url + "/v1/files/" + path).status_code == 404
    assert s.stop() == 0


def test_a_folder_has_one_server(start, tiny_model, data):
    s = start(tiny_model("llama"), *NULL, "--data-path", data)
    with pytest.raises(AssertionError, match="another serverd has this folder"):
        start(tiny_model("llama"), *NULL, "--data-path", data)
    # by default the server goes on without files
    env = {"SERVERD_DATA_PATH": "", "XDG_STATE_HOME": str(data.parent / "state")}
    (data.parent / "state" / "serverd").mkdir(parents=True)
    (data.parent / "state" / "serverd" / "data").symlink_to(data)
    other = start(tiny_model("llama"), *NULL, env=env)
    reply = httpx.get(other.url + "/v1/files")
    assert (reply.status_code, reply.json()["error"]["code"]) == (501, "feature_disabled")
    assert upload(other, form()).status_code == 501
    assert "no files and batches: " in other.log
    assert other.stop() == 0
    assert s.stop() == 0


def test_files_lie_in_the_users_state_folder(start, tiny_model, tmp_path):
    s = start(tiny_model("llama"), *NULL, env={"SERVERD_DATA_PATH": "", "XDG_STATE_HOME": str(tmp_path)})
    made = upload(s, form()).json()
    assert contents(tmp_path / "serverd" / "data") == [made["id"]]
    assert (tmp_path / "serverd" / "data").stat().st_mode & 0o77 == 0
    assert s.stop() == 0


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_files_over_tls(start, tiny_model, data, tmp_path):
    cert, key = make_certificate(tmp_path, "a")
    s = start(tiny_model("llama"), *NULL, "--data-path", data, "--tls-cert", cert, "--tls-key", key, wait_ready=False)
    body = os.urandom(2_000_000)
    with httpx.Client(base_url=f"https://127.0.0.1:{s.port}", verify=False, timeout=30) as http:
        made = http.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a", body)}).json()
        assert http.get(f"/v1/files/{made['id']}/content").content == body
    assert s.stop() == 0
