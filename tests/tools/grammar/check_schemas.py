#!/usr/bin/env python3
"""Verdicts of serverd-grammar over collections of schemas with valid and invalid instances.

    SERVERD_TEST_SCHEMAS=FOLDER check_schemas.py serverd-grammar [--model FILE] [--verbose]

The folder has files of two forms: {file: [group]} as the JSON-Schema-Test-Suite, or a list of schemas
with tests. Prints, for each file, the share of schemas that compile and the wrong verdicts; with --model
also mask times along the valid instances. Exits 1 if a verdict is wrong."""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile


def groups_of(data):
    if isinstance(data, list):
        return [(g.get("name", "?"), g["schema"], g["tests"]) for g in data]
    return [(f"{file}: {g['description']}", g["schema"], g["tests"]) for file, groups in data.items() for g in groups]


def run(tool, lines, *options):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(line + "\n" for line in lines))
        file.flush()
        done = subprocess.run([tool, "--batch", file.name, *options], capture_output=True, timeout=1800)
    if done.returncode:
        sys.exit(f"serverd-grammar: exit code {done.returncode}: {done.stderr[-2000:].decode(errors='replace')}")
    return done.stdout.decode(errors="replace").split("\n")


def check(tool, name, groups, verbose):
    lines = []
    for _, schema, tests in groups:
        lines.append("schema " + json.dumps(schema))
        lines += ["instance " + json.dumps(t["data"], ensure_ascii=False) for t in tests]
    answers = iter(run(tool, lines))
    compiled = wrong = n_tests = 0
    times = []
    for title, _, tests in groups:
        first = next(answers)
        if first.startswith("ok"):
            compiled += 1
            times.append(int(first.split()[1]))
        elif verbose:
            print(f"  {title}: {first}")
        for test in tests:
            answer = next(answers)
            if not first.startswith("ok"):
                continue
            n_tests += 1
            if (answer == "accepted") != test["valid"]:
                wrong += 1
                print(f"  WRONG {title}: {answer}, valid is {test['valid']}: {json.dumps(test['data'])[:300]}")
    times.sort()
    print(f"{name}: {compiled} of {len(groups)} compile ({100 * compiled / len(groups):.1f} %), {n_tests} verdicts, "
          f"{wrong} wrong; compile time p50 {times[len(times) // 2]} us, p99 {times[len(times) * 99 // 100]} us")
    return wrong


def masks(tool, name, groups, model):
    lines = []
    for _, schema, tests in groups:
        lines.append("schema " + json.dumps(schema))
        lines += ["instance " + json.dumps(t["data"], ensure_ascii=False) for t in tests if t["valid"]]
    answers = run(tool, lines, "--model", model)
    failed = [a for a in answers if a.startswith("failed")]
    print(f"{name}: {'; '.join(a for a in answers[-3:] if a)}; {len(failed)} masks that disagree with single tokens")
    return len(failed)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tool")
    parser.add_argument("--model")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    folder = os.environ.get("SERVERD_TEST_SCHEMAS")
    if not folder:
        print("SERVERD_TEST_SCHEMAS names no folder: nothing to do")
        return 0
    bad = 0
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        groups = groups_of(json.loads(path.read_text()))
        bad += check(args.tool, path.name, groups, args.verbose)
        if args.model:
            bad += masks(args.tool, path.name, groups, args.model)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
