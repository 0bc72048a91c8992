"""Models that judge pairs of texts, from Hugging Face folders: against the tokenizers package and an independent forward
pass, through every dialect; and the same endpoints with other kinds of models."""
import json
import math
import random
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
from conftest import BUILD, ROOT, Server, clean_environment

sys.path.insert(0, str(ROOT / "tests" / "tools"))
from encoder_oracle import Encoder  # noqa: E402
from make_encoder import WORDS, make  # noqa: E402

CLASSES = ("BertForSequenceClassification", "RobertaForSequenceClassification", "XLMRobertaForSequenceClassification")


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))


def refusal(url, body):
    with pytest.raises(urllib.error.HTTPError) as e:
        post(url, body)
    return e.value.code, json.load(e.value)["error"]


def texts(n, seed):
    r = random.Random(seed)
    return [" ".join(r.choice(WORDS + ["Zürich?", "x-1", "...", "[SEP]", "</s>"]) for _ in range(r.randrange(1, 30)))
            for _ in range(n)]


class World:
    def __init__(self, name, folder):
        tokenizers = pytest.importorskip("tokenizers")
        make(name, folder)
        self.folder = folder
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.oracle = Encoder(folder)
        self.server = Server(folder)
        self.url = self.server.url

    def raw(self, query, text):
        # special tokens in texts are text to the server: the package has them as tokens
        pair = self.tokenizer.encode(query, text)
        return float(self.oracle.scores(pair.ids, pair.type_ids)[0])


@pytest.fixture(scope="module", params=CLASSES)
def world(request, tmp_path_factory):
    w = World(request.param, tmp_path_factory.mktemp("model"))
    yield w
    assert w.server.stop() == 0, w.server.log


def is_plain(text):
    return "[SEP]" not in text and "</s>" not in text


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_scores_equal_the_independent_forward_pass(world):
    query = "what is the capital of the sea?"
    documents = [t for t in texts(120, 1) if is_plain(t)]
    reply = post(world.url + "/v1/rerank", {"query": query, "documents": documents})
    expected = [sigmoid(world.raw(query, d)) for d in documents]
    got = {r["index"]: r["relevance_score"] for r in reply["results"]}
    assert len(got) == len(documents)
    assert max(expected) - min(expected) > 0.1  # they differ at all
    worst = max(abs(got[i] - expected[i]) for i in range(len(documents)))
    assert worst <= 1e-2, worst  # products in BF16
    exact = Server(world.folder, "--device", "cpu-reference")
    reply = post(exact.url + "/v1/rerank", {"query": query, "documents": documents})
    worst = max(abs(r["relevance_score"] - expected[r["index"]]) for r in reply["results"])
    assert worst <= 1e-5, worst
    assert exact.stop() == 0, exact.log


def test_raw_scores_are_those_of_the_last_layer(world):
    documents = [t for t in texts(40, 2) if is_plain(t)]
    reply = post(world.url + "/rerank", {"query": "red house", "texts": documents, "raw_scores": True, "return_text": True})
    for r in reply:
        assert r["text"] == documents[r["index"]]
        assert abs(r["score"] - world.raw("red house", r["text"])) <= 3e-2
    scores = [r["score"] for r in reply]
    assert scores == sorted(scores, reverse=True)


def test_a_pair_has_the_same_bits_alone_and_among_others(world):
    documents = texts(60, 3)
    together = post(world.url + "/v1/rerank", {"query": "green tree", "documents": documents})["results"]
    for r in together[:10]:
        alone = post(world.url + "/v1/score", {"text_1": "green tree", "text_2": documents[r["index"]]})
        assert alone["data"][0]["score"] == r["relevance_score"]


def test_special_tokens_in_texts_are_text(world):
    sep = "[SEP]" if world.tokenizer.token_to_id("[SEP]") is not None else "</s>"
    reply = post(world.url + "/v1/rerank", {"query": "a", "documents": ["b " + sep + " c", "b c"]})
    assert reply["results"][0]["relevance_score"] != reply["results"][1]["relevance_score"]
    n = post(world.url + "/tokenize", {"content": sep, "add_special": False, "parse_special": False})["count"]
    usage = post(world.url + "/v1/score", {"text_1": "a", "text_2": sep})["usage"]["prompt_tokens"]
    assert usage == len(world.tokenizer.encode("a", "").ids) + n


def test_the_forms_of_cohere_and_jina(world):
    body = {"model": "default", "query": "sun", "documents": ["moon", {"text": "sun and moon"}, "moon", "tree"], "top_n": 3}
    reply = post(world.url + "/v1/rerank", body)
    assert set(reply) == {"id", "model", "results", "usage", "meta"}
    assert reply["meta"] == {"billed_units": {"search_units": 1}}
    assert len(reply["results"]) == 3
    for r in reply["results"]:
        text = body["documents"][r["index"]]
        assert r["document"] == {"text": text if isinstance(text, str) else text["text"]}
    ids = [world.tokenizer.encode("sun", t).ids for t in ("moon", "sun and moon", "moon", "tree")]
    assert reply["usage"] == {"prompt_tokens": sum(map(len, ids)), "total_tokens": sum(map(len, ids))}
    for path in ("/v2/rerank", "/v1/rerank", "/rerank", "/reranking"):
        short = post(world.url + path, {**body, "return_documents": False})
        assert [set(r) for r in short["results"]] == [{"index", "relevance_score"}] * 3
        assert [r["relevance_score"] for r in short["results"]] == [r["relevance_score"] for r in reply["results"]]
    assert "document" not in post(world.url + "/v2/rerank", body)["results"][0]
    # equal scores stand in the order of the documents
    same = post(world.url + "/v2/rerank", {"query": "a", "documents": ["b"] * 5})["results"]
    assert [r["index"] for r in same] == [0, 1, 2, 3, 4]


def test_scores_of_one_or_many_first_texts(world):
    a, b = ["red", "blue"], ["sea", "tree"]
    both = post(world.url + "/v1/score", {"text_1": a, "text_2": b})
    assert (both["object"], [d["object"] for d in both["data"]]) == ("list", ["score", "score"])
    for i in range(2):
        alone = post(world.url + "/score", {"queries": a[i], "documents": b[i]})["data"][0]["score"]
        assert alone == both["data"][i]["score"]
        assert abs(alone - sigmoid(world.raw(a[i], b[i]))) <= 1e-2
    assert len(post(world.url + "/v1/score", {"text_1": "red", "text_2": b})["data"]) == 2


def test_what_is_wrong_is_refused_with_its_field(world):
    url = world.url + "/v1/rerank"
    good = {"query": "a", "documents": ["b"]}
    rows = [({"documents": ["b"]}, "missing_required_parameter", "query"), ({"query": "a"}, "missing_required_parameter", "documents"),
            ({**good, "query": ["a"]}, "invalid_type", "query"), ({**good, "query": ""}, "invalid_value", "query"),
            ({**good, "documents": "b"}, "invalid_type", "documents"), ({**good, "documents": []}, "invalid_value", "documents"),
            ({**good, "documents": ["b", 1]}, "invalid_type", "documents[1]"),
            ({**good, "documents": ["b", {"txt": "c"}]}, "invalid_type", "documents[1]"),
            ({**good, "documents": ["b", ""]}, "invalid_value", "documents[1]"),
            ({**good, "documents": ["b"] * 2049}, "invalid_value", "documents"), ({**good, "top_n": 0}, "invalid_value", "top_n"),
            ({**good, "documents": ["b", "a " * 300]}, "context_length_exceeded", "documents[1]")]
    for body, code, param in rows:
        status, error = refusal(url, body)
        assert (status, error["code"], error["param"]) == (400, code, param), (body, error)
    status, error = refusal(world.url + "/v1/score", {"text_1": ["a", "b"], "text_2": ["c"]})
    assert (status, error["code"], error["param"]) == (400, "invalid_value", "text_1")
    for path, body in (("/v1/embeddings", {"input": "a"}), ("/v1/completions", {"prompt": "a"}),
                       ("/v1/score", {"query": "a", "items": ["b"], "label_token_ids": [1]})):
        status, error = refusal(world.url + path, body)
        assert (status, error["code"]) == (400, "unsupported_value") and "/v1/rerank" in error["message"]


@pytest.mark.parametrize("name", ("BertModel", "RobertaModel", "XLMRobertaModel"))
def test_of_embeddings_the_score_is_the_cosine(name, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    make(name, tmp_path)
    t, oracle, server = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")), Encoder(tmp_path), Server(tmp_path)
    documents = [d for d in texts(30, 5) if is_plain(d)]
    vectors = [oracle.embed(t.encode(d).ids) for d in documents]
    query = oracle.embed(t.encode("the red sea").ids)
    for r in post(server.url + "/v1/rerank", {"query": "the red sea", "documents": documents})["results"]:
        assert abs(r["relevance_score"] - float(query @ vectors[r["index"]])) <= 5e-3
    data = post(server.url + "/v1/embeddings", {"input": documents})["data"]
    assert min(float(np.dot(v, d["embedding"])) for v, d in zip(vectors, data)) >= 0.9999
    score = post(server.url + "/v1/score", {"text_1": documents[:3], "text_2": documents[3:6]})["data"]
    for i in range(3):
        assert abs(score[i]["score"] - float(vectors[i] @ vectors[i + 3])) <= 5e-3
    assert server.stop() == 0, server.log


GGUF_NAMES = {"embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
              "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm", "pooler.dense": "cls",
              "classifier": "cls.output", "attention.self.query": "attn_q", "attention.self.key": "attn_k",
              "attention.self.value": "attn_v", "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
              "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm"}


def write_gguf(folder, path):
    """The same model with its vocabulary, pooling type 4 (rank)."""
    gguf = pytest.importorskip("gguf")
    oracle, w = Encoder(folder), gguf.GGUFWriter(path, "bert")
    c, vocab = oracle.config, json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    for name, value in (("block_count", c["num_hidden_layers"]), ("embedding_length", c["hidden_size"]), ("pooling_type", 4),
                        ("context_length", c["max_position_embeddings"]), ("feed_forward_length", c["intermediate_size"]),
                        ("attention.head_count", c["num_attention_heads"])):
        w.add_uint32("bert." + name, value)
    w.add_float32("bert.attention.layer_norm_epsilon", c["layer_norm_eps"])
    w.add_bool("bert.attention.causal", False)
    w.add_tokenizer_model("bert")
    w.add_token_list([t if t.startswith("[") else t[2:] if t.startswith("##") else "\u2581" + t for t in vocab])
    w.add_token_types([3 if t.startswith("[") else 1 for t in vocab])
    for name, i in (("cls", 2), ("bos", 2), ("seperator", 3), ("eos", 3), ("unknown", 1), ("padding", 0), ("mask", 4)):
        w.add_uint32(f"tokenizer.ggml.{name}_token_id", i)
    for name, t in oracle.w.items():
        module, suffix = name.rsplit(".", 1)
        layer = module.split(".")[2] if module.startswith("encoder.") else None
        to = GGUF_NAMES[module.split(".", 3)[3] if layer else module]
        w.add_tensor(f"blk.{layer}.{to}.{suffix}" if layer else f"{to}.{suffix}", np.ascontiguousarray(t, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def test_a_gguf_file_of_pooling_type_rank_is_a_reranker(tmp_path):
    make("BertForSequenceClassification", tmp_path / "m")
    body, found = {"query": "red house", "documents": [t for t in texts(30, 9) if is_plain(t)]}, []
    for model in (write_gguf(tmp_path / "m", tmp_path / "m.gguf"), tmp_path / "m"):
        server = Server(model)
        found.append(post(server.url + "/v1/rerank", body)["results"])
        assert server.stop() == 0, server.log
    assert found[0] == found[1]


def test_a_quantised_reranker_is_a_program_file(tmp_path):
    make("BertForSequenceClassification", tmp_path / "m")
    path = tmp_path / "m.sdp"
    subprocess.run([BUILD / "src" / "tools" / "compile" / "serverd-compile", tmp_path / "m", "-o", path, "-q", "--quantize", "int8"],
                   check=True, env=clean_environment())
    body, found = {"query": "red house", "documents": [t for t in texts(30, 6) if is_plain(t)]}, []
    for model in (path, tmp_path / "m"):
        server = Server(model)
        found.append({r["index"]: r["relevance_score"] for r in post(server.url + "/v1/rerank", body)["results"]})
        assert json.load(urllib.request.urlopen(server.url + "/v1/models"))["data"][0]["meta"]["capabilities"] == ["rerank"]
        assert server.stop() == 0, server.log
    assert 0 < max(abs(found[0][i] - found[1][i]) for i in found[0]) < 0.05


def test_a_model_with_several_outputs_ranks_nothing(tmp_path):
    make("BertForSequenceClassification", tmp_path, 3)
    server = Server(tmp_path)
    status, error = refusal(server.url + "/v1/rerank", {"query": "a", "documents": ["b"]})
    assert (status, error["code"]) == (400, "unsupported_value") and "3 outputs" in error["message"]
    assert server.stop() == 0, server.log


def test_how_likely_labels_are_as_the_next_token(tiny_model):
    server = Server(tiny_model("llama"))
    ids = [[5, 9, 21], [7], [300, 11]]
    body = {"query": [3, 4, 6], "items": ids, "label_token_ids": [17, 30, 45]}
    reply = post(server.url + "/v1/score", body)
    assert reply["object"] == "scoring" and reply["usage"]["prompt_tokens"] == 15
    shares = post(server.url + "/v1/score", {**body, "apply_softmax": True})["scores"]
    swapped = post(server.url + "/v1/score", {**body, "item_first": True})["scores"]
    for item, row, share, other in zip(ids, reply["scores"], shares, swapped):
        for prompt, found in (([3, 4, 6] + item, row), (item + [3, 4, 6], other)):
            for label, p in zip((17, 30, 45), found):
                # the same token as part of an echoed prompt
                echo = post(server.url + "/v1/completions", {"prompt": prompt + [label], "max_tokens": 0, "echo": True, "logprobs": 0})
                logprob = echo["choices"][0]["logprobs"]["token_logprobs"][-1]
                assert abs(p - math.exp(logprob)) <= 1e-6 * p
        assert np.allclose(np.array(row) / sum(row), share, rtol=1e-5)
    for change, code, param in (({"label_token_ids": None}, "missing_required_parameter", "label_token_ids"),
                                ({"label_token_ids": [10**6]}, "invalid_value", "label_token_ids"),
                                ({"label_token_ids": [1] * 65}, "invalid_value", "label_token_ids"),
                                ({"items": []}, "invalid_value", "items"), ({"items": ["a"]}, "invalid_type", "items[0]"),
                                ({"query": None}, "missing_required_parameter", "query")):
        status, error = refusal(server.url + "/v1/score", {**body, **change})
        assert (status, error["code"], error["param"]) == (400, code, param), (change, error)
    for path, other in (("/v1/rerank", {"query": "a", "documents": ["b"]}), ("/v1/score", {"text_1": "a", "text_2": "b"})):
        status, error = refusal(server.url + path, other)
        assert (status, error["code"]) == (400, "unsupported_value")
    assert server.stop() == 0, server.log
