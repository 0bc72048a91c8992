"""Real client packages against a running serverd with a real model, which is started as in tests/e2e."""
import importlib.util
import pathlib

import pytest

spec = importlib.util.spec_from_file_location("serverd_fixtures",
                                              pathlib.Path(__file__).resolve().parents[1] / "e2e" / "conftest.py")
fixtures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fixtures)
default_model = fixtures.default_model


@pytest.fixture(scope="session")
def server(default_model):
    s = fixtures.Server(default_model, "--ctx-size", 4096)
    yield s
    assert s.stop() == 0


@pytest.fixture(scope="session")
def base_url(server):
    return server.url + "/v1"
