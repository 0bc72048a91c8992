#!/usr/bin/env python3
"""The eight programs of configs/programs as ordinary client code: one HTTP request for each thing that is generated
or scored. What the same logic costs without a program, and what values it gives.

    client_programs.py --url http://127.0.0.1:8000 [--dialect serverd|llama-server] [--tokens] [PROGRAM...]

prints, for each program, its value and what was asked. The state of a conversation is text that is sent again with
every request (TextState), as clients do, or with --tokens a list of token ids that grows as a program's state does
(TokenState, serverd alone): literals are tokenised a span at a time, generated tokens stay what they are. Greedy
values of that one equal those of the programs.
"""
import argparse
import concurrent.futures
import http.client
import json
import math
import re
import sys
import threading
import time
import urllib.parse

INT = r" ?-?(0|[1-9][0-9]{0,17})"


class Refused(Exception):
    """A status that is no success."""


class Endpoint:
    """A server, and what was asked of it. Connections are kept, one for each thread."""

    def __init__(self, url, dialect="serverd"):
        self.address = urllib.parse.urlsplit(url).netloc
        self.dialect = dialect
        self.local, self.lock = threading.local(), threading.Lock()
        self.marks = {}
        self.reset()

    def reset(self):
        self.n_requests = self.n_prompt = self.n_cached = self.n_completion = 0

    @property
    def n_prefill(self):
        return self.n_prompt - self.n_cached

    def post(self, path, body):
        for is_again in (False, True):
            if not getattr(self.local, "connection", None):
                self.local.connection = http.client.HTTPConnection(self.address, timeout=600)
            try:
                self.local.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                reply = self.local.connection.getresponse()
                data = reply.read()
                break
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.local.connection = None  # it was idle for too long
                if is_again:
                    raise
        if reply.status != 200:
            raise Refused(f"{path}: {reply.status} {data[:300]!r}")
        return json.loads(data)

    def count(self, prompt, cached, completion, n_requests=1):
        with self.lock:
            self.n_requests += n_requests
            self.n_prompt += prompt
            self.n_cached += cached
            self.n_completion += completion

    def count_usage(self, reply):
        usage = reply["usage"]
        cached = (reply.get("timings") or {}).get("cache_n")
        if cached is None:
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        self.count(usage["prompt_tokens"], cached, usage["completion_tokens"])

    def openai(self, path, body):
        reply = self.post(path, body)
        self.count_usage(reply)
        return reply["choices"]

    def tokenize(self, text, special=False):
        return self.post("/tokenize", {"content": text, "add_special": False, "parse_special": special})["tokens"]

    def detokenize(self, ids):
        return self.post("/detokenize", {"tokens": ids})["content"]

    def bos(self):
        """What the model puts in front of a text: token ids, [] if nothing."""
        if "bos" not in self.marks:
            whole = self.post("/tokenize", {"content": "a", "add_special": True})["tokens"]
            self.marks["bos"] = whole[: len(whole) - len(self.tokenize("a"))]
        return self.marks["bos"]


def options_of(endpoint, max_tokens, stop=None, json_schema=None, regex=None, temperature=0.0, seed=None):
    """A request's fields beside its prompt."""
    body = {"max_tokens": max_tokens, "temperature": temperature}
    if stop:
        body["stop"] = [stop] if isinstance(stop, str) else list(stop)
    if seed is not None:
        body["seed"] = seed
    if endpoint.dialect == "llama-server":
        body["cache_prompt"] = True
        if json_schema:
            body["json_schema"] = json_schema
        if regex == INT:
            body["grammar"] = 'root ::= " "? "-"? ("0" | [1-9] [0-9]{0,17})'
        return body
    if json_schema:
        body["guided_json"] = json_schema
    if regex:
        body["guided_regex"] = regex
    return body


def softmax(scores):
    exps = [math.exp(s - max(scores)) for s in scores]
    return [e / sum(exps) for e in exps]


class Choice:
    def __init__(self, choices, scores):
        self.index = max(range(len(choices)), key=lambda i: (scores[i], -i))
        self.choice, self.scores, self.probs = choices[self.index], scores, softmax(scores)
        best = sorted(scores, reverse=True)
        self.margin = best[0] - best[1] if len(best) > 1 else 0.0


# ---- states ----

class TextState:
    """What client code does: text, or messages, sent again and again."""

    def __init__(self, endpoint):
        self.endpoint, self.text, self.messages, self.role = endpoint, "", [], None

    def copy(self):
        other = TextState(self.endpoint)
        other.text, other.messages, other.role = self.text, [dict(m) for m in self.messages], self.role
        return other

    def add(self, *texts):
        for text in texts:
            if self.role:
                self.messages[-1]["content"] += str(text)
            else:
                self.text += str(text)
        return self

    def open(self, role):
        self.role = role
        self.messages.append({"role": role, "content": ""})
        return self

    def close(self):
        self.role = None
        return self

    def gen(self, **options):
        body = options_of(self.endpoint, **options)
        if self.role:
            text = self.chat(body)
        else:
            text = self.endpoint.openai("/v1/completions", {"prompt": self.text, **body})[0]["text"]
        self.add(text)
        return text

    def gen_int(self, max_tokens):
        return int(self.gen(max_tokens=max_tokens, regex=INT))

    def chat(self, body):
        messages = self.messages if self.messages[-1]["content"] else self.messages[:-1]
        if messages is self.messages and self.endpoint.dialect == "serverd":
            body.update(continue_final_message=True, add_generation_prompt=False)
        text = self.endpoint.openai("/v1/chat/completions", {"messages": messages, **body})[0]["message"]["content"]
        if messages is self.messages and text.startswith(self.messages[-1]["content"]):
            text = text[len(self.messages[-1]["content"]):]  # llama-server says it again
        return text

    def select(self, choices, method="token_length_normalized"):
        if self.endpoint.dialect == "llama-server":
            chosen = self.select_by_grammar(choices)
        else:
            chosen = self.select_by_score(choices, method)
        self.add(chosen.choice)
        return chosen

    def select_by_score(self, choices, method):
        body = {"max_tokens": 0, "temperature": 0, "echo": True, "logprobs": 0, "add_special_tokens": False}
        replies = self.endpoint.openai("/v1/completions", {"prompt": [self.text + c for c in choices], **body})
        scores = []
        for reply in replies:
            log = reply["logprobs"]
            scores.append([(t, lp) for t, lp, at in zip(log["tokens"], log["token_logprobs"], log["text_offset"]) if at >= len(self.text)])
        means = [sum(lp for _, lp in s) / len(s) for s in scores]
        if method == "unconditional_likelihood_normalized":
            alone = self.endpoint.openai("/v1/completions", {"prompt": choices, **body, "add_special_tokens": True})
            for i, reply in enumerate(alone):
                lps = [lp for lp in reply["logprobs"]["token_logprobs"] if lp is not None]
                means[i] -= sum(lps) / max(1, len(lps))
        return Choice(choices, means)

    def select_by_grammar(self, choices):
        """llama-server has no log probabilities of prompts: the most likely choice, token by token."""
        grammar = "root ::= " + " | ".join(json.dumps(c) for c in choices)
        reply = self.endpoint.post("/completion", {"prompt": self.text, "n_predict": 16, "temperature": 0, "grammar": grammar, "n_probs": 20,
                                                   "cache_prompt": True})
        timings = reply["timings"]
        self.endpoint.count(timings["prompt_n"] + timings["cache_n"], timings["cache_n"], timings["predicted_n"])
        first = {p["token"]: p["logprob"] for p in reply["completion_probabilities"][0]["top_logprobs"]}
        scores = [max([lp for t, lp in first.items() if t.strip() and c.startswith(t)], default=-20.0) for c in choices]
        chosen = Choice(choices, scores)
        chosen.choice = reply["content"]
        chosen.index = choices.index(chosen.choice) if chosen.choice in choices else chosen.index
        return chosen

    def together(self, work, items):
        """work(item) for all of them at once; the results in order."""
        with concurrent.futures.ThreadPoolExecutor(max(1, len(items))) as pool:
            return list(pool.map(work, items))


class TokenState(TextState):
    """The same on token ids, as a program's state keeps them: `pending` is the open span of literals."""

    PLACES = ["\ue000a\ue000", "\ue000b\ue000"]

    def __init__(self, endpoint):
        super().__init__(endpoint)
        self.ids, self.pending, self.closed = [], "", []

    def copy(self):
        self.flush()
        other = TokenState(self.endpoint)
        other.ids, other.pending, other.closed, other.role = list(self.ids), self.pending, list(self.closed), self.role
        return other

    def add(self, *texts):
        self.pending += "".join(map(str, texts))
        return self

    def span(self, text):
        """Tokens of literal text at this place."""
        return ([] if self.ids else self.endpoint.bos()) + self.endpoint.tokenize(text)

    def flush(self):
        if self.pending:
            self.ids += self.span(self.pending)
            self.pending = ""

    def marks(self, roles, begins):
        """The template's text in front of the last role's body: behind the body before (`begins`), else from the start."""
        key = (tuple(roles), begins)
        if key not in self.endpoint.marks:
            roles = list(roles)
            is_open = roles[-1] == "assistant"
            names = [f"\ue000{i}\ue000" for i in range(len(roles))]
            messages = [{"role": r, "content": n} for r, n in zip(roles, names)]
            text = self.endpoint.post("/apply-template", {"messages": messages[:-1] if is_open else messages,
                                                          "add_generation_prompt": is_open})["prompt"]
            begin = text.index(names[-2]) + len(names[-2]) if begins else 0
            end = len(text) if is_open else text.index(names[-1])
            self.endpoint.marks[key] = self.endpoint.tokenize(text[begin:end], special=True)
        return self.endpoint.marks[key]

    def open(self, role):
        self.flush()
        self.closed.append(role)
        self.ids += self.marks(self.closed, len(self.closed) > 1)
        self.role = role
        return self

    def close(self):
        """The end of a turn comes with the beginning of the next: templates differ in what is between them."""
        self.flush()
        self.role = None
        return self

    def gen(self, **options):
        self.flush()
        body = {"prompt": self.ids, "return_token_ids": True, **options_of(self.endpoint, **options)}
        choice = self.endpoint.openai("/v1/completions", body)[0]
        self.keep(choice["text"], choice["token_ids"])
        return choice["text"]

    def keep(self, text, ids):
        """Tokens that the text ends within are dropped, and what they have of it joins the next span."""
        n = len(ids)
        while n > 0 and len(self.endpoint.detokenize(ids[:n])) > len(text):
            n -= 1
        self.ids += ids[:n]
        self.pending = text[len(self.endpoint.detokenize(ids[:n])):] if n else text

    def gen_int(self, max_tokens):
        """Token by token: forms that are not complete bind it, a complete one ends at what cannot continue it."""
        rest = {"": INT, " ": r"-?(0|[1-9][0-9]{0,17})", "-": r"(0|[1-9][0-9]{0,17})", " -": r"(0|[1-9][0-9]{0,17})"}
        self.flush()
        text, ids = "", []
        for _ in range(max_tokens):
            body = {"prompt": self.ids + ids, "return_token_ids": True,
                    **options_of(self.endpoint, max_tokens=1, regex=rest.get(text))}
            choice = self.endpoint.openai("/v1/completions", body)[0]
            if not re.fullmatch(r" ?-?(0|[1-9][0-9]{0,17})?", text + choice["text"]) or not choice["token_ids"]:
                break
            text, ids = text + choice["text"], ids + choice["token_ids"]
        self.keep(text, ids)
        return int(text)

    def scores_of(self, prompts, n_skipped):
        """Log probabilities of each prompt's tokens behind its first n_skipped."""
        body = {"max_tokens": 0, "temperature": 0, "echo": True, "logprobs": 0}
        replies = self.endpoint.openai("/v1/completions", {"prompt": prompts, **body})
        return [reply["logprobs"]["token_logprobs"][n:] for reply, n in zip(replies, n_skipped)]

    def select_by_score(self, choices, method):
        open_ids = self.span(self.pending) if self.pending else []
        lists = [self.span(self.pending + c) for c in choices]

        def common(ids):
            n = 0
            while n < min(len(ids), len(open_ids)) and ids[n] == open_ids[n]:
                n += 1
            return n

        k = min(common(ids) for ids in lists)
        scored = self.scores_of([self.ids + ids for ids in lists], [len(self.ids) + k] * len(lists))
        means = [sum(s) / len(s) for s in scored]
        if method == "unconditional_likelihood_normalized":
            bos = self.endpoint.bos()
            alone = self.scores_of([bos + ids[k:] for ids in lists], [1] * len(lists))
            if not bos:  # nothing is known of a first token; a list of one keeps it
                scored = [s[1:] if len(s) > 1 else s for s in scored]
            means = [(sum(s) - sum(a)) / len(s) for s, a in zip(scored, alone)]
        chosen = Choice(choices, means)
        self.ids += lists[chosen.index]
        self.pending = ""
        return chosen

    def select(self, choices, method="token_length_normalized"):
        return self.select_by_score(choices, method)


# ---- the programs ----

def multi_turn(s, questions):
    s.open("system").add("You answer in one short sentence.").close()
    out = []
    for question in questions:
        s.open("user").add(question).close()
        out.append(s.open("assistant").gen(max_tokens=48))
        s.close()
    return out


def cot_select(s, question, options):
    s.add("Question: ", question, "\nReasoning:")
    why = s.gen(max_tokens=96, stop=["\n\n", "Answer"])
    s.add("\nAnswer (", "/".join(options), "):")
    return {"answer": options[s.select([" " + o for o in options]).index], "why": why}


def tree_of_thought(s, task, width=3, depth=2, beam=2, seed=1):
    states = [s.add("Task: ", task, "\n")]
    for d in range(1, depth + 1):
        def grow(pair):
            i, branch = pair
            branch.add("Step ", d, ":")
            branch.gen(max_tokens=32, stop="\n", temperature=0.8, seed=seed * 1000 + d * 100 + i)
            judge = branch.add("\n").copy().add("Is this step promising? Answer:")
            return judge.select([" yes", " no"]).probs[0], branch

        branches = [(i, st.copy()) for i, st in enumerate(st for st in states for _ in range(width))]
        pool = sorted(s.together(grow, branches), key=lambda p: -p[0])
        states = [branch for _, branch in pool[:beam]]
    return states[0].add("Answer:").gen(max_tokens=48, stop="\n")


def lookup(term):
    """What stands for the external tool of react."""
    return {"term": term, "text": f"{term} is well known."}


TOOLS = {"lookup": {"type": "object", "properties": {"term": {"type": "string"}}, "required": ["term"], "additionalProperties": False},
         "sum": {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}, "required": ["x", "y"],
                 "additionalProperties": False}}


def react(s, question, max_steps=4):
    s.add("Use Thought, Action, Observation lines.\nQuestion: ", question)
    for _ in range(max_steps):
        s.add("\nThought:").gen(max_tokens=48, stop="\n")
        act = s.add("\nAction:").select([" lookup", " sum", " finish"]).choice[1:]
        if act == "finish":
            break
        text = s.add(" ").gen(json_schema=TOOLS[act], max_tokens=64)
        try:
            call = json.loads(text)
            out = json.dumps(lookup(call["term"]) if act == "lookup" else call["x"] + call["y"], separators=(",", ":"), sort_keys=True)
        except ValueError:
            out = "the arguments are cut short"
        s.add("\nObservation: ", out)
    return s.add("\nAnswer:").gen(max_tokens=48, stop="\n")


RECORD = {"type": "object", "required": ["name", "year", "tags"], "properties": {
    "name": {"type": "string", "maxLength": 40}, "year": {"type": "integer"},
    "tags": {"type": "array", "items": {"type": "string", "maxLength": 16}, "maxItems": 3}}}


def extract(s, text):
    s.open("user").add("Extract the record as JSON:\n" + text).close()
    return json.loads(s.open("assistant").gen(json_schema=RECORD, max_tokens=160))


def judge(s, essay, dims=("clarity", "accuracy", "style", "depth")):
    s.open("user").add("Essay:\n", essay, "\n\n")

    def grade(pair):
        dim, branch = pair
        branch.add("Grade its ", dim, " from 1 to 10.").close()
        return branch.open("assistant").add("Grade:").gen_int(max_tokens=3)

    marks = s.together(grade, [(dim, s.copy()) for dim in dims])
    s.add("Grades: ", json.dumps(marks, separators=(",", ":")), ". Give one sentence of advice.").close()
    return {"marks": marks, "advice": s.open("assistant").gen(max_tokens=48)}


SHOTS = [("A joy from start to end.", "positive"), ("I want my money back.", "negative"), ("It arrived on Tuesday.", "neutral")]


def classify(s, text):
    s.add("Label each review as positive, negative or neutral.\n\n")
    for shot, label in SHOTS:
        s.add("Review: ", shot, "\nLabel: ", label, "\n\n")
    chosen = s.add("Review: ", text, "\nLabel:").select([" positive", " negative", " neutral"],
                                                        "unconditional_likelihood_normalized")
    return {"label": chosen.choice[1:], "margin": chosen.margin}


def skeleton(s, question, points=4):
    s.add("Question: ", question, "\nOutline:")
    for i in range(1, points + 1):
        s.add("\n", i, ".").gen(max_tokens=12, stop="\n")

    def body(pair):
        i, branch = pair
        literal = f"\n\nPoint {i} in full:"
        return literal, branch.add(literal).gen(max_tokens=64, stop="\n"), branch

    bodies = s.together(body, [(i, s.copy()) for i in range(1, points + 1)])
    join(s, bodies)
    s.add("\n\nIn short:")
    return {"bodies": [b for _, b, _ in bodies], "summary": s.gen(max_tokens=32, stop="\n")}


def join(s, bodies):
    """The branches' texts one behind the other; as tokens they stay those that were made."""
    if not isinstance(s, TokenState):
        s.add(*(literal + text for literal, text, _ in bodies))
        return
    s.flush()
    n_shared = len(s.ids)
    for _, _, branch in bodies:
        branch.flush()
        s.ids += branch.ids[n_shared:]


EXAMPLES = {
    "multi_turn": {"questions": ["What is a river?", "Name one.", "Where does it begin?", "Where does it end?"]},
    "cot_select": {"question": "Is water wet?", "options": ["yes", "no", "unclear"]},
    "tree_of_thought": {"task": "Plan a day in Vienna.", "width": 3, "depth": 2, "beam": 2},
    "react": {"question": "Which river flows through Vienna?", "max_steps": 3},
    "extract": {"text": "Ada Lovelace, born in 1815, wrote about the Analytical Engine; mathematician, writer."},
    "judge": {"essay": "Rivers shape the land they cross. They carry stone and silt, and cities grow at their banks. " * 4},
    "classify": {"text": "It broke after two days."},
    "skeleton": {"question": "How is bread made?", "points": 3},
}
PROGRAMS = {f.__name__: f for f in (multi_turn, cot_select, tree_of_thought, react, extract, judge, classify, skeleton)}


def run(endpoint, name, args, state=TextState):
    """The program's value; `endpoint` counts."""
    return PROGRAMS[name](state(endpoint), **args)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--dialect", choices=["serverd", "llama-server"], default="serverd")
    parser.add_argument("--tokens", action="store_true", help="states are token ids")
    parser.add_argument("programs", nargs="*", help="all without")
    a = parser.parse_args()
    if a.tokens and a.dialect != "serverd":
        sys.exit("--tokens: serverd alone has what it needs")
    for name in a.programs or PROGRAMS:
        endpoint = Endpoint(a.url, a.dialect)
        begin = time.monotonic()
        value = run(endpoint, name, EXAMPLES[name], TokenState if a.tokens else TextState)
        seconds = time.monotonic() - begin
        print(f"{name}: {seconds * 1000:.0f} ms, {endpoint.n_requests} requests, {endpoint.n_prompt} prompt tokens, "
              f"{endpoint.n_cached} of them cached, {endpoint.n_completion} generated\n    {json.dumps(value, ensure_ascii=False)}")


if __name__ == "__main__":
    main()
