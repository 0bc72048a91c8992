"""Compare a served model with exact float32 logits, through the HTTP API (echo + logprobs).

Usage: accuracy.py URL REFERENCE.json ...
"""
import json
import math
import sys
import urllib.request

TOP = 20


def score(url, ids, timeout=1200):
    body = {"prompt": ids, "max_tokens": 0, "echo": True, "logprobs": TOP, "return_tokens_as_token_ids": True,
            "temperature": 0}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as reply:
        lp = json.load(reply)["choices"][0]["logprobs"]
    tops = [None if t is None else {int(k.split(":")[1]): v for k, v in t.items()} for t in lp["top_logprobs"]]
    return lp["token_logprobs"], tops


def compare(url, reference):
    """NLL difference, mean KL over the reference's top 20, and top-1 agreement."""
    ids = reference["ids"]
    chosen, tops = score(url, ids)
    assert len(chosen) == len(ids) and chosen[0] is None
    n = len(ids) - 1
    nll = -sum(chosen[1:]) / n
    expected = -sum(reference["next_logprob"]) / n
    kl = same = 0.0
    for i in range(n):
        mine = tops[i + 1]
        # A token outside our own top is at most this likely. (The chosen token is listed even when
        # it is less likely than the top.)
        floor = sorted(mine.values())[-TOP]
        for token, lp in zip(reference["top_ids"][i], reference["top_logprobs"][i]):
            kl += math.exp(lp) * (lp - mine.get(token, floor))
        same += max(mine, key=lambda t: (mine[t], -t)) == reference["top_ids"][i][0]
    return {"positions": n, "nll": nll, "nll_reference": expected, "nll_difference": abs(nll - expected),
            "kl": kl / n, "top1": same / n}


if __name__ == "__main__":
    for path in sys.argv[2:]:
        with open(path) as f:
            print(path, json.dumps(compare(sys.argv[1], json.load(f))))
