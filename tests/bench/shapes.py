#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tensor sizes of known models, laid out as the official writer does, for stfs-amplify.

    tests/bench/shapes.py gpt2 | build/tests/stfs-amplify
    tests/bench/shapes.py model.safetensors | build/tests/stfs-amplify

Shapes follow the published configurations: GPT-2 small, BERT base, Llama 3 8B, Mixtral 8x7B, the SDXL
UNet, Whisper large. A path takes the sizes of that file's own tensors.
"""
import json
import struct
import sys

BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4,
         "F64": 8, "I64": 8, "U64": 8, "C64": 8}


def gpt2():
    """(name, elements) of GPT-2 small, and bytes an element."""
    d = 768
    tensors = [("wte", 50257 * d), ("wpe", 1024 * d), ("ln_f.bias", d), ("ln_f.weight", d)]
    for i in range(12):
        tensors += [(f"h.{i}.{n}", s) for n, s in (
            ("attn.bias", 1024 * 1024), ("attn.c_attn.bias", 3 * d), ("attn.c_attn.weight", 3 * d * d),
            ("attn.c_proj.bias", d), ("attn.c_proj.weight", d * d), ("ln_1.bias", d), ("ln_1.weight", d),
            ("ln_2.bias", d), ("ln_2.weight", d), ("mlp.c_fc.bias", 4 * d), ("mlp.c_fc.weight", 4 * d * d),
            ("mlp.c_proj.bias", d), ("mlp.c_proj.weight", 4 * d * d))]
    return tensors, 4


def bert():
    """BERT base."""
    d = 768
    tensors = [("embeddings.word", 30522 * d), ("embeddings.position", 512 * d), ("embeddings.type", 2 * d),
               ("embeddings.LayerNorm.bias", d), ("embeddings.LayerNorm.weight", d),
               ("pooler.dense.bias", d), ("pooler.dense.weight", d * d)]
    for i in range(12):
        for name in ("attention.output.dense", "attention.self.key", "attention.self.query",
                     "attention.self.value"):
            tensors += [(f"layer.{i}.{name}.bias", d), (f"layer.{i}.{name}.weight", d * d)]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors += [(f"layer.{i}.{name}.bias", d), (f"layer.{i}.{name}.weight", d)]
        tensors += [(f"layer.{i}.intermediate.dense.bias", 4 * d),
                    (f"layer.{i}.intermediate.dense.weight", 4 * d * d),
                    (f"layer.{i}.output.dense.bias", d), (f"layer.{i}.output.dense.weight", 4 * d * d)]
    return tensors, 4


def llama():
    """Llama 3 8B."""
    d, f = 4096, 14336
    tensors = [("embed_tokens", 128256 * d), ("lm_head", 128256 * d), ("norm", d)]
    for i in range(32):
        tensors += [(f"layers.{i}.{n}", s) for n, s in (
            ("input_layernorm", d), ("mlp.down", d * f), ("mlp.gate", d * f), ("mlp.up", d * f),
            ("post_attention_layernorm", d), ("self_attn.k", d * 1024), ("self_attn.o", d * d),
            ("self_attn.q", d * d), ("self_attn.v", d * 1024))]
    return tensors, 2


def mixtral():
    """Mixtral 8x7B."""
    d, f = 4096, 14336
    tensors = [("embed_tokens", 32000 * d), ("lm_head", 32000 * d), ("norm", d)]
    for i in range(32):
        tensors += [(f"layers.{i}.experts.{e}.w{w}", d * f) for e in range(8) for w in (1, 2, 3)]
        tensors += [(f"layers.{i}.{n}", s) for n, s in (
            ("gate", 8 * d), ("input_layernorm", d), ("post_attention_layernorm", d),
            ("self_attn.k", d * 1024), ("self_attn.o", d * d), ("self_attn.q", d * d),
            ("self_attn.v", d * 1024))]
    return tensors, 2


def residual(name, before, after):
    """A residual block of the SDXL UNet."""
    tensors = [("in.0.bias", before), ("in.0.weight", before), ("in.2.bias", after),
               ("in.2.weight", before * after * 9), ("emb.bias", after), ("emb.weight", 1280 * after),
               ("out.0.bias", after), ("out.0.weight", after), ("out.3.bias", after),
               ("out.3.weight", after * after * 9)]
    if before != after:
        tensors += [("skip.bias", after), ("skip.weight", before * after)]
    return [(f"{name}.{n}", s) for n, s in tensors]


def attention(name, d, depth):
    """Transformer blocks of the SDXL UNet."""
    tensors = [("norm.bias", d), ("norm.weight", d), ("proj_in.bias", d), ("proj_in.weight", d * d),
               ("proj_out.bias", d), ("proj_out.weight", d * d)]
    for b in range(depth):
        for block, k in (("attn1", d), ("attn2", 2048)):
            tensors += [(f"{b}.{block}.{n}", s) for n, s in (
                ("k", d * k), ("q", d * d), ("v", d * k), ("out.bias", d), ("out.weight", d * d))]
        tensors += [(f"{b}.{n}", s) for n, s in (
            ("ff.0.bias", 8 * d), ("ff.0.weight", 8 * d * d), ("ff.2.bias", d), ("ff.2.weight", 4 * d * d))]
        tensors += [(f"{b}.norm{n}.{x}", d) for n in (1, 2, 3) for x in ("bias", "weight")]
    return [(f"{name}.{n}", s) for n, s in tensors]


def sdxl():
    """The UNet of Stable Diffusion XL, nearly."""
    channels, depths = (320, 640, 1280), (0, 2, 10)
    tensors = [("in.bias", 320), ("in.weight", 4 * 320 * 9), ("out.0.bias", 320), ("out.0.weight", 320),
               ("out.2.bias", 4), ("out.2.weight", 4 * 320 * 9)]
    d = 320
    for level, after in enumerate(channels):
        for block in range(2):
            tensors += residual(f"down.{level}.{block}", d, after)
            tensors += attention(f"down.{level}.{block}.attn", after, depths[level]) if level else []
            d = after
    for level, after in enumerate(reversed(channels)):
        for block in range(3):
            tensors += residual(f"up.{level}.{block}", d + after, after)
            tensors += attention(f"up.{level}.{block}.attn", after, depths[2 - level]) if level < 2 else []
            d = after
    return tensors, 2


def whisper():
    """Whisper large."""
    d = 1280
    tensors = [("decoder.tokens", 51865 * d), ("decoder.positions", 448 * d), ("encoder.positions", 1500 * d),
               ("encoder.conv1.weight", 80 * d * 3), ("encoder.conv1.bias", d),
               ("encoder.conv2.weight", d * d * 3), ("encoder.conv2.bias", d)]
    for i in range(32):
        for side, kinds in (("encoder", ("self",)), ("decoder", ("self", "cross"))):
            p = f"{side}.{i}"
            for kind in kinds:
                tensors += [(f"{p}.{kind}.k.weight", d * d)]
                tensors += [(f"{p}.{kind}.{n}.{x}", d if x == "bias" else d * d)
                            for n in ("out", "q", "v") for x in ("bias", "weight")]
                tensors += [(f"{p}.{kind}.norm.{x}", d) for x in ("bias", "weight")]
            tensors += [(f"{p}.{n}", s) for n, s in (
                ("fc1.bias", 4 * d), ("fc1.weight", 4 * d * d), ("fc2.bias", d), ("fc2.weight", 4 * d * d),
                ("norm.bias", d), ("norm.weight", d))]
    return tensors, 2


def from_file(path):
    """Prints the sizes of a file's own tensors, in file order."""
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    entries = sorted(header.values(), key=lambda e: e["data_offsets"])
    print(8 + length, length, len(entries))
    for entry in entries:
        print(entry["data_offsets"][1] - entry["data_offsets"][0], BYTES[entry["dtype"]])


def main():
    """Prints one model's table."""
    models = {f.__name__: f for f in (gpt2, bert, llama, mixtral, sdxl, whisper)}
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if sys.argv[1] not in models:
        from_file(sys.argv[1])
        return
    tensors, width = models[sys.argv[1]]()
    tensors.sort()  # one dtype: the official writer orders by name
    header = sum(len(name) + 70 for name, _ in tensors)
    print((8 + header + 7) // 8 * 8, header, len(tensors))
    for _, elements in tensors:
        print(elements * width, width)


if __name__ == "__main__":
    main()
