"""Random programs against their twin: the same operations by tests/tools/client_programs.py, which keeps token ids itself and
asks /v1/completions for one thing at a time. Greedy, so that the values have to be equal."""
import json
import os
import random
import sys

import pytest
from conftest import ROOT
from programs import main_of, run

sys.path.insert(0, str(ROOT / "tests" / "tools"))
import client_programs as client  # noqa: E402

N_PROGRAMS = int(os.environ.get("SERVERD_TEST_PROGRAMS", "25"))
FIRST_SEED = int(os.environ.get("SERVERD_TEST_SEED", "1"))
TEXTS = ["The river", " flows", "\n", "\n\n", " 1.", " and", ", which", " Answer:", " the sea", "Vienna is", " a", " (", "\"", " in 18", "76", " don't"]
CHOICES = [[" yes", " no"], ["yes", "no", "maybe not"], [" Vienna", " the city of Vienna", " Bratislava"], [" 1", " 12", " 123"], ["s", " of", "\n"]]
METHODS = ["token_length_normalized", "joint", "greedy_token", "unconditional_likelihood_normalized"]


class Writer:
    """A random list of operations: ("add", text), ("gen", n, stop), ("choose", choices, method), ("score", text), ("fork", lists),
    ("copy", list)."""

    def __init__(self, dice):
        self.dice = dice

    def operations(self, depth):
        return [self.operation(depth) for _ in range(self.dice.randrange(2, 6))]

    def operation(self, depth):
        d = self.dice
        kind = d.choice(["add"] * 4 + ["gen"] * 4 + ["choose", "score"] + (["fork", "copy"] if depth else []))
        if kind == "add":
            return kind, "".join(d.choices(TEXTS, k=d.randrange(1, 4)))
        if kind == "gen":
            return kind, d.randrange(1, 8), d.choice([None, None, "\n", " ", "e", ". ", "th", ["a", ","]])
        if kind == "choose":
            return kind, d.choice(CHOICES), d.choice(METHODS[:2])
        if kind == "score":
            return kind, d.choice(TEXTS)
        if kind == "copy":
            return kind, self.operations(depth - 1)
        return kind, [self.operations(depth - 1) for _ in range(d.randrange(2, 4))]


def lua(operations):
    lines = []
    for kind, *rest in operations:
        if kind == "add":
            lines.append(f"s:add({quote(rest[0])})")
        elif kind == "gen":
            stop = rest[1]
            stops = "" if stop is None else ", stop = {" + ", ".join(map(quote, [stop] if isinstance(stop, str) else stop)) + "}"
            lines.append(f"out[#out + 1] = s:gen{{max_tokens = {rest[0]}{stops}}}")
        elif kind == "choose":
            lines.append(f"do local c, info = s:select{{choices = {{{', '.join(map(quote, rest[0]))}}}, method = \"{rest[1]}\"}} "
                         "out[#out + 1] = {c, info.scores} end")
        elif kind == "score":
            lines.append(f"out[#out + 1] = s:score({quote(rest[0])}).sum")
        elif kind == "copy":
            lines.append(f"do local r = (function(s) local out = {{}}\n{lua(rest[0])}\nreturn out end)(s:copy()) out[#out + 1] = r end")
        else:
            cases = "\n".join(f"if i == {i} then\n{lua(ops)}\nend" for i, ops in enumerate(rest[0], 1))
            numbers = ", ".join(map(str, range(len(rest[0]))))
            lines.append(f"out[#out + 1] = s:map({{{numbers}}}, function(s, x, i) local out = {{}}\n{cases}\nreturn out end)")
    return "\n".join(lines)


def quote(text):
    return json.dumps(text)


def twin(s, operations):
    out = []
    for kind, *rest in operations:
        if kind == "add":
            s.add(rest[0])
        elif kind == "gen":
            out.append(s.gen(max_tokens=rest[0], stop=rest[1]))
        elif kind == "choose":
            out.append(choose(s, *rest))
        elif kind == "score":
            out.append(sum(scored(s, [rest[0]])[1][0]))
        elif kind == "copy":
            out.append(twin(s.copy(), rest[0]))
        else:
            out.append([twin(branch, ops) for branch, ops in [(s.copy(), ops) for ops in rest[0]]])
    return out


def scored(s, texts):
    """Token ids behind the state for each text, and log probabilities of those behind what all share with the open span."""
    open_ids = s.span(s.pending) if s.pending else []
    lists = [s.span(s.pending + t) for t in texts]
    k = min(next((i for i, (a, b) in enumerate(zip(ids, open_ids)) if a != b), min(len(ids), len(open_ids))) for ids in lists)
    return lists, s.scores_of([s.ids + ids for ids in lists], [len(s.ids) + k] * len(lists))


def choose(s, choices, method):
    lists, lps = scored(s, choices)
    scores = [sum(x) if method == "joint" else sum(x) / max(1, len(x)) for x in lps]
    best = max(range(len(choices)), key=lambda i: (scores[i], -i))
    s.ids += lists[best]
    s.pending = ""
    return [choices[best], scores]


def near(a, b):
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) < 1e-3
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(near, a, b))
    return a == b


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + N_PROGRAMS))
def test_a_program_gives_what_its_twin_gives(server, seed):
    operations = [("add", "Rivers. ")] + Writer(random.Random(seed)).operations(2)
    text = main_of("local out = {}\n" + lua(operations) + "\nreturn out")
    data = run(server, text)
    expected = twin(client.TokenState(client.Endpoint(server.url)), operations)
    assert near(data["value"], expected), f"seed {seed}\n{text}\n{json.dumps(data['value'])}\n{json.dumps(expected)}"
    for o in data["trace"]:
        assert o["prompt"] == o["reused"] + o["prefill"], o
