#!/usr/bin/env python3
"""Write tests/data/dtypes: blocks of every GGUF element type and what they convert to.

The oracle is `gguf.quants.dequantize`. NAME.bin holds u32 n_blocks, the blocks, and the floats;
the blocks are chosen by hand: ordinary, zero, all ones, denormal, infinite and NaN scales.
random.txt has a line "NAME n_blocks sha256" for blocks of pseudo-random bytes (SplitMix64 from
seed 1, eight bytes a step, little-endian). NaNs are written as 0x7fc00000.
"""
import hashlib
import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type, quants

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "data/dtypes"
N_RANDOM = 500

# Where the half-precision scales of a block are.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82],
    "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ2_XXS": [0], "IQ2_XS": [0],
    "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0], "IQ1_S": [0], "IQ1_M": [], "IQ4_NL": [0],
    "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64], "MXFP4": [], "NVFP4": [], "Q1_0": [0],
    "Q2_0": [0], "F16": [], "BF16": [],
}
SCALES = [0x2e66, 0xa123, 0x0000, 0x8000, 0x0001, 0x83ff, 0x7bff, 0x7c00, 0xfe00, 0x7c01]


def splitmix_bytes(n):
    mask = (1 << 64) - 1
    x, words = 1, []
    for _ in range((n + 7) // 8):
        x = (x + 0x9E3779B97F4A7C15) & mask
        z = x
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        words.append(z ^ (z >> 31))
    return np.array(words, dtype="<u8").view(np.uint8)[:n].copy()


def convert(kind, blocks):
    with np.errstate(all="ignore"):
        out = quants.dequantize(blocks, kind).astype(np.float32).reshape(-1)
    bits = out.view(np.uint32).copy()
    bits[np.isnan(out)] = 0x7FC00000
    return bits.astype("<u4")


def chosen_blocks(name, size, rng):
    rows = [np.zeros(size, np.uint8), np.full(size, 255, np.uint8)]
    for scale in SCALES:
        row = rng.integers(0, 256, size, dtype=np.uint8)
        for offset in HALVES[name]:
            row[offset:offset + 2] = np.array([scale], "<u2").view(np.uint8)
        rows.append(row)
    return np.stack(rows)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20240501)
    lines = []
    for name in HALVES:
        kind = getattr(Type, name, None)
        if kind is None or kind not in quants._type_traits and name != "F16":
            print(f"{name}: unknown to this package, left out", file=sys.stderr)
            continue
        size = GGML_QUANT_SIZES[kind][1]
        blocks = chosen_blocks(name, size, rng)
        if name in ("F16", "BF16"):  # every number there is
            blocks = np.arange(65536, dtype="<u2").view(np.uint8).reshape(-1, 2)
        if name not in ("F16", "BF16"):
            head = np.array([len(blocks)], "<u4").tobytes()
            body = blocks.tobytes() + convert(kind, blocks).tobytes()
            (FOLDER / f"{name}.bin").write_bytes(head + body)
            blocks = splitmix_bytes(N_RANDOM * size).reshape(N_RANDOM, size)
        source = blocks.view(np.float16) if name == "F16" else blocks
        digest = hashlib.sha256(convert(kind, source).tobytes()).hexdigest()
        lines.append(f"{name} {len(blocks)} {digest}\n")
    (FOLDER / "random.txt").write_text("".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
