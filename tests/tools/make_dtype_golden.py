#!/usr/bin/env python3
"""Write tests/data/dtypes: blocks of every GGUF element type and what they convert to.

The oracle is `gguf.quants.dequantize`, for our own types the formulas below. NAME.bin holds u32 n_blocks, the blocks, and the floats;
the blocks are chosen by hand: ordinary, zero, all ones, denormal, infinite and NaN scales.
random.txt has a line "NAME n_blocks sha256" for blocks of pseudo-random bytes (SplitMix64 from
seed 1, eight bytes a step, little-endian). NaNs are written as 0x7fc00000.
"""
import hashlib
import pathlib
import sys

import numpy as np
try:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type, quants
except ImportError:  # --own does without
    quants = None

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


# ---- our own formats: NAME_gG and NAME_gG_f32, straight from docs/internals/block-formats.md ------

NF4 = [-1, -.696192801, -.525073051, -.394917488, -.284441382, -.18477343, -.0910500363, 0, .0795802996,
       .160930201, .246112302, .337915242, .440709829, .562617004, .722956836, 1]
OWN = {"i8s": "", "i8a": "z", "i4s": "", "i4a": "m", "i4z": "z", "nf4": "", "f8": ""}


def e4m3(code):
    sign, exponent, fraction = code >> 7, code >> 3 & 15, code & 7
    value = np.where(exponent == 0, fraction / 8 * 2.0 ** -6, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    return np.where(sign == 1, -value, value).astype(np.float32)


def own_types():
    for name, extra in OWN.items():
        for is_f32 in (False, True):
            for group in (32, 64, 128):
                if name == "f8" and is_f32:
                    continue
                number = "<f4" if is_f32 or name == "f8" else "<f2"
                yield f"{name}_g{group}" + ("_f32" if is_f32 else ""), name, extra, group, np.dtype(number)


def own_size(name, extra, group, number):
    head = number.itemsize * (2 if extra == "m" else 1) + (extra == "z")
    return head + group * (4 if name in ("i4s", "i4a", "i4z", "nf4") else 8) // 8


def convert_own(name, extra, group, number, blocks):
    at = number.itemsize
    scale = blocks[:, :at].copy().view(number).astype(np.float32)
    minimum, zero = np.float32(0), 8 if name == "i4s" else 0
    if extra == "m":
        minimum = blocks[:, at:2 * at].copy().view(number).astype(np.float32)
        at *= 2
    elif extra == "z":
        zero = blocks[:, at:at + 1].astype(np.int32) & (127 if name == "i4z" else 255)
        at += 1
    codes = blocks[:, at:]
    if name in ("i4s", "i4a", "i4z", "nf4"):
        codes = np.stack([codes & 15, codes >> 4], axis=2).reshape(len(blocks), group)
    with np.errstate(all="ignore"):
        if name == "f8":
            out = scale * e4m3(codes.astype(np.int32))
        elif name == "nf4":
            out = scale * np.array(NF4, np.float32)[codes]
        elif name == "i8s":
            out = scale * codes.view(np.int8).astype(np.float32)
        elif extra == "m":
            out = scale * codes.astype(np.float32) + minimum
        else:
            out = scale * (codes.astype(np.int32) - zero).astype(np.float32)
    bits = out.astype(np.float32).view(np.uint32).copy()
    bits[np.isnan(out)] = 0x7FC00000
    return bits.astype("<u4")


def own_lines():
    for name, *kind in own_types():
        size = own_size(*kind)
        blocks = splitmix_bytes(N_RANDOM * size).reshape(N_RANDOM, size)
        yield f"{name} {N_RANDOM} {hashlib.sha256(convert_own(*kind, blocks).tobytes()).hexdigest()}\n"


def main():
    if "--own" in sys.argv:  # our own types alone: their lines replace those that are there
        path = FOLDER / "random.txt"
        lines = [line for line in path.read_text().splitlines(True) if not line.startswith(tuple(OWN))]
        path.write_text("".join(lines) + "".join(own_lines()))
        return 0
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
    lines += own_lines()
    (FOLDER / "random.txt").write_text("".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
