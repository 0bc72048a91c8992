"""A Hugging Face folder in a zip archive is the folder; archives that are damaged or hostile are refused by name."""
import json
import pathlib
import subprocess
import sys
import urllib.request
import zipfile

import pytest
from conftest import BUILD, ROOT, Server, clean_environment, find_model

sys.path.insert(0, str(ROOT / "tests" / "tools"))
from make_encoder import make  # noqa: E402

COMPILE = BUILD / "src" / "tools" / "compile" / "serverd-compile"
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make("BertModel", tmp_path_factory.mktemp("model"))


def pack(path, folder, prefix="", method=DEFLATED, more=()):
    with zipfile.ZipFile(path, "w", method) as z:
        for file in sorted(f for f in folder.rglob("*") if f.is_file()):
            z.write(file, prefix + str(file.relative_to(folder)))
        for name, data in more:
            z.writestr(name, data)
    return path


def embeddings(model):
    server = Server(model)
    body = json.dumps({"input": ["the red sea", "a house", "x"]}).encode()
    request = urllib.request.Request(server.url + "/v1/embeddings", body, {"Content-Type": "application/json"})
    found = json.load(urllib.request.urlopen(request))
    assert server.stop() == 0, server.log
    return found["model"], [d["embedding"] for d in found["data"]]


@pytest.mark.parametrize("method", (STORED, DEFLATED))
@pytest.mark.parametrize("prefix", ("", "some-model/"))
def test_a_zip_is_the_folder_in_it(folder, tmp_path, prefix, method):
    path = pack(tmp_path / "packed.zip", folder, prefix, method, [("__MACOSX/._x", b"x")])
    before = set(tmp_path.iterdir())
    name, found = embeddings(path)
    assert (name, found) == ("packed", embeddings(folder)[1])
    assert set(tmp_path.iterdir()) == before


def test_templates_and_pooling_below_the_folder_are_found(folder, tmp_path):
    more = [("m/1_Pooling/config.json", '{"pooling_mode_cls_token": true}'),
            ("m/modules.json", '[{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}]'),
            ("m/additional_chat_templates/rag.jinja", "{{ 1 }}"), ("m/additional_chat_templates/deep/no.jinja", "{{")]
    assert embeddings(pack(tmp_path / "a.zip", folder, "m/", DEFLATED, more))[1] != embeddings(folder)[1]


def refusal(path):
    run = subprocess.run([COMPILE, path, "-o", path.parent / "x.sdp"], capture_output=True, text=True, env=clean_environment(), timeout=60)
    assert run.returncode > 0, run
    return run.stderr


def test_hostile_archives_are_refused(folder, tmp_path):
    outside = tmp_path / "outside"
    path = pack(tmp_path / "a.zip", folder, more=[("../outside", b"x"), (str(outside), b"x"), ("m/../../outside", b"x")])
    subprocess.run([COMPILE, path, "-o", tmp_path / "x.sdp"], check=True, capture_output=True, env=clean_environment())
    assert not outside.exists()
    whole = path.read_bytes()

    def damaged(name, data):
        (tmp_path / name).write_bytes(data)
        return refusal(tmp_path / name)
    assert "no zip archive" in damaged("b.zip", b"no archive")
    assert "no zip archive" in damaged("c.zip", whole[:-30])
    assert "no zip archive" in damaged("d.zip", b"")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xff  # in the weights
    assert "model.safetensors" in damaged("e.zip", bytes(flipped))
    assert "there 2 times" in refusal(pack(tmp_path / "f.zip", folder, more=[("config.json", "{}")]))
    many = [(f"{i}.txt", b"") for i in range(5000)]
    assert "at most 4096" in refusal(pack(tmp_path / "g.zip", folder, more=many))
    assert "64 times" in refusal(pack(tmp_path / "h.zip", folder, more=[("bomb", bytes(200 << 20))]))
    assert "compression method" in refusal(pack(tmp_path / "i.zip", folder, method=zipfile.ZIP_BZIP2))
    encrypted = bytearray(whole)
    at = whole.index(b"PK\1\2")
    while at >= 0:  # the flag of every entry
        encrypted[at + 8] |= 1
        at = whole.find(b"PK\1\2", at + 1)
    assert "j.zip/" in damaged("j.zip", bytes(encrypted))
    assert "config.json: there is no such file" in refusal(pack(tmp_path / "k.zip", tmp_path / "nothing", more=[("a/x", b""), ("b/config.json", b"{}")]))


def test_minilm_in_a_zip(tmp_path):
    folder = find_model("minilm")
    if not folder:
        pytest.skip("SERVERD_TEST_MODELS has no minilm")
    path = pack(tmp_path / "minilm.zip", pathlib.Path(folder), "all-MiniLM-L6-v2/")
    assert embeddings(path)[1] == embeddings(folder)[1]
