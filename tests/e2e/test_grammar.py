"""serverd-grammar as a user starts it, and against the package jsonschema on random schemas."""
import json
import os
import subprocess
import sys

from conftest import BUILD, ROOT, clean_environment

GRAMMAR = BUILD / "src" / "tools" / "grammar" / "serverd-grammar"
SCRIPTS = ROOT / "tests" / "tools" / "grammar"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["a"]}


def run(*arguments, code=0):
    done = subprocess.run([str(GRAMMAR), *map(str, arguments)], capture_output=True, text=True, timeout=300,
                          env=clean_environment())
    assert done.returncode == code, (done.returncode, done.stdout[-2000:], done.stderr)
    return done.stdout + done.stderr


def written(path, content):
    path.write_text(content)
    return path


def test_verdicts_places_and_exit_codes(tmp_path):
    schema = written(tmp_path / "s.json", json.dumps(SCHEMA))
    good = written(tmp_path / "good.json", '{"b": "x", "a": 1.0}\n')
    bad = written(tmp_path / "bad.json", '{"a": true}')
    short = written(tmp_path / "short.json", '{"a": 1')
    assert "accepted" in run("--schema", schema, "--check", good)
    said = run("--schema", schema, "--check", good, bad, short, code=1)
    assert "bad.json: rejected at byte 6" in said
    assert "short.json: rejected, ends too soon" in said
    assert "2 of 3 rejected" in said
    broken = written(tmp_path / "broken.json", '{"properties": {"a": {"not": {"uniqueItems": true}}}}')
    said = run("--schema", broken, "--check", good, code=2)
    assert "unsupported_schema" in said and "#/properties/a/not" in said and "uniqueItems" in said
    run("--schema", schema, "--regex", "a", "--check", good, code=2)
    run("--schemas", schema, code=2)


def test_other_forms(tmp_path):
    text = written(tmp_path / "t", "(1)")
    gbnf = written(tmp_path / "g.gbnf", 'root ::= "(" root ")" | [0-9]')
    assert "accepted" in run("--gbnf", gbnf, "--check", text)
    assert "accepted" in run("--regex", r"\([0-9]\)", "--check", text)
    assert "rejected at byte 1" in run("--choice", written(tmp_path / "c", '["(", "(2)"]'), "--check", text, code=1)


def test_samples_are_valid(tmp_path):
    schema = written(tmp_path / "s.json", json.dumps(SCHEMA))
    lines = run("--schema", schema, "--sample", 20).splitlines()[1:]
    assert len(lines) == 20
    assert lines == run("--schema", schema, "--sample", 20).splitlines()[1:]
    for line in lines:
        value = json.loads(line)
        assert list(value)[0] == "a" and isinstance(value["a"], int) and value.get("b", "x") in ("x", "y")


def test_random_schemas_as_jsonschema_says():
    done = subprocess.run([sys.executable, SCRIPTS / "random_schemas.py", GRAMMAR, "--schemas", "300", "--samples", "2"],
                          capture_output=True, text=True, timeout=900, env=clean_environment())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_folders_of_schemas():
    """Nothing without SERVERD_TEST_SCHEMAS."""
    done = subprocess.run([sys.executable, SCRIPTS / "check_schemas.py", GRAMMAR], capture_output=True, text=True,
                          timeout=900, env=dict(os.environ))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
