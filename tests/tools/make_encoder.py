"""Small encoders as Hugging Face folders, with random weights that BF16 holds exactly: BERT with WordPiece and
XLM-RoBERTa with Unigram, each as a plain model or with a head that judges pairs of texts.

usage: make_encoder.py CLASS FOLDER [N_SCORES]"""
import json
import pathlib
import sys

import numpy as np

WORDS = ("the a of and to in is was he for it with as his on be at by this had not are but from or have an they which one you were "
         "her all she there would their we him been has when who will more no if out so said what up its about into than them can "
         "only other new some could time these two may then do first any my now such like our over man me even most made after "
         "query document answer question paris berlin capital river sea red green blue cat dog house tree sun moon").split()
SIZES = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, type_vocab_size=2,
             max_position_embeddings=160, layer_norm_eps=1e-12, hidden_act="gelu")


def round_to_bf16(x):
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7fff + ((bits >> 16) & 1)) & np.uint32(0xffff0000)).view(np.float32)


def write_safetensors(path, tensors):
    """Of {name: (dtype's name, shape, bytes)} or {name: float32 array}."""
    header, blob = {}, b""
    for name, t in tensors.items():
        if isinstance(t, np.ndarray):
            t = ("F32", t.shape, np.ascontiguousarray(t, np.float32).tobytes())
        header[name] = {"dtype": t[0], "shape": list(t[1]), "data_offsets": [len(blob), len(blob) + len(t[2])]}
        blob += t[2]
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    pathlib.Path(path).write_bytes(len(head).to_bytes(8, "little") + head + blob)


def wordpiece():
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), *WORDS]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    special = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True} for i, t in enumerate(tokens[:5])]
    sep = {"SpecialToken": {"id": "[SEP]", "type_id": 0}}
    single = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, sep]
    pair = single + [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
            "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                           "lowercase": True},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {
                t: {"id": t, "ids": [vocab[t]], "tokens": [t]} for t in ("[CLS]", "[SEP]")}},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": vocab}}


def unigram():
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*("\u2581" + w for w in WORDS), *"abcdefghijklmnopqrstuvwxyz0123456789.,?!'-", "\u2581"]
    vocab = [[t, 0.0] for t in special] + [[t, -2.0 - 0.01 * i] for i, t in enumerate(dict.fromkeys(pieces))]
    vocab.append(["<mask>", 0.0])
    added = [{"id": i, "content": t, "single_word": False, "lstrip": t == "<mask>", "rstrip": False, "normalized": False,
              "special": True} for i, (t, _) in enumerate(vocab) if t in special or t == "<mask>"]

    def token(text):
        return {"SpecialToken": {"id": text, "type_id": 0}}

    def text(name):
        return {"Sequence": {"id": name, "type_id": 0}}
    single = [token("<s>"), text("A"), token("</s>")]
    pair = single + [token("</s>"), text("B"), token("</s>")]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}]},
            "post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {
                t: {"id": t, "ids": [special.index(t)], "tokens": [t]} for t in ("<s>", "</s>")}},
            "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
            "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False}}


def make(class_name, folder, n_scores=1, seed=1):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    is_roberta, has_head = "oberta" in class_name, class_name.endswith("Classification")
    r = np.random.default_rng(seed)
    tokenizer = unigram() if is_roberta else wordpiece()
    config = dict(SIZES, architectures=[class_name], vocab_size=len(tokenizer["model"]["vocab"]),
                  pad_token_id=1 if is_roberta else 0, type_vocab_size=1 if is_roberta else 2,
                  model_type="xlm-roberta" if class_name.startswith("XLM") else "roberta" if is_roberta else "bert")
    d, ff = config["hidden_size"], config["intermediate_size"]
    tensors = {}

    def linear(name, n_out, n_in, gain=1.0):
        tensors[name + ".weight"] = round_to_bf16(r.normal(0, gain / np.sqrt(n_in), (n_out, n_in)))
        tensors[name + ".bias"] = round_to_bf16(r.normal(0, 0.1, n_out))

    def norm(name):
        tensors[name + ".weight"] = round_to_bf16(r.uniform(0.5, 1.5, d))
        tensors[name + ".bias"] = round_to_bf16(r.normal(0, 0.1, d))
    prefix = ("roberta." if is_roberta else "bert.") if has_head else ""
    for name, n in (("word", config["vocab_size"]), ("position", config["max_position_embeddings"]),
                    ("token_type", config["type_vocab_size"])):
        tensors[prefix + f"embeddings.{name}_embeddings.weight"] = round_to_bf16(r.normal(0, 1, (n, d)))
    norm(prefix + "embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        p = prefix + f"encoder.layer.{i}."
        for name in ("query", "key", "value"):
            linear(p + "attention.self." + name, d, d, 1.5)
        linear(p + "attention.output.dense", d, d)
        norm(p + "attention.output.LayerNorm")
        linear(p + "intermediate.dense", ff, d)
        linear(p + "output.dense", d, ff)
        norm(p + "output.LayerNorm")
    if has_head and is_roberta:
        linear("classifier.dense", d, d)
        linear("classifier.out_proj", n_scores, d, 2.0)
    elif has_head:
        linear(prefix + "pooler.dense", d, d)
        linear("classifier", n_scores, d, 2.0)
    else:
        linear("pooler.dense", d, d)  # which embeddings do not read
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


if __name__ == "__main__":
    make(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1)
