"""Small Llama checkpoints whose matrices are quantised the ways of AWQ, GPTQ and FP8, as Hugging Face folders; and the same
model with its matrices dequantised to F32, by formulas written from the formats' definitions. Random, so nothing is trained.

usage: make_quantised.py NAME FOLDER DEQUANTISED_FOLDER      NAME: see FORMS"""
import json
import pathlib
import sys

import numpy as np
from make_encoder import write_safetensors

D, FF, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 256, 384, 2, 4, 2, 64
LETTERS = "abcdefghijklmnopqrst"  # the whole vocabulary, so that 20 log probabilities are all there are
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column that nibble i of a word holds

E4M3 = np.array([(-1) ** (c >> 7) * ((c & 7) / 8 * 2.0 ** -6 if (c >> 3 & 15) == 0 else (1 + (c & 7) / 8) * 2.0 ** ((c >> 3 & 15) - 7))
                 for c in range(256)], np.float32)


def pack(codes, bits, axis):
    """uint32 words of 32 / bits codes along an axis, the first in the lowest bits."""
    codes = np.moveaxis(codes, axis, -1).astype(np.uint64)
    codes = codes.reshape(*codes.shape[:-1], -1, 32 // bits)
    words = sum(codes[..., i] << np.uint64(bits * i) for i in range(32 // bits))
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).astype(np.uint32)


def array(dtype, x, kind):
    return (dtype, x.shape, np.ascontiguousarray(x.astype(kind)).tobytes())


def bf16_bits(x):
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def random_words(r, n, k, bits, group):
    """codes [K][N], zeros [K/G][N], scales [K/G][N] in F16; and the matrix [N][K] that they stand for."""
    group = k if group < 0 else group
    codes = r.integers(0, 2 ** bits, (k, n))
    # stored less one must fit in the bits; 2^bits as a zero point is the wrap that GPTQ's first form cannot say in 8 bits
    zeros = r.integers(1, 2 ** bits, (k // group, n))
    scales = (r.uniform(0.5, 1.5, (k // group, n)) / (np.sqrt(k) * 2 ** (bits - 2))).astype(np.float16)
    spread = np.repeat(np.arange(k // group), group)
    w = (codes - zeros[spread]).astype(np.float32) * scales.astype(np.float32)[spread]
    return codes, zeros, scales, np.ascontiguousarray(w.T)


def awq(r, n, k, group):
    codes, zeros, scales, w = random_words(r, n, k, 4, group)

    def words(x):
        return pack(x.reshape(len(x), -1, 8)[:, :, AWQ_ORDER].reshape(len(x), -1), 4, 1)
    return {"qweight": array("I32", words(codes), np.uint32), "qzeros": array("I32", words(zeros), np.uint32),
            "scales": array("F16", scales, np.float16)}, w


def gptq(r, n, k, group, bits, offset, dtype="F16"):
    codes, zeros, scales, w = random_words(r, n, k, bits, group)
    spread = np.arange(k) // (k if group < 0 else group)
    if dtype == "F32":  # scales that no half holds
        wide = scales.astype(np.float32) * np.float32(1.0001)
        w = np.ascontiguousarray(((codes - zeros[spread]).astype(np.float32) * wide[spread]).T)
        stored = array("F32", wide, np.float32)
    else:
        stored = array("F16", scales, np.float16)
    return {"qweight": array("I32", pack(codes, bits, 0), np.uint32), "qzeros": array("I32", pack(zeros - offset, bits, 1), np.uint32),
            "scales": stored, "g_idx": array("I32", spread, np.int32)}, w


def fp8(r, n, k, kind, name="weight_scale"):
    codes = r.integers(0, 256, (n, k)).astype(np.uint8)
    codes[(codes & 0x7f) >= 0x78] = 0x40  # no NaN, nothing so large that it drowns the rest
    shape = {"tensor": (1, 1), "scalar": (1, 1), "channel": (n, 1), "block": (-(-n // 128), -(-k // 128))}[kind]
    scales = (r.uniform(0.5, 1.5, shape) / (60 * np.sqrt(k))).astype(np.float32)
    is_bf16 = kind == "channel"
    if is_bf16:
        scales = (bf16_bits(scales).astype(np.uint32) << 16).view(np.float32)
    rows = np.arange(n) * shape[0] // n if kind != "block" else np.arange(n) // 128
    columns = np.zeros(k, int) if kind != "block" else np.arange(k) // 128
    w = E4M3[codes] * scales[rows][:, columns]
    stored = scales.reshape(()) if kind == "scalar" else scales.reshape(1) if kind == "tensor" else scales
    arrays = {"weight": array("F8_E4M3", codes, np.uint8),
              name: array("BF16", bf16_bits(stored), np.uint16) if is_bf16 else array("F32", stored, np.float32)}
    if kind == "tensor":
        arrays["input_scale"] = array("F32", np.ones(1), np.float32)
    return arrays, w


def compressed(strategy):
    return {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"], "config_groups": {"group_0": {
        "targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": strategy, "symmetric": True}}}}


FORMS = {
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}, lambda *a: awq(*a, 128)),
    "awq-row": ({"quant_method": "awq", "w_bit": 4, "q_group_size": -1, "version": "GEMM"}, lambda *a: awq(*a, -1)),
    "awq-32": ({"quant_method": "awq", "bits": 4, "group_size": 32}, lambda *a: awq(*a, 32)),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}, lambda *a: gptq(*a, 128, 4, 1)),
    "gptq-v2": ({"quant_method": "gptq", "bits": 4, "group_size": 64, "checkpoint_format": "gptq_v2"}, lambda *a: gptq(*a, 64, 4, 0)),
    "gptq-8": ({"quant_method": "gptq", "bits": 8, "group_size": 128}, lambda *a: gptq(*a, 128, 8, 1)),
    "gptq-f32": ({"quant_method": "gptq", "bits": 4, "group_size": 32}, lambda *a: gptq(*a, 32, 4, 1, "F32")),
    "fp8-block": ({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
                  lambda *a: fp8(*a, "block", "weight_scale_inv")),
    "fp8-tensor": ({"quant_method": "fp8", "activation_scheme": "static"}, lambda *a: fp8(*a, "tensor")),
    "fp8-scalar": (compressed("tensor"), lambda *a: fp8(*a, "scalar")),
    "fp8-channel": (compressed("channel"), lambda *a: fp8(*a, "channel")),
}


def tokenizer():
    return {"version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate(LETTERS)}, "merges": []}}


def write_folder(folder, config, tensors):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))


def make(form, folder, dequantised, seed=7):
    r = np.random.default_rng(seed)
    stated, quantise = FORMS[form]
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": D, "intermediate_size": FF, "num_hidden_layers": LAYERS,
              "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "max_position_embeddings": 64,
              "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "vocab_size": len(LETTERS), "tie_word_embeddings": False}
    packed, plain = {}, {}
    for name, shape in (("model.embed_tokens", (len(LETTERS), D)), ("lm_head", (len(LETTERS), D))):
        packed[name + ".weight"] = plain[name + ".weight"] = r.normal(0, 1 / np.sqrt(D) if name == "lm_head" else 1, shape).astype(np.float32)
    packed["model.norm.weight"] = plain["model.norm.weight"] = np.ones(D, np.float32)
    for layer in range(LAYERS):
        p = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            packed[p + norm + ".weight"] = plain[p + norm + ".weight"] = r.uniform(0.5, 1.5, D).astype(np.float32)
        for name, n, k in (("self_attn.q_proj", HEADS * HEAD_DIM, D), ("self_attn.k_proj", KV_HEADS * HEAD_DIM, D),
                           ("self_attn.v_proj", KV_HEADS * HEAD_DIM, D), ("self_attn.o_proj", D, HEADS * HEAD_DIM),
                           ("mlp.gate_proj", FF, D), ("mlp.up_proj", FF, D), ("mlp.down_proj", D, FF)):
            arrays, plain[p + name + ".weight"] = quantise(r, n, k)
            packed |= {p + name + "." + suffix: a for suffix, a in arrays.items()}
    write_folder(folder, config | {"quantization_config": stated}, packed)
    write_folder(dequantised, config, plain)
    return config, plain


def log_probabilities(config, w, ids):
    """[n_tokens][n_vocab] by the definition of the architecture, in float64."""
    x = w["model.embed_tokens.weight"].astype(np.float64)[ids]
    T, angle = len(ids), np.arange(len(ids))[:, None] * 10000.0 ** (-2.0 * np.arange(HEAD_DIM // 2) / HEAD_DIM)

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config["rms_norm_eps"]) * w[name + ".weight"]

    def heads(x, name):
        return (x @ w[name + ".weight"].T.astype(np.float64)).reshape(T, -1, HEAD_DIM)

    def rope(x):
        a, b = x[..., :HEAD_DIM // 2], x[..., HEAD_DIM // 2:]
        c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
        return np.concatenate([a * c - b * s, a * s + b * c], -1)
    beta, period = config.get("temperature", (0, 1))  # Ministral's queries by position
    warmth = 1 + beta * np.log(1 + np.arange(T) // period)
    for layer in range(LAYERS):
        p = f"model.layers.{layer}."
        h = norm(x, p + "input_layernorm")
        q, k, v = rope(heads(h, p + "self_attn.q_proj")), rope(heads(h, p + "self_attn.k_proj")), heads(h, p + "self_attn.v_proj")
        q = q * warmth[:, None, None]
        k, v = np.repeat(k, HEADS // KV_HEADS, 1), np.repeat(v, HEADS // KV_HEADS, 1)
        s = np.einsum("thd,shd->hts", q, k) / np.sqrt(HEAD_DIM) + np.where(np.tri(T) > 0, 0, -np.inf)
        s = np.exp(s - s.max(-1, keepdims=True))
        o = np.einsum("hts,shd->thd", s / s.sum(-1, keepdims=True), v).reshape(T, -1)
        x = x + o @ w[p + "self_attn.o_proj.weight"].T
        h = norm(x, p + "post_attention_layernorm")
        gate = h @ w[p + "mlp.gate_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[p + "mlp.up_proj.weight"].T)) @ w[p + "mlp.down_proj.weight"].T
    z = norm(x, "model.norm") @ w["lm_head.weight"].T
    return z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)) - z.max(-1, keepdims=True)


if __name__ == "__main__":
    make(*sys.argv[1:4])
