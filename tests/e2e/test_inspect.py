"""serverd-inspect and serverd-compile diff, as a user starts them. SERVERD_UPDATE_GOLDEN=1 writes the golden text
anew."""
import json
import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest

from conftest import BUILD, DATA, clean_environment

INSPECT = BUILD / "src" / "tools" / "inspect" / "serverd-inspect"
COMPILE = BUILD / "src" / "tools" / "compile" / "serverd-compile"


def run(tool, *arguments, code=0):
    done = subprocess.run([str(tool), *map(str, arguments)], capture_output=True, text=True, timeout=300,
                          env=clean_environment())
    assert done.returncode == code, (done.returncode, done.stdout[-2000:], done.stderr)
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def program_file(tiny_model, tmp_path_factory):
    made = {}

    def make(arch, dtype="Q8_0"):
        if (arch, dtype) not in made:
            path = tmp_path_factory.mktemp("programs") / f"{arch}.sdp"
            run(COMPILE, tiny_model(arch, dtype), "-o", path)
            made[arch, dtype] = path
        return made[arch, dtype]

    return make


def facts(path, *options):
    return json.loads(run(INSPECT, path, "--json", *options))


# ---- the report ----

def without_the_machine(text):
    """What is the same everywhere: not what depends on this build, this processor, its costs and its memory."""
    text = re.sub(r"(  program 1.1  )\S+ .B(  id \S+  )root [0-9a-f]{8}", r"\1SIZE\2root ROOT", text)
    text = re.sub(r"(?m)^targets .*$", "targets", text)
    text = re.sub(r"(?m)^made .*$", "made", text)
    text = re.sub(r"(?ms)^SECTION.*?\n\n", "", text)
    text = re.sub(r"(?m)( blk\.0-1 +[0-9.]+ .B) .*$", r"\1", text)
    return re.sub(r"(?m)^memory .*$", "memory", text)


def test_the_text_is_the_golden_one(program_file):
    golden = DATA / "inspect" / "llama.txt"
    text = without_the_machine(run(INSPECT, program_file("llama"), "--tensors"))
    if os.environ.get("SERVERD_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_verify_runs_the_tests_of_a_file(program_file, tiny_model, tmp_path):
    path = program_file("qwen2")
    for device in ("cpu", "cpu:isa=generic", "cpu-reference"):
        told = run(COMPILE, "verify", path, "--device", device)
        assert re.search(r"3 cases answered as they were, KL to exact arithmetic 0\.0", told), told
    assert "cosine to exact arithmetic" in run(COMPILE, "verify", program_file("bert"))
    assert "cases" not in run(COMPILE, "verify", path, "--no-self-test")
    bare = tmp_path / "bare.sdp"
    run(COMPILE, tiny_model("qwen2", "Q8_0"), "-o", bare, "--no-self-test", "--max-rows", 99)
    assert "it has no self-test" in run(COMPILE, "verify", bare)
    told = facts(bare, "--plan")
    assert told["tests"]["cases"] == [] and told["meta"]["options"] == "--max-rows 99"
    assert told["stored_plans"][0]["max_rows"] == 99
    assert told["stored_plans"][0]["planned"] < told["stored_plans"][0]["naive"]


def test_a_plan_in_the_file_changes_no_prediction(program_file, tiny_model):
    for arch in ("llama", "gemma3", "bert"):
        planned, fresh = (facts(path)["memory"] for path in (program_file(arch), tiny_model(arch, "Q8_0")))
        assert planned["activations"] == fresh["activations"]
        assert planned["activations_naive"] == fresh["activations_naive"]


@pytest.mark.parametrize("arch", ["llama", "gemma3", "bert"])
def test_sections_and_tensors_add_up(program_file, arch):
    path = program_file(arch)
    told = facts(path, "--tensors", "--plan", "--tokens")
    assert told["bytes"] == path.stat().st_size
    data = path.read_bytes()
    assert told["program_id"] == data[64:96].hex()
    assert told["file_root"] == data[96:128].hex()
    sections = told["sections"]
    assert {"CONF", "STRS", "TENS", "GRPH", "TARG", "FORM", "WGHT", "TOKN"} <= {s["type"] for s in sections}
    end = 256
    for section in sections:
        assert section["offset"] >= end
        end = section["offset"] + section["bytes"]
    assert end <= told["bytes"]
    weights = sum(s["bytes"] for s in sections if s["type"] == "WGHT")
    forms = sum(t["form_bytes"] for t in told["tensors"])
    assert forms <= weights <= forms + 4096 * len(told["tensors"])
    assert next(s["items"] for s in sections if s["type"] == "TENS") == len(told["tensors"])
    assert len(told["tokens"]) == told["model"]["vocabulary"]
    assert sum(p["nodes"] for p in told["partitions"]) == told["model"]["nodes"]
    assert told["explain"].startswith("nodes 0-")
    assert any(t["runs_here"] for t in told["targets"])


def test_a_source_is_compiled_in_memory(tiny_model, program_file):
    from_source, from_file = facts(tiny_model("qwen3", "Q8_0"), "--tensors"), facts(program_file("qwen3"), "--tensors")
    assert not from_source["is_program_file"] and from_file["is_program_file"]
    shapes = [{t["name"]: (t["dtype"], t["shape"], t["bytes"]) for t in told["tensors"]}
              for told in (from_source, from_file)]
    assert shapes[0] == shapes[1]


def test_places_are_wishes_and_impossible_ones_errors(program_file):
    path = program_file("gemma3")
    told = facts(path, "--place", "blk.2-3=cpu-reference")
    assert [p["delegate"] for p in told["partitions"]] == ["cpu", "cpu-reference", "cpu"]
    assert "npu" in run(INSPECT, path, "--place", "blk.0=npu", code=1)
    assert "npu" in run(INSPECT, path, "--device", "npu", code=1)


def test_wrong_files_and_wishes_are_named(tmp_path, program_file):
    damaged = tmp_path / "damaged.sdp"
    data = bytearray(program_file("llama").read_bytes())
    data[24] ^= 0xFF
    damaged.write_bytes(data)
    assert "damaged.sdp" in run(INSPECT, damaged, code=1)
    assert run(INSPECT, tmp_path / "nothing.sdp", code=1)
    assert ".html" in run(INSPECT, program_file("llama"), "--graph", tmp_path / "g.png", code=1)
    assert "--tensors" in run(INSPECT, program_file("llama"), "--tensor", code=1)


# ---- drawings ----

TOKEN = re.compile(r'\s*(->|[{}\[\];=]|"(?:[^"\\]|\\.)*"|[A-Za-z_][A-Za-z_0-9]*|[0-9.]+)')


class Dot:
    """Reads the part of DOT that has digraphs, clusters, nodes with attributes, edges and nothing else."""

    def __init__(self, text):
        self.tokens, at = [], 0
        while text[at:].strip():
            match = TOKEN.match(text, at)
            assert match, f"not DOT: {text[at:at + 60]!r}"
            self.tokens.append(match[1])
            at = match.end()
        self.nodes, self.edges, self.clusters = {}, [], 0
        self.expect("digraph")
        self.next()
        self.block()
        assert not self.tokens

    def next(self):
        return self.tokens.pop(0)

    def expect(self, token):
        found = self.next()
        assert found == token, (found, token)

    def attributes(self):
        found = {}
        self.expect("[")
        while self.tokens[0] != "]":
            key = self.next()
            self.expect("=")
            found[key] = self.next()
        self.expect("]")
        return found

    def block(self):
        self.expect("{")
        while self.tokens[0] != "}":
            self.statement()
        self.expect("}")

    def statement(self):
        name = self.next()
        if name == "subgraph":
            self.next()
            self.clusters += 1
            self.block()
            return
        if self.tokens[0] == "->":
            self.next()
            self.edges.append((name, self.next()))
        elif self.tokens[0] == "=":
            self.next()
            self.next()
        elif name == "node":
            self.attributes()
        else:
            assert name not in self.nodes, f"{name} stands twice"
            self.nodes[name] = self.attributes()
        self.expect(";")


@pytest.mark.parametrize("arch", ["llama", "gemma3", "phi3", "bert"])
def test_dot_has_each_node_once_and_edges_between_them(program_file, tmp_path, arch):
    out = tmp_path / "graph.dot"
    assert run(INSPECT, program_file(arch), "--graph", out) == ""
    model = facts(program_file(arch))["model"]
    dot = Dot(out.read_text())
    assert set(dot.nodes) == {f"n{i}" for i in range(model["nodes"])}
    assert dot.clusters == model["layers"] + 2
    for begin, end in dot.edges:
        assert int(begin[1:]) < int(end[1:])
    sources = set(dot.nodes) - {end for _, end in dot.edges}
    assert sources == {n for n, a in dot.nodes.items() if ": embed on" in a["tooltip"]}
    assert all("tooltip" in a and "fillcolor" in a for a in dot.nodes.values())


def check_picture(path, n_nodes):
    text = path.read_text()
    root = ElementTree.fromstring(re.sub(r"^<!DOCTYPE html>", "", text))
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert sorted(ids) == sorted(f"n{i}" for i in range(n_nodes))
    titles = [e for e in root.iter() if e.tag.split("}")[-1] == "title"]
    assert len(titles) >= n_nodes
    # offline: no scripts, nothing from elsewhere
    assert "<script" not in text and "href=" not in text and "src=" not in text and "url(" not in text
    assert re.findall(r"https?://[^\"]*", text) in ([], ["http://www.w3.org/2000/svg"])
    return root


@pytest.mark.parametrize("arch", ["llama", "gemma3", "bert"])
def test_pictures_are_well_formed_and_offline(program_file, tmp_path, arch):
    model = facts(program_file(arch))["model"]
    svg, html = tmp_path / "graph.svg", tmp_path / "graph.html"
    run(INSPECT, program_file(arch), "--graph", svg)
    run(INSPECT, program_file(arch), "--graph", html)
    check_picture(svg, model["nodes"])
    page = check_picture(html, model["nodes"])
    details = list(page.iter("details"))
    assert len(details) == model["layers"] + 2
    assert sum(d.get("open") is None for d in details) == model["layers"]  # closed until they are clicked


def test_colours_are_delegates(program_file, tmp_path):
    out = tmp_path / "graph.dot"
    run(INSPECT, program_file("gemma3"), "--graph", out, "--place", "blk.3=cpu-reference")
    dot = Dot(out.read_text())
    colours = {}
    for attributes in dot.nodes.values():
        delegate = re.search(r" on (\S+?)\\n", attributes["tooltip"])[1]
        colours.setdefault(delegate, set()).add(attributes["fillcolor"])
    assert set(colours) == {"cpu", "cpu-reference"}
    assert all(len(c) == 1 for c in colours.values()) and len(set.union(*colours.values())) == 2


def test_thirty_layers_are_a_small_picture(default_model, tmp_path):
    for ending in ("dot", "svg", "html"):
        out = tmp_path / f"graph.{ending}"
        run(INSPECT, default_model, "--graph", out)
        assert out.stat().st_size <= 1 << 20
    model = facts(default_model)["model"]
    assert model["layers"] == 30
    check_picture(tmp_path / "graph.html", model["nodes"])


# ---- diff ----

def test_diff_of_a_file_and_its_source_is_empty(tiny_model, program_file):
    told = json.loads(run(COMPILE, "diff", tiny_model("gemma2", "Q8_0"), program_file("gemma2"), "--json"))
    assert told["tensors"] == [] and told["same_tensors"] > 0
    assert [layer["layer"] for layer in told["layers"]] == ["before", "0", "1", "2", "3", "behind"]
    assert all(layer["residual"]["mse"] == 0 for layer in told["layers"])
    assert told["first_bad"] == {} and told["logits"]["kl_max"] == 0


def test_diff_of_back_ends_and_types(tiny_model, program_file, tmp_path):
    ids = tmp_path / "ids.json"
    ids.write_text("[[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11]]")
    told = json.loads(run(COMPILE, "diff", tiny_model("qwen2", "F32"), program_file("qwen2"), "--ids", ids, "--json",
                          "--device-a", "cpu-reference"))
    assert told["tokens"] == 11 and told["logits"]["rows"] == 11
    assert {t["differs"] for t in told["tensors"]} == {"type"}
    assert 0 < told["logits"]["kl_mean"] < 0.1
    text = run(COMPILE, "diff", program_file("qwen2"), program_file("llama"))  # one has biases
    assert "only in A" in text and "first bad layer: before" in text
    text = run(COMPILE, "diff", program_file("qwen2"), program_file("gemma2"), "--all")
    assert "only in B" in text and "not run: A has" in text
    assert "names no two models" in run(COMPILE, "diff", program_file("qwen2"), code=5)
    ids.write_text("[1000000]")
    assert "token 0 of list 0" in run(COMPILE, "diff", program_file("qwen2"), program_file("qwen2"), "--ids", ids, code=5)
