"""all-MiniLM-L6-v2 from its Hugging Face folder, against the tokenizers package and an independent
forward pass."""
import json
import random
import sys
import urllib.request

import numpy as np
import pytest
from conftest import ROOT, find_model
from openai import OpenAI

sys.path.insert(0, str(ROOT / "tests" / "tools"))
from encoder_oracle import Encoder  # noqa: E402

WORDS = ("the a of and to in is was he for it with as his on be at by I this had not are but from or have an they "
         "which one you were her all she there would their we him been has when who will more no if out so said what "
         "up its about into than them can only other new some could time these two may then do first any my now such "
         "like our over man me even most made after also did many before must through back years where much your way "
         "well down should because each just those people how too little state good very make world still own see men "
         "work long get here between both life being under never day same another know while last might us great old "
         "year off come since against go came right used take three").split()
ODD = ["naïve café", "Ünïcödé ÅNGSTRÖM İstanbul", "日本語のテキスト", "한국어 텍스트", "tab\tand\nnewline\r\n", "zero\u200bwidth", "soft\u00adhyphen",
       "a" * 99, "a" * 100, "a" * 101, "don't stop", "C++ & C#: $5.00 (50%)", "😀 emoji 👩‍👩‍👧", "x\x00y\x0bz\x0c", "Ω≈ç√∫˜µ≤≥÷", "ﬁ ligature",
       "e\u0301 combining", "not special: [MASK]?", "##ing", "Ελληνικά ΣΊΣΥΦΟΣ", "кириллица Й ё", "עִבְרִית", "العَرَبِيَّة", "हिन्दी", "ไทย",
       "\u2028line\u2029sep", "\ufeffbom", "\U000e0001tag", "", " ", "…—–", "１２３ ＡＢＣ", "\u00a0nbsp\u3000wide", "ǅ titlecase", "ß straße ẞ"]


def texts(n, seed=3):
    r = random.Random(seed)
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789 .,;:!?-'\"()éüßñøåğışčЖдя中文字日本語한글\u0301\u200d\t"
    out = list(ODD)
    while len(out) < n:
        kind = r.randrange(3)
        if kind == 0:
            out.append(" ".join(r.choice(WORDS) for _ in range(r.randrange(1, 40))))
        elif kind == 1:
            out.append("".join(r.choice(alphabet) for _ in range(r.randrange(1, 120))))
        else:
            out.append("".join(chr(r.choice([r.randrange(32, 127), r.randrange(160, 0x500), r.randrange(0x500, 0xd800),
                                             r.randrange(0xe000, 0x10000), r.randrange(0x1f300, 0x1f700)]))
                               for _ in range(r.randrange(1, 60))))
    return out[:n]


@pytest.fixture(scope="module")
def folder():
    path = find_model("minilm")
    if not path:
        pytest.skip("SERVERD_TEST_MODELS has no minilm")
    return path


@pytest.fixture(scope="module")
def url(folder):
    from conftest import Server
    s = Server(folder)
    yield s.url
    assert s.stop() == 0, s.log


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))


def reference(folder):
    tokenizers = pytest.importorskip("tokenizers")
    t = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    t.no_truncation()
    t.no_padding()
    return t


def test_ids_equal_those_of_the_tokenizers_package(folder, url):
    t, wrong = reference(folder), []
    strings = [s for s in texts(1000) if s]
    for text, expected in zip(strings, t.encode_batch(strings)):
        got = post(url + "/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
        if got != expected.ids:
            wrong.append((text, got, expected.ids))
    assert not wrong, f"{len(wrong)}: {wrong[:3]}"


def test_vectors_equal_the_independent_forward_pass(folder, url):
    t, encoder = reference(folder), Encoder(folder)
    strings = [s for s in texts(300, seed=4) if s.strip() and "[MASK]" not in s]  # which is text there
    ids = [e.ids for e in t.encode_batch(strings)]
    strings = [(s, i) for s, i in zip(strings, ids) if 2 < len(i) <= 256][:200]
    assert len(strings) == 200
    reply = post(url + "/v1/embeddings", {"input": [s for s, _ in strings]})
    cosines = [float(np.dot(encoder.embed(i), d["embedding"])) for (_, i), d in zip(strings, reply["data"])]
    assert min(cosines) >= 0.999, min(cosines)


def test_the_openai_package_reads_both_encodings(url):
    client = OpenAI(base_url=url + "/v1", api_key="none")
    inputs = ["a sentence", "another one"]
    packed = client.embeddings.create(model="minilm", input=inputs)  # base64 by default
    plain = client.embeddings.create(model="minilm", input=inputs, encoding_format="float")
    for a, b in zip(packed.data, plain.data):
        assert len(a.embedding) == 384
        assert np.allclose(a.embedding, b.embedding, atol=1e-7)
    assert packed.usage.prompt_tokens == plain.usage.prompt_tokens == 8


def test_an_input_beyond_256_tokens_is_refused(url):
    with pytest.raises(urllib.error.HTTPError) as e:
        post(url + "/v1/embeddings", {"input": "word " * 400})
    assert e.value.code == 400
    assert len(post(url + "/v1/embeddings", {"input": "word " * 254})["data"][0]["embedding"]) == 384
