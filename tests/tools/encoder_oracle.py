"""An independent forward pass of BERT encoders in numpy, float32, from a Hugging Face folder.

It shares nothing with the server but the folder: safetensors is read here by hand, the mathematics
is written from the architecture's definition. An embedding is the mean of the rows, of length 1; scores of
pairs come from the first row."""
import json
import math
import pathlib

import numpy as np

TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}


def read_safetensors(path):
    raw = pathlib.Path(path).read_bytes()
    n = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + n])
    tensors = {}
    for name, t in header.items():
        if name != "__metadata__":
            begin, end = t["data_offsets"]
            tensors[name] = np.frombuffer(raw[8 + n + begin:8 + n + end], TYPES[t["dtype"]]).reshape(t["shape"])
    return tensors


GRID = np.linspace(-6, 6, 120001)
TABLE = np.array([math.erf(x) for x in GRID])


def erf(x):
    """By interpolation: off by at most 1e-9."""
    return np.interp(x, GRID, TABLE).astype(np.float32)


class Encoder:
    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.config = json.loads((folder / "config.json").read_text())
        tensors = read_safetensors(folder / "model.safetensors")
        self.w = {name.removeprefix("bert.").removeprefix("roberta."): t for name, t in tensors.items()}
        self.n_head = self.config["num_attention_heads"]
        self.eps = self.config["layer_norm_eps"]
        is_roberta = "oberta" in self.config["architectures"][0]
        self.first_position = self.config["pad_token_id"] + 1 if is_roberta else 0

    def linear(self, x, name):
        return x @ self.w[name + ".weight"].T + self.w[name + ".bias"]

    def norm(self, x, name):
        mean = x.mean(-1, keepdims=True)
        var = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + self.eps) * self.w[name + ".weight"] + self.w[name + ".bias"]

    def attention(self, x, p):
        T, D = x.shape
        q, k, v = (self.linear(x, p + f"attention.self.{n}").reshape(T, self.n_head, -1).transpose(1, 0, 2)
                   for n in ("query", "key", "value"))
        s = q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(D // self.n_head))
        s = np.exp(s - s.max(-1, keepdims=True))
        mixed = (s / s.sum(-1, keepdims=True)) @ v
        return self.linear(mixed.transpose(1, 0, 2).reshape(T, D), p + "attention.output.dense")

    def hidden(self, ids, segments=None):
        ids = np.asarray(ids)
        segments = np.zeros_like(ids) if segments is None else np.asarray(segments)
        first = self.first_position
        x = (self.w["embeddings.word_embeddings.weight"][ids] +
             self.w["embeddings.position_embeddings.weight"][first:first + len(ids)] +
             self.w["embeddings.token_type_embeddings.weight"][segments])
        x = self.norm(x, "embeddings.LayerNorm")
        for layer in range(self.config["num_hidden_layers"]):
            p = f"encoder.layer.{layer}."
            x = self.norm(x + self.attention(x, p), p + "attention.output.LayerNorm")
            h = self.linear(x, p + "intermediate.dense")
            h = h * np.float32(0.5) * (1 + erf(h / np.float32(np.sqrt(2))))
            x = self.norm(x + self.linear(h, p + "output.dense"), p + "output.LayerNorm")
        return x

    def embed(self, ids):
        y = self.hidden(ids).mean(0)
        return y / np.linalg.norm(y)

    def scores(self, ids, segments):
        x = self.hidden(ids, segments)[0]
        if "classifier.dense.weight" in self.w:
            return self.linear(np.tanh(self.linear(x, "classifier.dense")), "classifier.out_proj")
        return self.linear(np.tanh(self.linear(x, "pooler.dense")), "classifier")
