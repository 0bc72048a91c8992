"""What HTTP clients must not be able to do: smuggle, forge, flood. Raw bytes on sockets."""
import json
import random
import socket
import time

import pytest


@pytest.fixture(scope="module")
def small(tiny_model):
    from conftest import Server
    s = Server(tiny_model("llama"), "--device", "null:min_token=10", "--ctx-size", "256")
    yield s
    assert s.stop() == 0, s.log


def talk(server, data, seconds=5, half_close=False):
    """Everything that comes back on one connection. A client that closes its sending half is taken
    for gone: what it asked to be generated is cancelled."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as sock:
        got = b""
        try:
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server has closed already; what it said is still to be read
        try:
            while block := sock.recv(65536):
                got += block
        except OSError:
            pass
        return got


def statuses(reply):
    """Status codes of the replies on a connection; bodies are skipped by their length."""
    codes = []
    while reply.startswith(b"HTTP/1.1 "):
        head, _, rest = reply.partition(b"\r\n\r\n")
        codes.append(int(head[9:12]))
        length = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        reply = rest[length[0]:] if length else b""
    return codes


BODY = b'{"prompt": "x", "max_tokens": 1}'
SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"


def post(headers=b"", body=BODY, path=b"/v1/completions", length=True, host=b"Host: x\r\n"):
    if length:
        headers += b"Content-Length: %d\r\n" % len(body)
    return b"POST " + path + b" HTTP/1.1\r\n" + host + b"Content-Type: application/json\r\n" + headers + b"\r\n" + body


REFUSED = {
    "two lengths": (post(b"Content-Length: 5\r\n"), {400}),
    "two equal lengths": (post(b"Content-Length: %d\r\n" % len(BODY)), {400}),
    "length and chunked": (post(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"), {400}),
    "unknown transfer coding": (post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n", length=False), {400, 501}),
    "odd transfer coding": (post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n", length=False), {400, 501}),
    "space before the colon": (post(b"Content-Length : %d\r\n" % len(BODY), length=False), {400}),
    "folded header": (post(b"X-A: b\r\n c\r\n"), {400}),
    "empty header name": (post(b": y\r\n"), {400}),
    "NUL in a value": (post(b"X-A: b\0c\r\n"), {400}),
    "bare LF": (post(b"X-A: b\n"), {400}),
    "no host": (post(host=b""), {400}),
    "two hosts": (post(b"Host: y\r\n"), {400}),
    "negative length": (post(b"Content-Length: -1\r\n", b"", length=False), {400}),
    "absurd length": (post(b"Content-Length: 99999999999999999999\r\n", b"", length=False), {400, 413}),
    "length over the limit": (post(b"Content-Length: 999999999\r\n", b"", length=False), {413}),
    "no length": (post(length=False, body=b""), {400, 411}),
    "odd expectation": (post(b"Expect: 200-maybe\r\n"), {417}),
    "compressed body": (post(b"Content-Encoding: gzip\r\n"), {415}),
    "two keys": (post(b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"), {400}),
    "form body": (post().replace(b"application/json", b"application/x-www-form-urlencoded"), {415}),
    "too many headers": (post(b"".join(b"X-%d: y\r\n" % i for i in range(100))), {431}),
    "large head": (post(b"X-A: " + b"a" * 20000 + b"\r\n"), {431}),
    "long target": (b"GET /" + b"a" * 4000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", {414, 431}),
    "escaped NUL": (b"GET /health%00 HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "bad escape": (b"GET /health%zz HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "dots": (b"GET /v1/../health HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404}),
    "escaped dots": (b"GET /v1/%2e%2e/health HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404}),
    "body on GET": (b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", {400}),
    "unknown method": (b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n", {400, 405, 501}),
    "wrong method": (b"DELETE /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", {405}),
    "old version": (b"GET /health HTTP/3.0\r\nHost: x\r\n\r\n", {400, 505}),
    "unknown path": (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", {404}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(small, name):
    data, allowed = REFUSED[name]
    codes = statuses(talk(small, data, half_close=True))
    assert codes and codes[0] in allowed, (name, codes)


@pytest.mark.parametrize("name", [n for n, (_, codes) in REFUSED.items() if codes & {400, 411, 417, 431, 501} and not codes & {404, 405}])
def test_nothing_rides_behind_a_refused_request(small, name):
    codes = statuses(talk(small, REFUSED[name][0] + SMUGGLED, half_close=True))
    assert 200 not in codes, (name, codes)


@pytest.mark.concurrent
def test_pipelined_requests_are_answered_in_order(small):
    data = SMUGGLED + post() + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert statuses(talk(small, data)) == [200, 200, 200]


def test_a_head_byte_by_byte_is_understood(small):
    with socket.create_connection(("127.0.0.1", small.port), timeout=10) as sock:
        for byte in post(b"Connection: close\r\n"):
            sock.sendall(bytes([byte]))
        got = b""
        while block := sock.recv(65536):
            got += block
    assert statuses(got) == [200]


def test_a_chunked_body_is_read_and_the_connection_ends(small):
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    data = post(b"Transfer-Encoding: chunked\r\n", chunks, length=False)
    assert statuses(talk(small, data + SMUGGLED, half_close=False)) == [200]


def test_head_is_get_without_a_body(small):
    reply = talk(small, b"HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 200") and reply.endswith(b"\r\n\r\n")


def test_errors_are_envelopes(small):
    for data in (b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", post(b"Host: y\r\n"),
                 post(body=b"{")):
        reply = talk(small, data)
        error = json.loads(reply.partition(b"\r\n\r\n")[2])["error"]
        assert set(error) >= {"message", "type", "param", "code"} and error["message"]


@pytest.mark.timing
def test_a_head_that_never_ends_is_dropped(small):
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", small.port), timeout=30) as sock:
        try:
            for _ in range(60):
                sock.sendall(b"G")
                time.sleep(0.5)
                sock.setblocking(False)
                try:
                    if sock.recv(100) == b"":
                        break
                except BlockingIOError:
                    pass
                finally:
                    sock.setblocking(True)
        except ConnectionError:
            pass
    assert time.monotonic() - begin < 20


def mutations(seed):
    rng = random.Random(seed)
    data = bytearray(post(b"X-A: b\r\nConnection: close\r\n"))
    for _ in range(rng.randrange(1, 8)):
        what = rng.randrange(4)
        at = rng.randrange(len(data))
        if what == 0:
            data[at] = rng.randrange(256)
        elif what == 1:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 20)))
        elif what == 2:
            del data[at:at + rng.randrange(1, 30)]
        else:
            data[at:at] = rng.choice([b"\r\n", b"\n", b"\0", b": ", b"Content-Length: 3\r\n", b"{" * 100, b'"', b"1e999"])
    return bytes(data)


def test_malformed_requests_by_the_hundred_harm_nobody(small):
    for seed in range(300):
        codes = statuses(talk(small, mutations(seed), half_close=True))
        assert not [c for c in codes if c >= 500 and c not in (501, 505)], (seed, codes)
    assert small.status("/health") == 200
    assert statuses(talk(small, post(b"Connection: close\r\n"))) == [200]


@pytest.mark.concurrent
def test_many_idle_connections_do_not_stop_the_others(small):
    idle = [socket.create_connection(("127.0.0.1", small.port)) for _ in range(300)]
    try:
        assert statuses(talk(small, post(b"Connection: close\r\n"))) == [200]
    finally:
        for sock in idle:
            sock.close()


@pytest.mark.concurrent
def test_a_slow_reader_delays_nobody(start, tiny_model):
    s = start(tiny_model("llama"), "--device", "null:min_token=10", "--ctx-size", "4096")
    body = json.dumps({"prompt": "abc", "max_tokens": 4000, "stream": True, "ignore_eos": True, "n": 4}).encode()
    with socket.create_connection(("127.0.0.1", s.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(post(body=body))
        slow.recv(100)
        time.sleep(1)
        begin = time.monotonic()
        assert statuses(talk(s, post(b"Connection: close\r\n"))) == [200]
        assert time.monotonic() - begin < 3
