"""Random low-rank adapters for a GGUF model, as a GGUF file and as a PEFT folder with the same numbers.

It shares nothing with the server but the files: names, the order of rows, and what an adapter adds are
written down here once more.

Usage: make_adapter.py MODEL.gguf OUT_NAME [RANK [SEED]]      writes OUT_NAME.gguf and OUT_NAME/
"""
import json
import pathlib
import struct
import sys

import numpy as np
from gguf import GGUFReader, GGUFWriter

NORM_ROPE = {"llama", "mistral3"}  # their GGUF files have Q and K permuted
MODULES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


class Adapter:
    """Rows of B are those of the GGUF model. `sites`: tensor -> (A, B, scale)."""

    def __init__(self, model, rank=4, seed=0, alpha=8.0, size=0.05, targets=tuple(MODULES), head=True):
        reader = GGUFReader(model)
        field = lambda name: reader.fields[name].contents()
        self.arch, self.alpha, self.rank = field("general.architecture"), alpha, rank
        self.n_head = field(f"{self.arch}.attention.head_count")
        self.n_kv = reader.fields.get(f"{self.arch}.attention.head_count_kv")
        self.n_kv = self.n_kv.contents() if self.n_kv else self.n_head
        random = np.random.default_rng(seed)
        self.sites = {}
        for t in reader.tensors:
            part = t.name.split(".")
            is_target = len(part) == 4 and part[2] in targets and part[3] == "weight"
            if not is_target and not (head and t.name == "output.weight"):
                continue
            n_in, n_out = int(t.shape[0]), int(t.shape[1])
            a = random.standard_normal((rank, n_in)).astype(np.float32) * np.float32(n_in ** -0.5)
            b = random.standard_normal((n_out, rank)).astype(np.float32) * np.float32(size)
            self.sites[t.name] = (a, b, alpha / rank)

    def deltas(self, factor=1.0):
        return {name: factor * scale * (b.astype(np.float64) @ a.astype(np.float64))
                for name, (a, b, scale) in self.sites.items()}

    def write_gguf(self, path):
        writer = GGUFWriter(str(path), self.arch)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", self.alpha)
        for name, (a, b, _) in self.sites.items():
            writer.add_tensor(name + ".lora_a", a)
            writer.add_tensor(name + ".lora_b", b)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def module(self, name):
        part = name.split(".")
        if part[0] == "output":
            return "lm_head"
        module = "mlp.gate_up_proj" if self.arch == "phi3" and part[2] == "ffn_up" else MODULES[part[2]]
        return f"model.layers.{part[1]}.{module}"

    def rows(self, name, b):
        """Rows of B as a PEFT folder has them."""
        part = name.split(".")
        heads = {"attn_q": self.n_head, "attn_k": self.n_kv}.get(part[2] if len(part) > 2 else "")
        if self.arch not in NORM_ROPE or not heads:
            return b
        return b.reshape(heads, -1, 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape)

    def peft_tensors(self):
        out = {}
        for name, (a, b, _) in self.sites.items():
            out[f"base_model.model.{self.module(name)}.lora_A.weight"] = a
            out[f"base_model.model.{self.module(name)}.lora_B.weight"] = self.rows(name, b)
        return out

    def write_peft(self, folder, **config):
        folder = pathlib.Path(folder)
        folder.mkdir(exist_ok=True)
        members = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": self.rank, "lora_alpha": self.alpha,
                   "bias": "none", "target_modules": ["q_proj"], "lora_dropout": 0.1,
                   "fan_in_fan_out": False, "modules_to_save": None, "inference_mode": True, **config}
        (folder / "adapter_config.json").write_text(json.dumps(members))
        write_safetensors(folder / "adapter_model.safetensors", self.peft_tensors())
        return folder


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, x in sorted(tensors.items()):
        raw = np.ascontiguousarray(x).tobytes()
        header[name] = {"dtype": {"float32": "F32", "float16": "F16"}[str(x.dtype)],
                        "shape": list(x.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


if __name__ == "__main__":
    rank, seed = (int(x) for x in (sys.argv[3:] + ["16", "0"][len(sys.argv[3:]):]))
    made = Adapter(sys.argv[1], rank, seed, head=False)
    made.write_gguf(sys.argv[2] + ".gguf")
    made.write_peft(sys.argv[2])
