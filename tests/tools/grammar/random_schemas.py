#!/usr/bin/env python3
"""Random schemas and random instances: serverd-grammar against the PyPI package jsonschema, and
random productions, which have to be valid.

    random_schemas.py serverd-grammar [--seed N] [--schemas N]

Needs `jsonschema` (tests/requirements.txt). Prints every disagreement with its seed; exits 1 if
there is one."""
import argparse
import decimal
import json
import random
import subprocess
import sys
import tempfile

import jsonschema

NAMES = ["a", "b", "ab", "x1"]
STRINGS = ["", "a", "b", "ab", "aab", "x1", "\u00e9", "\U0001f600b", "12", "a\"\t"]  # no \n: Python's $ matches in front of it
NUMBERS = ["0", "1", "2", "3", "-1", "1.5", "2.5", "6", "10", "0.1", "100"]
PATTERNS = ["^a", "b$", "^[ab]*$", "1", "^.{2}$", "^(a|x1)$"]


def instance(rng, depth=0):
    kind = rng.choice("nbisassooaa" if depth < 3 else "nbis")
    if kind == "n":
        return None
    if kind == "b":
        return rng.choice([True, False])
    if kind == "i":
        text = rng.choice(NUMBERS)
        return float(text) if "." in text else int(text)
    if kind == "s":
        return rng.choice(STRINGS)
    if kind == "a":
        return [instance(rng, depth + 1) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
    return {name: instance(rng, depth + 1) for name in rng.sample(NAMES + ["y"], rng.choice([0, 1, 2, 3]))}


def number(rng):
    text = rng.choice(NUMBERS)
    return float(text) if "." in text else int(text)


def schema(rng, depth=0):
    if rng.random() < (0.1 if depth else 0.02):
        return rng.choice([True, True, False])
    out = {}
    words = rng.sample(WORDS, rng.choice([1, 1, 2, 2, 3, 4]))
    if depth == 0:
        out["$defs"] = {"d": schema(rng, 2)}
    for word in words:
        WORD[word](rng, out, depth)
    return out


def sub(rng, depth):
    return schema(rng, depth + 1) if depth < 3 else rng.choice([True, {"type": "integer"}, {"type": "string"}, {"const": 1}])


def put(word, make):
    def add(rng, out, depth):
        out[word] = make(rng, depth)
    return add


def subs(rng, depth):
    return [sub(rng, depth) for _ in range(rng.choice([1, 2, 2, 3]))]


def condition(rng, out, depth):
    out["if"] = sub(rng, depth)
    out["then"] = sub(rng, depth)
    if rng.random() < 0.5:
        out["else"] = sub(rng, depth)


def contains(rng, out, depth):
    out["contains"] = sub(rng, depth)
    if rng.random() < 0.4:
        out["minContains"] = rng.choice([0, 1, 2])
    if rng.random() < 0.4:
        out["maxContains"] = rng.choice([0, 1, 2])


TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]
WORD = {
    "type": put("type", lambda r, d: r.choice(TYPES) if r.random() < 0.6 else r.sample(TYPES, 2)),
    "enum": put("enum", lambda r, d: [instance(r, 2) for _ in range(r.choice([1, 2, 3]))]),
    "const": put("const", lambda r, d: instance(r, 1)),
    "minimum": put("minimum", lambda r, d: number(r)),
    "maximum": put("maximum", lambda r, d: number(r)),
    "exclusiveMinimum": put("exclusiveMinimum", lambda r, d: number(r)),
    "multipleOf": put("multipleOf", lambda r, d: r.choice([1, 2, 3, 0.5, 2.5, 5])),
    "minLength": put("minLength", lambda r, d: r.choice([0, 1, 2])),
    "maxLength": put("maxLength", lambda r, d: r.choice([0, 1, 2, 3])),
    "pattern": put("pattern", lambda r, d: r.choice(PATTERNS)),
    "properties": put("properties", lambda r, d: {n: sub(r, d) for n in r.sample(NAMES, r.choice([1, 2]))}),
    "required": put("required", lambda r, d: r.sample(NAMES, r.choice([1, 2]))),
    "additionalProperties": put("additionalProperties", sub),
    "patternProperties": put("patternProperties", lambda r, d: {p: sub(r, d) for p in r.sample(PATTERNS, r.choice([1, 2]))}),
    "propertyNames": put("propertyNames", sub),
    "minProperties": put("minProperties", lambda r, d: r.choice([0, 1, 2])),
    "maxProperties": put("maxProperties", lambda r, d: r.choice([0, 1, 2])),
    "items": put("items", sub),
    "prefixItems": put("prefixItems", lambda r, d: subs(r, d)),
    "minItems": put("minItems", lambda r, d: r.choice([0, 1, 2])),
    "maxItems": put("maxItems", lambda r, d: r.choice([0, 1, 2, 3])),
    "contains": contains,
    "uniqueItems": put("uniqueItems", lambda r, d: True),
    "anyOf": put("anyOf", subs),
    "oneOf": put("oneOf", subs),
    "allOf": put("allOf", subs),
    "not": put("not", sub),
    "if": condition,
    "dependentRequired": put("dependentRequired", lambda r, d: {r.choice(NAMES): r.sample(NAMES, 1)}),
    "dependentSchemas": put("dependentSchemas", lambda r, d: {r.choice(NAMES): sub(r, d)}),
    "unevaluatedProperties": put("unevaluatedProperties", sub),
    "unevaluatedItems": put("unevaluatedItems", sub),
    "$ref": put("$ref", lambda r, d: r.choice(["#/$defs/d", "#"])),
}
WORDS = list(WORD)


def loops(node, root, seen=()):
    """Whether a reference leads back to where it stands without going down into the instance."""
    if not isinstance(node, dict):
        return False
    if id(node) in seen:
        return True
    seen = seen + (id(node),)
    here = [node[w] for w in ("not", "if", "then", "else") if w in node]
    here += [s for w in ("anyOf", "oneOf", "allOf") for s in node.get(w, [])]
    here += list(node.get("dependentSchemas", {}).values())
    if "$ref" in node:
        here.append(root if node["$ref"] == "#" else root["$defs"]["d"])
    return any(loops(s, root, seen) for s in here)


def judge(validator, value):
    """True, False, or None where jsonschema itself fails."""
    try:
        return validator.is_valid(value)
    except RecursionError:
        return None


class Rounded(Exception):
    """A number of more digits than Python's floats have: jsonschema would judge another one."""


def exactly(text):
    if decimal.Decimal(text) != decimal.Decimal(repr(float(text))):
        raise Rounded
    return float(text)


def read(text):
    try:
        return [json.loads(text, parse_float=exactly)]
    except Rounded:
        return []


def run(tool, lines, *options):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(line + "\n" for line in lines))
        file.flush()
        done = subprocess.run([tool, "--batch", file.name, *options], capture_output=True, timeout=600)
    if done.returncode:
        sys.exit(f"serverd-grammar: exit code {done.returncode}: {done.stderr[-2000:].decode(errors='replace')}")
    return done.stdout.decode(errors="replace").split("\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tool")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schemas", type=int, default=300)
    parser.add_argument("--instances", type=int, default=25)
    parser.add_argument("--samples", type=int, default=3)
    args = parser.parse_args()
    cases = []
    for seed in range(args.seed, args.seed + args.schemas):
        rng = random.Random(seed)
        made = schema(rng)
        if isinstance(made, dict) and not loops(made, made):
            cases.append((seed, made, [instance(rng) for _ in range(args.instances)]))
    lines, wanted = [], []
    for _, made, instances in cases:
        lines.append("schema " + json.dumps(made))
        lines += ["instance " + json.dumps(i) for i in instances]
    answers = iter(run(args.tool, lines, "--max-ms", "1000"))
    wrong = refused = n = 0
    for seed, made, instances in cases:
        compiled = next(answers)
        validator = jsonschema.Draft202012Validator(made)
        if not compiled.startswith("ok"):
            refused += 1
            if "invalid_schema" in compiled:
                print(f"seed {seed}: {compiled}: {json.dumps(made)}")
        for i in instances:
            answer = next(answers)
            if not compiled.startswith("ok"):
                continue
            valid = judge(validator, i)
            n += valid is not None
            if valid is not None and (answer == "accepted") != valid:
                wrong += 1
                print(f"seed {seed}: {answer}, jsonschema says {valid}: {json.dumps(i)}: {json.dumps(made)}")
    print(f"{len(cases)} schemas, {refused} refused, {n} instances, {wrong} wrong")
    lines = []
    for seed, made, _ in cases:
        lines.append("schema " + json.dumps(made))
        lines += [f"sample {seed * 100 + k}" for k in range(args.samples)]
    answers = iter(run(args.tool, lines, "--max-ms", "1000", "--produce"))
    bad = n = 0
    for seed, made, _ in cases:
        next(answers)
        validator = jsonschema.Draft202012Validator(made)
        for _ in range(args.samples):
            answer = next(answers)
            if answer.startswith("failed dead"):
                bad += 1
                print(f"seed {seed}: {answer[:300]}: {json.dumps(made)}")
            if answer.startswith("text "):
                n += 1
                if any(judge(validator, value) is False for value in read(answer[5:])):
                    bad += 1
                    print(f"seed {seed}: produced {answer[5:300]}: {json.dumps(made)}")
    print(f"{n} productions, {bad} bad")
    return 1 if wrong or bad else 0


if __name__ == "__main__":
    sys.exit(main())
