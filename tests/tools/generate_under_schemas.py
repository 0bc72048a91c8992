#!/usr/bin/env python3
"""Lets a served model write JSON under schemas of a file, and checks every text that ended by itself: with
serverd-grammar, and with the package jsonschema, which knows nothing of it.

    generate_under_schemas.py URL SCHEMAS.json GRAMMAR_TOOL [--schemas 20] [--each 10] [--seed 4] [--max-tokens 1500]
                              [--frequency-penalty 0.3]

A small model repeats itself without end where a schema lets it (an array of any length, a string of any length): a
higher --frequency-penalty makes its texts end.

SCHEMAS.json: a list, or an object, of schemas or of objects with a member "schema". Prints how many texts were
valid, invalid, cut by max_tokens; exit 1 if any is invalid.
"""
import argparse
import collections
import concurrent.futures
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import jsonschema

PROMPT = "Write a short example document. Keep it brief."


def schemas_of(path, dice):
    data = json.loads(pathlib.Path(path).read_text())
    items = list(data.values()) if isinstance(data, dict) else data
    made = [i["schema"] if isinstance(i, dict) and "schema" in i else i for i in items]
    dice.shuffle(made)
    return made


def ask(a, schema, i):
    """The choice, or the error's text. The first is greedy, the others are drawn."""
    body = {"messages": [{"role": "user", "content": PROMPT}], "temperature": 0.8 if i else 0, "seed": i, "max_tokens": a.max_tokens,
            "frequency_penalty": a.frequency_penalty, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    request = urllib.request.Request(a.url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=900) as reply:
            return json.load(reply)["choices"][0], None
    except urllib.error.HTTPError as e:
        return None, e.read().decode()


def why_invalid(text, schema, tool, folder):
    """None: it is valid."""
    try:
        value = json.loads(text)
    except ValueError as e:
        return f"no JSON: {e}"
    (folder / "schema.json").write_text(json.dumps(schema))
    (folder / "text.json").write_text(text)
    done = subprocess.run([tool, "--schema", folder / "schema.json", "--check", folder / "text.json"], capture_output=True, text=True)
    if done.returncode:
        return "serverd-grammar: " + (done.stdout + done.stderr)[-300:]
    try:
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        error = next(kind(schema).iter_errors(value), None)
        return f"jsonschema: {error.message[:300]} at {list(error.path)}" if error else None
    except Exception as e:  # references that it would fetch, patterns that Python's re does not know
        return None if type(e).__name__ in ("_WrappedReferencingError", "Unresolvable", "error", "PatternError") else f"jsonschema: {e!r}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("file")
    parser.add_argument("tool")
    for name, default in (("--schemas", 20), ("--each", 10), ("--seed", 4), ("--max-tokens", 1500)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--frequency-penalty", type=float, default=0.3)
    a = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp())
    counts, n_schemas = collections.Counter(), 0
    for schema in schemas_of(a.file, random.Random(a.seed)):
        if n_schemas == a.schemas:
            break
        first, error = ask(a, schema, 0)
        if error:
            counts["refused schemas"] += 1
            print("refused:", error[:200])
            continue
        n_schemas += 1
        with concurrent.futures.ThreadPoolExecutor(max(1, a.each - 1)) as pool:
            others = list(pool.map(lambda i: ask(a, schema, i), range(1, a.each)))
        for choice, error in [(first, None), *others]:
            text = choice["message"]["content"] if choice else ""
            wrong = error or (why_invalid(text, schema, a.tool, folder) if choice["finish_reason"] == "stop" else None)
            counts["invalid" if wrong else "cut" if choice["finish_reason"] != "stop" else "valid"] += 1
            if choice and choice["finish_reason"] != "stop":
                print("cut:", json.dumps(schema)[:500], "\n  ", text[:300], "...", text[-300:])
            if wrong:
                print("invalid:", wrong, "\n  ", json.dumps(schema)[:500], "\n  ", text[:500])
        print(f"{n_schemas} schemas: {dict(counts)}", flush=True)
    sys.exit(counts["invalid"] > 0)


if __name__ == "__main__":
    main()
