"""Starts the real binary and hands out its address.

SERVERD_BUILD          build folder (default: build in the repository's root)
SERVERD_DEFAULT_MODEL  the default model (default: where serverd.sh keeps it)
SERVERD_TEST_MODELS    a folder with further models; tests that need one skip without it
SERVERD_TEST_OPTIONS   options that every server has, before the test's own: another device, say
SERVERD_TEST_STREAMS   how many streams test_batching.py has at once (default: 16)
"""
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import threading
import time
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
BUILD = pathlib.Path(os.environ.get("SERVERD_BUILD", ROOT / "build"))
BINARY = BUILD / "src" / "tools" / "serverd"
MAKE_MODEL = BUILD / "tests" / "support" / "make_model"
PAGE_TOKENS = next(int(o["value"]) for o in json.loads((BUILD / "meson-info" / "intro-buildoptions.json").read_text())
                   if o["name"] == "page_tokens")
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
TEST_OPTIONS = shlex.split(os.environ.get("SERVERD_TEST_OPTIONS", ""))
DEFAULT_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def clean_environment(extra=None):
    env = {k: v for k, v in os.environ.items() if not k.startswith("SERVERD_")}
    env["SERVERD_PROGRAM_CACHE"] = str(BUILD / "program-cache")
    env["SERVERD_DATA_PATH"] = "off"
    env.update(extra or {})
    return env


class Server:
    """A running serverd; model None: options name what it serves. `log` is all that it has printed so far."""

    def __init__(self, model, *options, wait_ready=True, env=None):
        named = ["--model-path", str(model)] if model else []
        self.command = [str(BINARY), *named, "--port", "0", *TEST_OPTIONS, *map(str, options)]
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, env=clean_environment(env))
        self.lines = []
        self.port = None
        self.has_port = threading.Event()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if not self.has_port.wait(60):
            self.process.kill()
            raise AssertionError("no address in the output:\n" + self.log)
        if self.port is None:
            raise AssertionError("ended at start:\n" + self.log)
        self.url = f"http://127.0.0.1:{self.port}"
        if wait_ready:
            self.wait_ready()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            match = re.search(r"https?://127\.0\.0\.1:(\d+)", line)
            if match and self.port is None:
                self.port = int(match.group(1))
                self.has_port.set()
        self.has_port.set()

    @property
    def log(self):
        return "".join(self.lines)

    def status(self, path):
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as reply:
                return reply.status
        except urllib.error.HTTPError as e:
            return e.code

    def wait_ready(self, seconds=120):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError("ended while loading:\n" + self.log)
            try:
                if self.status("/ready") == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError("not ready in time:\n" + self.log)

    def stop(self, seconds=40):
        """SIGTERM, then the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("did not stop:\n" + self.log)
        self.reader.join(5)
        return code


def find_model(name):
    folder = os.environ.get("SERVERD_TEST_MODELS")
    path = pathlib.Path(folder, name) if folder else None
    return path if path and path.exists() else None


@pytest.fixture(scope="session")
def default_model():
    candidates = [os.environ.get("SERVERD_DEFAULT_MODEL"), find_model(DEFAULT_NAME),
                  CACHE / "serverd" / "models" / DEFAULT_NAME]
    for path in candidates:
        if path and pathlib.Path(path).exists():
            return pathlib.Path(path)
    pytest.fail(f"the default model is not there: {CACHE}/serverd/models/{DEFAULT_NAME}")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Makes a small random model of an architecture; the same file for the same arguments."""
    made = {}

    def make(arch, dtype="F32"):
        if (arch, dtype) not in made:
            path = tmp_path_factory.mktemp("models") / f"{arch}-{dtype}.gguf"
            subprocess.run([str(MAKE_MODEL), arch, str(path), dtype], check=True)
            made[arch, dtype] = path
        return made[arch, dtype]

    return make


@pytest.fixture(scope="session")
def server(default_model):
    """The default model, as a user starts it."""
    s = Server(default_model)
    yield s
    assert s.stop() == 0, s.log


@pytest.fixture
def start(request):
    """Starts further servers that end with the test."""
    running = []

    def run(model, *options, **kw):
        running.append(Server(model, *options, **kw))
        return running[-1]

    yield run
    for s in running:
        if s.process.poll() is None:
            s.process.kill()
            s.process.wait()
