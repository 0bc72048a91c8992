#!/usr/bin/env python3
"""Write tests/data/quantise/min_max.txt: what quantising by extremes makes of groups of every kind.

A line is "FORMAT GROUP IS_F32 n sha256": the hash of n blocks, group i as test_grid.c's fill_group
has it (ordinary, zero, constant, tiny, huge, on one side of zero, with outliers). All arithmetic is
f32, as in docs/internals/quantise.md.
"""
import hashlib
import pathlib

import numpy as np

PATH = pathlib.Path(__file__).resolve().parents[1] / "data/quantise/min_max.txt"
N = 64
f32 = np.float32
NF4 = np.array([-1, -.696192801, -.525073051, -.394917488, -.284441382, -.18477343, -.0910500363, 0, .0795802996,
                .160930201, .246112302, .337915242, .440709829, .562617004, .722956836, 1], f32)
E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6], f32)


def mix(x):
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def fill_group(n, index):
    x = np.array([f32((mix(index * 1000 + i) >> 40) * 2.0 ** -23) - f32(1) for i in range(n)], f32)
    kind = index % 8
    if kind == 1:
        x[:] = 0
    elif kind == 2:
        x[:] = x[0]
    elif kind == 3:
        x *= f32(2.0 ** -20)
    elif kind == 4:
        x *= f32(2.0 ** 14)
    elif kind == 5:
        x = x * f32(.25) + f32(3)
    elif kind == 6:
        x = x * f32(.25) - f32(3)
    elif kind == 7:
        x = x * np.where(np.arange(n) % 31 == 5, f32(16), f32(.5)).astype(f32)
    return x


def as_number(x, is_f32):
    if abs(x) < 2.0 ** -100:
        x = f32(0)
    return f32(x) if is_f32 else f32(np.float16(x))


def number_bytes(x, is_f32):
    return np.array([x], "<f4" if is_f32 else "<f2").tobytes()


def nearest(t, values):
    """Index of the nearest of ascending values; in the middle the lower one."""
    middles = ((values[:-1] + values[1:]) * f32(.5)).astype(f32)
    return (t[:, None] > middles[None, :]).sum(axis=1)


def e4m3(t):
    t = np.clip(t, f32(-448), f32(448))
    bits = t.view(np.uint32)
    a = bits & np.uint32(0x7FFFFFFF)
    magnitude = a.view(f32)
    rounded = (a + np.uint32(0x7FFFF) + (a >> np.uint32(20) & np.uint32(1))) >> np.uint32(20)
    code = np.where(magnitude < f32(2.0 ** -6), np.rint(magnitude * f32(512)), rounded.astype(np.int64) - (120 << 3))
    return (code + np.where(bits >> 31, 128, 0)).astype(np.uint8)


def nibbles(codes):
    return (codes[0::2] | codes[1::2] << 4).astype(np.uint8).tobytes()


def block(name, x, is_f32):
    low, high = x.min(), x.max()
    most = max(abs(low), abs(high))
    if name == "mxfp4":
        exponent = max(int(np.floor(np.log2(float(most)))) - 2, -126) if most > 0 else -126
        inverse = f32(1) / f32(2.0 ** exponent)
        order = np.concatenate([-E2M1[:0:-1], E2M1])
        codes = np.concatenate([np.arange(15, 8, -1), np.arange(0, 8)]).astype(np.uint8)
        q = codes[nearest((x * inverse).astype(f32), order.astype(f32))]
        return bytes([exponent + 127]) + (q[:16] | q[16:] << 4).astype(np.uint8).tobytes()
    if name == "f8":
        s = f32(most / f32(448))
        s = s if abs(s) >= 2.0 ** -100 else f32(0)
        inverse = f32(1) / s if s else f32(0)
        return number_bytes(s, True) + e4m3((x * inverse).astype(f32)).tobytes()
    zero, top = f32(0), f32(15)
    if name == "i8s":
        s, zero, least, top = as_number(most / f32(127), is_f32), f32(128), f32(1), f32(255)
    elif name == "i4s":
        s, zero, least = as_number((low if abs(low) > abs(high) else high) / f32(-8), is_f32), f32(8), f32(0)
    elif name == "i4a":
        s, zero, least = as_number((high - low) / f32(15), is_f32), as_number(low, is_f32), f32(0)
    elif name == "nf4":
        s = as_number(most, is_f32)
    else:
        least, top = f32(0), f32(255 if name == "i8a" else 15)
        s = as_number((max(high, f32(0)) - min(low, f32(0))) / top, is_f32)
        if s:
            zero = f32(np.clip(np.rint(-min(low, f32(0)) / s), 0, top))
    inverse = f32(1) / s if s else f32(0)
    head = number_bytes(s, is_f32)
    if name == "nf4":
        return head + nibbles(nearest((x * inverse).astype(f32), NF4).astype(np.uint8))
    begin = -zero * inverse if name == "i4a" else zero
    t = (x * inverse).astype(f32) + begin
    q = np.rint(np.clip(t, least, top)).astype(np.int64)
    if name == "i4a":
        head += number_bytes(zero, is_f32)
    elif name in ("i8a", "i4z"):
        head += bytes([int(zero)])
    if name == "i8s":
        return head + (q - 128).astype(np.int8).tobytes()
    if name == "i8a":
        return head + q.astype(np.uint8).tobytes()
    return head + nibbles(q.astype(np.uint8))


def main():
    lines = []
    for name in ("i8s", "i8a", "i4s", "i4a", "i4z", "nf4", "f8", "mxfp4"):
        for is_f32 in (0, 1):
            for group in (32, 64, 128):
                if (name == "f8" and is_f32) or (name == "mxfp4" and (is_f32 or group != 32)):
                    continue
                with np.errstate(all="ignore"):
                    body = b"".join(block(name, fill_group(group, i), bool(is_f32)) for i in range(N))
                lines.append(f"{name} {group} {is_f32} {N} {hashlib.sha256(body).hexdigest()}\n")
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text("".join(lines))


if __name__ == "__main__":
    main()
