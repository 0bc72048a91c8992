"""An independent forward pass in numpy, written from the architectures' definitions.

It shares nothing with the server but the GGUF file: every architecture that serverd loads is
computed here in float64 from the exactly dequantised weights, all positions at once, without
a KV cache. Suites compare the server's answers with it.

Usage: forward_oracle.py MODEL.gguf TOKENS.json      prints {"nll", "top"} as JSON
"""
import json
import math
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

NORM_ROPE = {"llama", "mistral3"}  # pairs (2i, 2i+1); all others rotate halves


class Oracle:
    def __init__(self, path, context=None):
        reader = GGUFReader(path)
        self.fields = reader.fields
        self.tensors = {t.name: t for t in reader.tensors}
        self.weights = {}
        self.arch = self.field("general.architecture")
        key = lambda name, default=None: self.field(f"{self.arch}.{name}", default)
        self.n_layer = key("block_count")
        self.n_embd = key("embedding_length")
        self.n_head = key("attention.head_count")
        self.n_kv = key("attention.head_count_kv", self.n_head)
        self.head_dim = key("attention.key_length", self.n_embd // self.n_head)
        self.eps = key("attention.layer_norm_rms_epsilon", key("attention.layer_norm_epsilon", 1e-5))
        self.base = key("rope.freq_base", 10000.0)
        self.base_local = key("rope.freq_base_swa", 10000.0)
        self.n_rot = key("rope.dimension_count", self.head_dim)
        self.window = key("attention.sliding_window", 0)
        self.pattern = key("attention.sliding_window_pattern")
        self.attn_cap = key("attn_logit_softcapping", 0.0)
        self.final_cap = key("final_logit_softcapping", 0.0)
        self.scaling = key("rope.scaling.type", "linear")
        self.scale_factor = key("rope.scaling.factor", key("rope.scale_linear", 1.0)) or 1.0
        self.trained = key("context_length")
        self.original = key("rope.scaling.original_context_length", self.trained)
        self.attn_factor = key("rope.scaling.attn_factor", 1.0)
        self.beta_fast = key("rope.scaling.yarn_beta_fast", 32.0)
        self.beta_slow = key("rope.scaling.yarn_beta_slow", 1.0)
        self.temperature = key("attention.temperature_scale", 0.0)
        self.attention_scale = key("attention.scale", 0.0)
        self.pooling = key("pooling_type", 0)
        self.context = context or self.trained

    def field(self, name, default=None):
        return self.fields[name].contents() if name in self.fields else default

    def w(self, name):
        if name not in self.tensors:
            return None
        if name not in self.weights:
            t = self.tensors[name]
            x = dequantize(t.data, t.tensor_type).astype(np.float64)
            self.weights[name] = x.reshape([int(n) for n in t.shape[::-1]])
        return self.weights[name]

    # ---- pieces ------------------------------------------------------------------------

    def linear(self, x, name):
        y = x @ self.w(name + ".weight").T
        bias = self.w(name + ".bias")
        return y if bias is None else y + bias

    def rms(self, x, name):
        w = self.w(name + ".weight")
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * w

    def layer_norm(self, x, name):
        mean = x.mean(-1, keepdims=True)
        var = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + self.eps) * self.w(name + ".weight") + self.w(name + ".bias")

    def is_local(self, layer):
        if self.arch not in ("gemma2", "gemma3") or not self.window:
            return False
        if isinstance(self.pattern, (list, np.ndarray)):
            return bool(self.pattern[layer])
        period = self.pattern or (2 if self.arch == "gemma2" else 6)
        return layer % period != period - 1

    def frequencies(self, layer):
        """Angles per position of each pair, and the factor on cos and sin."""
        i = np.arange(self.n_rot // 2)
        if self.arch == "gemma3" and self.is_local(layer):
            return self.base_local ** (-2.0 * i / self.n_rot), 1.0
        inv = self.base ** (-2.0 * i / self.n_rot)
        factors = self.w("rope_freqs.weight")
        if factors is not None:
            return inv / factors, 1.0
        long, short = self.w("rope_factors_long.weight"), self.w("rope_factors_short.weight")
        if long is not None:
            return inv / (long if self.context > self.original else short), self.attn_factor
        if self.scaling == "linear":
            return inv / self.scale_factor, 1.0
        if self.scaling == "yarn":
            dim = lambda beta: self.n_rot * math.log(self.original / (2 * math.pi * beta)) / (2 * math.log(self.base))
            lo, hi = max(0.0, math.floor(dim(self.beta_fast))), min(self.n_rot - 1.0, math.ceil(dim(self.beta_slow)))
            r = 1 - np.clip((i - lo) / max(0.001, hi - lo), 0, 1)
            mscale = (1 + 0.1 * math.log(self.scale_factor)) * self.attn_factor
            return inv / self.scale_factor * (1 - r) + inv * r, mscale
        return inv, 1.0

    def rope(self, x, layer):
        inv, mscale = self.frequencies(layer)
        angle = np.arange(x.shape[0])[:, None] * inv[None]
        c, s = (np.cos(angle) * mscale)[:, None], (np.sin(angle) * mscale)[:, None]
        y = x.copy()
        half = self.n_rot // 2
        a, b = (slice(0, self.n_rot, 2), slice(1, self.n_rot, 2)) if self.arch in NORM_ROPE else (slice(0, half), slice(half, self.n_rot))
        y[..., a], y[..., b] = x[..., a] * c - x[..., b] * s, x[..., a] * s + x[..., b] * c
        return y

    def score_scale(self):
        if self.arch == "gemma3" and self.n_layer == 62 or self.arch == "gemma2" and self.n_layer == 46:
            return 1 / math.sqrt(self.n_embd / self.n_head)
        return self.attention_scale or 1 / math.sqrt(self.head_dim)

    def attention(self, h, layer, causal=True):
        p, T, D = f"blk.{layer}.", len(h), self.head_dim
        if p + "attn_qkv.weight" in self.tensors:
            qkv = self.linear(h, p + "attn_qkv")
            q, k, v = np.split(qkv, [self.n_head * D, (self.n_head + self.n_kv) * D], axis=-1)
        else:
            q, k, v = (self.linear(h, p + n) for n in ("attn_q", "attn_k", "attn_v"))
        q, k, v = q.reshape(T, -1, D), k.reshape(T, -1, D), v.reshape(T, -1, D)
        if p + "attn_q_norm.weight" in self.tensors:
            q, k = self.rms(q, p + "attn_q_norm"), self.rms(k, p + "attn_k_norm")
        if causal:
            q, k = self.rope(q, layer), self.rope(k, layer)
        if self.temperature:
            pos = np.arange(T)
            q = q * (1 + self.temperature * np.log(1 + np.floor(pos / self.original)))[:, None, None]
        group = self.n_head // self.n_kv
        k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
        s = np.einsum("thd,shd->hts", q, k) * self.score_scale()
        if self.attn_cap:
            s = self.attn_cap * np.tanh(s / self.attn_cap)
        if causal:
            distance = np.arange(T)[:, None] - np.arange(T)[None]
            hidden = distance < 0
            if self.is_local(layer):
                hidden |= distance >= self.window
            s = np.where(hidden[None], -np.inf, s)
        s = np.exp(s - s.max(-1, keepdims=True))
        o = np.einsum("hts,shd->thd", s / s.sum(-1, keepdims=True), v).reshape(T, -1)
        return self.linear(o, p + "attn_output")

    def ffn(self, h, layer):
        p = f"blk.{layer}."
        if p + "ffn_gate.weight" in self.tensors:
            gate, up = self.linear(h, p + "ffn_gate"), self.linear(h, p + "ffn_up")
        else:
            gate, up = np.split(self.linear(h, p + "ffn_up"), 2, axis=-1)
        if self.arch.startswith("gemma"):
            gate = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate ** 3)))
        else:
            gate = gate / (1 + np.exp(-gate))
        return self.linear(gate * up, p + "ffn_down")

    # ---- models ------------------------------------------------------------------------

    def logits(self, ids):
        """[n_tokens, n_vocab] of a decoder model."""
        gemma = self.arch.startswith("gemma")
        x = self.w("token_embd.weight")[np.asarray(ids)]
        if gemma:
            x = x * math.sqrt(self.n_embd)
        for layer in range(self.n_layer):
            p = f"blk.{layer}."
            a = self.attention(self.rms(x, p + "attn_norm"), layer)
            x = x + (self.rms(a, p + "post_attention_norm") if gemma else a)
            f = self.ffn(self.rms(x, p + "ffn_norm"), layer)
            x = x + (self.rms(f, p + "post_ffw_norm") if gemma else f)
        x = self.rms(x, "output_norm")
        head = self.w("output.weight")
        z = x @ (self.w("token_embd.weight") if head is None else head).T
        return self.final_cap * np.tanh(z / self.final_cap) if self.final_cap else z

    def embedding(self, ids):
        """[n_embd], normalised, of an encoder model."""
        ids = np.asarray(ids)
        x = self.w("token_embd.weight")[ids] + self.w("position_embd.weight")[: len(ids)]
        if "token_types.weight" in self.tensors:
            x = x + self.w("token_types.weight").reshape(-1, self.n_embd)[0]
        x = self.layer_norm(x, "token_embd_norm")
        erf = np.vectorize(math.erf)
        for layer in range(self.n_layer):
            p = f"blk.{layer}."
            x = self.layer_norm(x + self.attention(x, layer, causal=False), p + "attn_output_norm")
            u = self.linear(x, p + "ffn_up")
            f = self.linear(0.5 * u * (1 + erf(u / math.sqrt(2))), p + "ffn_down")
            x = self.layer_norm(x + f, p + "layer_output_norm")
        pooled = {2: x[0], 3: x[-1]}.get(self.pooling, x.mean(0))
        return pooled / np.linalg.norm(pooled)


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


if __name__ == "__main__":
    with open(sys.argv[2]) as f:
        ids = json.load(f)
    lp = log_softmax(Oracle(sys.argv[1]).logits(ids))
    nll = -lp[np.arange(len(ids) - 1), ids[1:]].mean()
    print(json.dumps({"nll": nll, "top": np.argsort(-lp, -1)[:, :20].tolist()}))
