#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The project's own maker of safetensors files, good and bad; the tests' and the corpus' source.

  cases()         minimal files: for every rule of src/format/rules.h one that breaks it and one
                  that just does not, for every dtype one of each size that matters
  sharded_cases() the same for the rules of sharded models: folders of files
  random_file(r)  a file by a random.Random: a valid plan, written with every freedom that JSON
                  gives, and then most often broken in one to three places

  generate.py corpus DIR           writes cases() to DIR/ok and DIR/bad (tests/corpus)
  generate.py random DIR COUNT [SEED]   writes random files to DIR
"""
import json
import pathlib
import random
import struct
import sys

DTYPES = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}
U64 = 1 << 64


def packed(text, data=b"", length=None):
    """A file: header text (bytes or str), data, and the length word, the true one by default."""
    text = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", (len(text) if length is None else length) % U64) + text + data


def padded(text, data=b""):
    """As packed(), with the data at a multiple of 8, as every good writer has it."""
    return packed(text + " " * (-len(text.encode()) % 8), data)


def entry(dtype="U8", shape=(2,), begin=0, end=2, more=""):
    dims = ",".join(map(str, shape))
    return f'{{"dtype":"{dtype}","shape":[{dims}],"data_offsets":[{begin},{end}]{more}}}'


def one(value, data=b"ab", before="", after=""):
    """A file whose tensor "a" has this text as its entry."""
    return padded(f'{{{before}"a":{value}{after}}}', data)


def nested(depth, inner="1", kind="["):
    if kind == "[":
        return "[" * depth + inner + "]" * depth
    return '{"k":' * depth + inner + "}" * depth


# ---- Minimal cases: (name, rules that must be found, bytes) ----

def _file_cases():
    empty = padded("{}")
    yield "file-empty", ["file-too-small"], b""
    yield "file-7-bytes", ["file-too-small"], b"\x02" + b"\0" * 6
    yield "file-8-bytes", ["json-syntax"], b"\0" * 8
    yield "file-no-tensors", [], empty
    yield "header-2-bytes", [], packed("{}")
    yield "length-100000001", ["header-too-large"], packed("{}", length=100_000_001)
    yield "length-100000000", ["header-beyond-file"], packed("{}", length=100_000_000)
    yield "length-bit-63", ["header-too-large"], packed("{}", length=1 << 63 | 2)
    yield "length-all-ones", ["header-too-large"], packed("{}", length=-1)
    yield "length-one-more", ["header-beyond-file"], packed("{}", length=3)
    yield "length-one-less", ["json-syntax"], packed("{}", length=1)
    yield "length-zero", ["json-syntax"], packed("{}", length=0)


def _text_cases():
    a = entry()
    bad_extra = ["entry-extra-key", "json-syntax"]
    extra_twice = ["entry-extra-key", "duplicate-key"]
    yield "utf8-latin1", ["not-utf8"], packed(b'{"\xe4":' + a.encode() + b"}", b"ab")
    yield "utf8-two-bytes", [], padded(f'{{"ä":{a}}}', b"ab")
    yield "utf8-surrogate", ["not-utf8"], packed(b'{"\xed\xa0\x80":' + a.encode() + b"}", b"ab")
    yield "utf8-below-surrogates", [], padded(f'{{"\ud7ff":{a}}}', b"ab")
    yield "utf8-overlong", ["not-utf8"], packed(b'{"\xc0\x80":' + a.encode() + b"}", b"ab")
    yield "utf8-overlong-del", ["not-utf8"], packed(b'{"\xc1\xbf":' + a.encode() + b"}", b"ab")
    yield "utf8-above-10ffff", ["not-utf8"], packed(b'{"\xf4\x90\x80\x80":' + a.encode() + b"}", b"ab")
    yield "utf8-10ffff", [], padded(f'{{"\U0010ffff":{a}}}', b"ab")
    yield "utf8-in-padding", ["not-utf8"], packed(b"{}    \x80")
    yield "json-trailing-comma", ["json-syntax"], padded(f'{{"a":{a},}}', b"ab")
    yield "json-two-objects", ["json-syntax"], packed("{}{}")
    yield "json-array", ["json-syntax"], packed("[]")
    yield "json-unclosed", ["json-syntax"], packed('{"a":' + a, b"ab")
    yield "json-byte-order-mark", ["json-syntax"], packed("\ufeff{}")
    yield "json-nul-padding", ["json-syntax"], packed("{}\0\0")
    yield "json-lone-surrogate", ["json-syntax"], one(a, after=',"\\ud800":' + entry(end=0, shape=(0,)))
    yield "json-surrogate-pair", [], padded(f'{{"\\ud83d\\ude00":{a}}}', b"ab")
    yield "json-control-byte", ["json-syntax"], padded(f'{{"\x1f":{a}}}', b"ab")
    yield "json-del-byte", [], padded(f'{{"\x7f":{a}}}', b"ab")
    yield "json-name-nul", [], padded(f'{{"\\u0000":{a}}}', b"ab")
    yield "json-name-empty", [], padded(f'{{"":{a}}}', b"ab")
    yield "json-deep-126", bad_extra, one(entry(more=f',"x":{nested(126)}'))
    yield "json-deep-125", ["entry-extra-key"], one(entry(more=f',"x":{nested(125)}'))
    yield "json-deep-objects-126", bad_extra, one(entry(more=f',"x":{nested(126, kind="{")}'))
    yield "json-deep-objects-125", ["entry-extra-key"], one(entry(more=f',"x":{nested(125, kind="{")}'))
    yield "json-1e400", bad_extra, one(entry(more=',"x":1e400'))
    yield "json-1e308", ["entry-extra-key"], one(entry(more=',"x":1e308'))
    yield "json-0e400", ["entry-extra-key"], one(entry(more=',"x":0e400'))
    yield "json-400-digits", bad_extra, one(entry(more=f',"x":{"1" * 400}'))
    yield "json-300-digits", ["entry-extra-key"], one(entry(more=f',"x":{"1" * 300}'))
    yield "leading-space", ["leading-space"], padded(f' {{"a":{a}}}', b"ab")
    yield "leading-newline", ["leading-space"], padded(f'\n{{"a":{a}}}', b"ab")
    yield "space-inside", [], padded(f'{{ "a"\t:\r\n{a} }}', b"ab")
    yield "trailing-tab", ["trailing-space"], packed(f'{{"a":{a}}} \t', b"ab")
    yield "trailing-spaces", [], padded(f'{{"a":{a}}}' + " " * 4096, b"ab")
    yield "duplicate-tensor", ["duplicate-key"], padded(f'{{"a":{a},"a":{a}}}', b"ab")
    yield "duplicate-tensor-escaped", ["duplicate-key"], padded(f'{{"a":{a},"\\u0061":{a}}}', b"ab")
    yield "duplicate-in-extra-key", extra_twice, one(entry(more=',"x":[{"k":1,"k":1}]'))
    yield "duplicate-in-two-objects", ["entry-extra-key"], one(entry(more=',"x":[{"k":1},{"k":1}]'))
    yield "duplicate-extra-key", extra_twice, one(entry(more=',"x":1,"x":1'))
    # The official loader takes the last of two, and judges the layout by it alone.
    yield "duplicate-first-misplaced", ["duplicate-key"], \
        padded(f'{{"a":{entry(begin=7, end=9)},"a":{a}}}', b"ab")
    yield "duplicate-last-misplaced", ["duplicate-key", "hole", "truncated"], \
        padded(f'{{"a":{a},"a":{entry(begin=7, end=9)}}}', b"ab")
    yield "duplicate-first-overflows", ["duplicate-key"], \
        padded(f'{{"a":{entry(shape=(1 << 33, 1 << 33))},"a":{a}}}', b"ab")
    yield "duplicate-first-unknown-dtype", ["duplicate-key", "dtype-unknown"], \
        padded(f'{{"a":{entry("X")},"a":{a}}}', b"ab")


def _metadata_cases():
    def with_metadata(text, rules, name):
        return name, rules, one(entry(), before=f'"__metadata__":{text},')

    yield with_metadata('{"k":"v"}', [], "metadata")
    yield with_metadata("{}", [], "metadata-empty")
    yield with_metadata("null", ["metadata-null"], "metadata-null")
    yield with_metadata("[]", ["metadata-type"], "metadata-array")
    yield with_metadata('"x"', ["metadata-type"], "metadata-string")
    yield with_metadata('{"k":1}', ["metadata-value"], "metadata-number")
    yield with_metadata('{"k":null}', ["metadata-value"], "metadata-value-null")
    yield with_metadata('{"k":"1","k":"2"}', ["duplicate-key"], "metadata-duplicate")
    yield "metadata-twice", ["metadata-twice"], \
        one(entry(), before='"__metadata__":{},', after=',"__metadata__":{}')
    yield "metadata-twice-escaped", ["metadata-null", "metadata-twice"], \
        one(entry(), before='"__metadata__":null,', after=',"__metadat\\u0061__":{}')
    yield "metadata-last", [], one(entry(), after=',"__metadata__":{"k":"v"}')
    yield "metadata-within-entry", ["entry-extra-key"], one(entry(more=',"__metadata__":{"k":1}'))
    yield "metadata-alone", [], padded('{"__metadata__":{"k":"v"}}')


def _entry_cases():
    parts = ['"dtype":"U8"', '"shape":[2]', '"data_offsets":[0,2]']
    yield "entry-number", ["entry-type"], one("1")
    yield "entry-null", ["entry-type"], one("null")
    yield "entry-array", ["entry-array"], one('["U8",[2],[0,2]]')
    yield "entry-array-of-2", ["entry-array", "entry-type"], one('["U8",[2]]')
    yield "entry-array-of-4", ["entry-array", "entry-type"], one('["U8",[2],[0,2],0]')
    yield "entry-any-order", [], one("{" + ",".join(reversed(parts)) + "}")
    yield "entry-extra-key", ["entry-extra-key"], one(entry(more=',"x":{"y":[null,true,1.5]}'))
    yield "entry-empty", ["entry-field-missing"], one("{}")
    for i, field in enumerate(("dtype", "shape", "offsets")):
        yield f"entry-no-{field}", ["entry-field-missing"], \
            one("{" + ",".join(parts[:i] + parts[i + 1:]) + "}")
        yield f"entry-{field}-twice", ["entry-field-twice"], \
            one("{" + ",".join(parts + [parts[i]]) + "}")
    yield "entry-field-twice-escaped", ["entry-field-twice"], \
        one("{" + ",".join(parts) + ',"dtyp\\u0065":"U8"}')


def _field_cases():
    def dtype(text):
        return one(f'{{"dtype":{text},"shape":[2],"data_offsets":[0,2]}}')

    def shape(text, data=b"ab"):
        return one(f'{{"dtype":"U8","shape":{text},"data_offsets":[0,{len(data)}]}}', data)

    def offsets(text):
        return one(f'{{"dtype":"U8","shape":[2],"data_offsets":{text}}}')

    yield "dtype-null", ["dtype-type"], dtype("null")
    yield "dtype-number", ["dtype-type"], dtype("4")
    yield "dtype-array", ["dtype-type"], dtype('["U8"]')
    yield "dtype-object", ["dtype-object"], dtype('{"U8":null}')
    bad_object = ["dtype-object", "dtype-type"]
    yield "dtype-object-unit", bad_object, dtype('{"U8":{}}')
    yield "dtype-object-1", bad_object, dtype('{"U8":1}')
    yield "dtype-object-two", bad_object, dtype('{"U8":null,"I8":null}')
    yield "dtype-object-none", bad_object, dtype("{}")
    yield "dtype-object-unknown", ["dtype-object", "dtype-unknown"], dtype('{"U9":null}')
    yield "dtype-escaped", [], dtype('"\\u0055\\u0038"')
    for name in ("u8", "U8 ", "", "F8", "C128", "U8\\u0000"):
        yield f"dtype-unknown-{len(name)}-{name[:2].strip()}", ["dtype-unknown"], dtype(f'"{name}"')
    for number, text in enumerate(("2", "null", '"[2]"', "{}", "[2.0]", "[2e0]", "[-2]", '["2"]',
                                   "[null]", "[[2]]", "[18446744073709551616]", "[true]")):
        yield f"shape-type-{number}", ["shape-type"], shape(text)
    yield "shape-minus-zero", ["shape-type"], shape("[-0]", b"")
    yield "shape-scalar", [], shape("[]", b"a")
    yield "shape-zero", [], shape("[0]", b"")
    yield "shape-rank-40", [], shape("[" + ",".join("1" * 39) + ",2]")
    yield "shape-overflow", ["shape-overflow"], shape(f"[{1 << 63},2,0]", b"")
    yield "shape-overflow-bits", ["shape-overflow"], \
        one(f'{{"dtype":"U16","shape":[{1 << 60}],"data_offsets":[0,0]}}', b"")
    yield "shape-huge", ["size-mismatch"], shape(f"[{(1 << 61) - 1}]", b"")
    yield "shape-order", ["shape-order"], shape(f"[0,{1 << 63},{1 << 63}]", b"")
    yield "shape-zero-and-huge", [], shape(f"[0,{U64 - 1}]", b"")
    for number, text in enumerate(("0", "null", "[]", "[0]", "[0,2,2]", "[0,2.0]", "[-0,2]", '["0",2]',
                                   "[0,18446744073709551616]", "{}", "[0,null]")):
        yield f"offsets-type-{number}", ["offsets-type"], offsets(text)


def _layout_cases():
    def two(first, second, data, rules, name):
        return name, rules, padded(f'{{"a":{first},"b":{second}}}', data)

    u8 = entry
    yield "offsets-reversed", ["offsets-reversed", "hole", "trailing-bytes"], one(u8(begin=2, end=0))
    yield "size-one-more", ["size-mismatch"], one(u8(end=3), b"abc")
    yield "size-one-less", ["size-mismatch"], one(u8(end=1), b"a")
    yield two(u8(), u8(begin=2, end=4), b"abcd", [], "layout-two")
    yield two(u8(begin=2, end=4), u8(), b"abcd", [], "layout-two-swapped")
    yield two(u8(), u8(begin=1, end=3), b"abc", ["overlap"], "layout-overlap")
    yield two(u8(), u8(), b"ab", ["overlap"], "layout-same-place")
    yield two(u8(shape=(3,), end=3), u8(shape=(1,), begin=1, end=2), b"abc", ["overlap"], "layout-inside")
    yield two(u8(), u8(begin=3, end=5), b"abcde", ["hole"], "layout-hole")
    yield "layout-hole-at-0", ["hole"], one(u8(begin=1, end=3), b"abc")
    yield two(u8(), u8(begin=2, end=4), b"abc", ["truncated"], "layout-truncated")
    yield "layout-no-data", ["truncated"], one(u8(), b"")
    yield "layout-trailing", ["trailing-bytes"], one(u8(), b"abc")
    yield "layout-trailing-no-tensors", ["trailing-bytes"], padded("{}", b"a")
    yield two(u8(), u8(shape=(0,), begin=2, end=2), b"ab", [], "layout-empty-last")
    yield two(u8(), u8(shape=(0,), begin=0, end=0), b"ab", [], "layout-empty-first")
    yield two(u8(), u8(shape=(0,), begin=1, end=1), b"ab", ["overlap"], "layout-empty-inside")
    yield two(u8(), u8(shape=(0,), begin=3, end=3), b"ab", ["hole", "truncated"], "layout-empty-behind")
    yield "layout-huge-offsets", ["hole", "truncated"], one(u8(begin=U64 - 3, end=U64 - 1))
    yield "unaligned-data", ["unaligned-data"], packed(f'{{"a":{u8()}}}'.ljust(65), b"ab")
    yield two(u8(shape=(1,), end=1), entry("F32", (1,), 1, 5), b"abcde", ["unaligned-tensor"],
              "unaligned-tensor")


def _dtype_cases():
    for name, bits in DTYPES.items():
        whole = 8 if bits == 4 else 4
        size = whole * bits // 8
        data = bytes(range(size))
        yield f"dtype-{name}", [], one(entry(name, (whole,), 0, size), data)
        yield f"dtype-{name}-empty", [], one(entry(name, (3, 0), 0, 0), b"")
        yield f"dtype-{name}-one-more", ["size-mismatch"], \
            one(entry(name, (whole,), 0, size + 1), data + b"x")
        if bits % 8:
            yield f"dtype-{name}-ragged", ["sub-byte"], one(entry(name, (whole - 1,), 0, size), data)
        else:
            yield f"dtype-{name}-scalar", [], one(entry(name, (), 0, bits // 8), data[:bits // 8])


def cases():
    """All minimal cases; the names are unique and good as file names.

    The rules are all that are found, unaligned-data aside where it is of no account.
    """
    for part in (_file_cases, _text_cases, _metadata_cases, _entry_cases, _field_cases,
                 _layout_cases, _dtype_cases):
        yield from part()


# ---- Sharded models: (name, rules, what to open, {file: bytes}) ----

def index(weight_map, total=None):
    metadata = {} if total is None else {"total_size": total}
    return json.dumps({"metadata": metadata, "weight_map": weight_map}).encode()


def sharded_cases():
    one_shard, two_shard = "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"
    name = "m.safetensors.index.json"
    a = padded(f'{{"a":{entry()}}}', b"ab")
    b = padded(f'{{"b":{entry()}}}', b"cd")
    both = padded(f'{{"a":{entry()},"b":{entry(begin=2, end=4)}}}', b"abcd")
    good = {"a": one_shard, "b": two_shard}

    def made(index_bytes, first=a, second=b):
        return {name: index_bytes, one_shard: first, two_shard: second}

    yield "sharded", [], name, made(index(good, 4))
    yield "sharded-no-total", [], name, made(index(good))
    yield "sharded-total", ["total-size"], name, made(index(good, 5))
    yield "sharded-not-json", ["index"], name, made(b"{")
    yield "sharded-no-map", ["index"], name, made(b'{"metadata":{}}')
    yield "sharded-no-file", ["index"], name, made(b'{"weight_map":{}}')
    yield "sharded-quotes", ["index"], name, made(index(good).replace(b'"', b"'"))
    yield "sharded-twice", ["index"], name, made(index(good).replace(b'"b"', b'"a"'))
    yield "sharded-nul", [], name, made(index({"a": one_shard, "\0": two_shard}), second=padded(
        f'{{"\\u0000":{entry()}}}', b"cd"))
    yield "sharded-up", ["index"], name, made(index({"a": "../m.safetensors"}))
    yield "sharded-below", ["index"], name, made(index({"a": "x/m.safetensors"}))
    yield "sharded-missing-shard", ["shard-unreadable", "tensor-missing"], name, \
        {name: index(good), one_shard: a}
    yield "sharded-missing-tensor", ["tensor-missing"], name, \
        made(index({**good, "c": two_shard}))
    yield "sharded-not-in-index", ["tensor-not-in-index"], name, \
        made(index({"a": one_shard, "b": two_shard}), second=padded(
            f'{{"b":{entry()},"c":{entry(begin=2, end=4)}}}', b"cdef"))
    yield "sharded-elsewhere", ["shard-inconsistent"], name, \
        made(index({"a": one_shard, "b": one_shard, "c": two_shard}), second=padded(
            f'{{"b":{entry()},"c":{entry(begin=2, end=4)}}}', b"cdef"))
    yield "sharded-two-hold-it", ["tensor-in-two-shards"], name, made(index(good), first=both)
    yield "sharded-bad-shard", ["trailing-bytes"], name, made(index(good), second=b + b"x")


# ---- Random files ----

NAMES = ["", "a", "b", "w.0", "w.1", "ä", "漢字", "😀", "\0", "/", "..", "dtype", "shape", "x" * 300,
         "__metadata__x", '"', "\\", "\x7f", "\u2028", "\ufeff", "\uffff", "\ud7ff", "\ue000"]
NUMBERS = ["0", "1", "-1", "-0", "0.0", "-0.0", "1.0", "1E5", "1e+5", "1e-5", "1e308", "1e309", "-1e309",
           "1e400", "1e-400", "0e400", "0e99999999999", "1e99999999999", "1e-99999999999", "01", "-01",
           "00", "+1", "1.", ".5", "1e", "1e+", "-", "0x1", "1_0", "NaN", "Infinity", "-Infinity",
           "9223372036854775807", "9223372036854775808", "-9223372036854775808",
           "-9223372036854775809", "18446744073709551615", "18446744073709551616",
           "-18446744073709551615", "99999999999999999999", "1.7976931348623157e308",
           "1.7976931348623158e308", "1.7976931348623159e308", "17976931348623157e292",
           "17976931348623158e292", "17976931348623159e292", "179769313486231580793e289",
           "1797693134862315807e290", "1.797693134862315807937289714053e308", "2e308",
           "0.00001e313", "0.00001e312", "0.1e309", "0.2e309", "10e307", "100e307", "17e307", "18e307",
           "1844674407370955161.5", "18446744073709551616.5", "18446744073709551616e289",
           "18446744073709551615e289", "9" * 19, "9" * 20, "9" * 308, "9" * 309, "1" + "0" * 308,
           "1" + "0" * 309, "0." + "0" * 400 + "1e400", "0." + "0" * 308 + "1e617", "1" * 310 + ".5",
           "1" * 300 + ".5e9", "1" * 300 + "e9", "5e-324", "1e-324", "4.9e-324"]
WORDS = ["true", "false", "null", "True", "nul", "nulll", "tru", "none", "undefined"]
SPACES = [" ", "\t", "\n", "\r", "  ", "\r\n", " \t\n\r "]
BAD_SPACES = ["\v", "\f", "\0", "\u00a0", "\ufeff", "/**/", "//\n"]
BAD_BYTES = [b"\x80", b"\xff", b"\xc0\x80", b"\xc2", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf0\x8f\xbf\xbf",
             b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xe2\x82", b"\xf0\x9f\x98"]
GOOD_BYTES = ["\u0080", "\u07ff", "\u0800", "\uffff", "\U00010000", "\U0010ffff"]


class Writer:
    """Writes JSON in a random one of its many forms; `odd` is how often it strays from the plain."""

    def __init__(self, rng):
        self.rng = rng
        self.odd = rng.choice((0, 0, 0.02, 0.1, 0.4))

    def chance(self, p):
        return self.rng.random() < p

    def space(self):
        if not self.odd or self.rng.random() >= self.odd:
            return ""
        if self.chance(0.004):
            return self.rng.choice(BAD_SPACES)
        return self.rng.choice(SPACES)

    def string(self, text):
        out = []
        for c in text:
            code = ord(c)
            if c in '"\\' or code < 0x20 or (self.odd and self.rng.random() < self.odd):
                out.append(self._escaped(c, code))
            else:
                out.append(c)
        if self.odd and self.chance(0.002):
            out.insert(self.rng.randrange(len(out) + 1), self.rng.choice(
                ["\\ud800", "\\udc00", "\\ud800\\u0041", "\\udc00\\ud800", "\\x41", "\\u12", "\\u12g4", "\n",
                 "\x00", "\\", "\\ud800\\udc0", "\\uD83D\\uDE00", "\\ud83dx", "\\ud83d\\n"]))
        return '"' + "".join(out) + '"'

    def _escaped(self, c, code):
        short = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\b": "\\b", "\f": "\\f", "\n": "\\n",
                 "\r": "\\r", "\t": "\\t"}.get(c)
        if short and self.chance(0.5):
            return short
        units = struct.unpack(f"<{len(c.encode('utf-16-le')) // 2}H", c.encode("utf-16-le"))
        form = self.rng.choice(("\\u{:04x}", "\\u{:04X}"))
        return "".join(form.format(unit) for unit in units)

    def joined(self, open_, items, close):
        space = self.space
        return (open_ + space() + (space() + "," + space()).join(items) + space() + close)

    def object(self, members):
        """`members`: (key, text of the value)."""
        return self.joined("{", [self.string(k) + self.space() + ":" + self.space() + v
                                 for k, v in members], "}")

    def array(self, items):
        return self.joined("[", items, "]")

    def number(self):
        rng = self.rng
        if rng.random() < 0.6:
            return rng.choice(NUMBERS)
        text = "-" if rng.random() < 0.2 else ""
        digits = rng.choice((1, 1, 2, 16, 17, 18, 19, 20, 21, 40, 308, 309, 310))
        text += str(rng.randrange(1, 10)) + "".join(rng.choices("0123456789", k=digits - 1))
        if rng.random() < 0.4:
            text += "." + "".join(rng.choices("0123456789", k=rng.choice((1, 2, 17, 20, 40))))
        if rng.random() < 0.6:
            edge = 308 - digits + rng.randrange(-2, 4)
            text += rng.choice("eE") + rng.choice(("", "+", "-")) + \
                str(rng.choice((abs(edge), rng.randrange(400), rng.randrange(20))))
            if edge < 0 and rng.random() < 0.5:
                text = text.rstrip("0123456789+-eE") + f"e{edge}"
        return text

    def good_value(self):
        return self.rng.choice(("0", "1", "-1", "1.5", "1e5", "true", "false", "null", '""', '"x"', "[]", "{}",
                                "[1,[2]]", '{"k":1}', "1e308", "-9223372036854775808"))

    def any_value(self, depth=0):
        """Any JSON value, most often valid."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.25:
            return self.number()
        if kind < 0.35:
            return rng.choice(WORDS[:3] if rng.random() < 0.9 else WORDS)
        if kind < 0.55 or depth > 3:
            return self.string(rng.choice(NAMES))
        if kind < 0.7:
            return self.array([self.any_value(depth + 1) for _ in range(rng.randrange(3))])
        if kind < 0.9:
            keys = [rng.choice(("k", "k", "l", "dtype", "")) for _ in range(rng.randrange(4))]
            return self.object([(k, self.any_value(depth + 1)) for k in keys])
        return self.deep(rng.choice((1, 5, 120, 122, 123, 124, 124, 125, 125, 126, 127, 128, 130)))

    def deep(self, depth):
        rng = self.rng
        kind = rng.randrange(4)
        closing = []
        text = []
        for i in range(depth):
            array = kind == 0 or (kind == 2 and i % 2) or (kind == 3 and rng.random() < 0.5)
            text.append("[" if array else '{"k":')
            closing.append("]" if array else "}")
        inner = rng.choice(("1", '"s"', "null", "1", "[]", "{}"))
        return "".join(text) + inner + "".join(reversed(closing))


class Plan:
    """A valid model: tensors [name, dtype, shape, begin, end], metadata or None, and its data."""

    def __init__(self, rng):
        self.rng = rng
        self.metadata = None
        if rng.random() < 0.4:
            self.metadata = [(rng.choice(NAMES) + str(i), rng.choice(NAMES)) for i in range(rng.randrange(4))]
        self.tensors = []
        count = rng.choice((0, 1, 1, 1, 2, 2, 3, 4, 6, 9))
        names = rng.sample(NAMES, count)
        at = 0
        for name in names:
            dtype = rng.choice(tuple(DTYPES))
            shape = self._shape(DTYPES[dtype])
            size = DTYPES[dtype]
            for dim in shape:
                size *= dim
            self.tensors.append([name, dtype, shape, at, at + size // 8])
            at += size // 8
        self.data = rng.randbytes(at)
        if rng.random() < 0.4:
            rng.shuffle(self.tensors)

    def _shape(self, bits):
        rng = self.rng
        shape = [rng.randrange(1, 4) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 5)))]
        if rng.random() < 0.15:
            shape.insert(rng.randrange(len(shape) + 1), 0)
            if rng.random() < 0.4:
                shape.insert(rng.randrange(len(shape) + 1),
                             rng.choice((U64 - 1, 1 << 63, 1 << 32, (1 << 61) + 1)))
                if rng.random() < 0.5 and shape[0] != 0:
                    shape.sort()
                product = 1
                for dim in shape:
                    product *= dim
                    if product >= U64:
                        return [0]
        if bits % 8 and 0 not in shape:
            shape.append(4)
        return shape


def _break_plan(plan, rng):
    """Breaks what the numbers say (or not: an even swap stays valid)."""
    if not plan.tensors:
        plan.data += rng.randbytes(rng.randrange(3))
        return
    t = rng.choice(plan.tensors)
    kind = rng.randrange(13)
    if kind == 0:
        t[3] += rng.choice((-1, 1, 8, U64 - t[3] - 1))
        t[3] %= U64
    elif kind == 1:
        t[4] = (t[4] + rng.choice((-1, 1, 8, 1 << 40))) % U64
    elif kind == 2:
        t[3], t[4] = t[4], t[3]
    elif kind == 3:
        t[1] = rng.choice(tuple(DTYPES))
    elif kind == 4 and t[2]:
        t[2][rng.randrange(len(t[2]))] = rng.choice((0, 1, 2, 1 << 31, 1 << 32, 1 << 60, 1 << 61, 1 << 63, U64 - 1))
    elif kind == 5:
        t[2].insert(rng.randrange(len(t[2]) + 1), rng.choice((0, 1, 1, 1, 2, 1 << 32, U64 - 1)))
    elif kind == 6:
        rng.shuffle(t[2])
    elif kind == 7:
        plan.data += rng.randbytes(rng.choice((1, 8, 100)))
    elif kind == 8:
        plan.data = plan.data[:max(0, len(plan.data) - rng.choice((1, 8, 100)))]
    elif kind == 9:
        other = rng.choice(plan.tensors)
        t[3:], other[3:] = other[3:], t[3:]
    elif kind == 10:
        by = rng.choice((1, 8))
        for other in plan.tensors:
            if other[3] >= t[3]:
                other[3] += by
                other[4] += by
        if rng.random() < 0.5:
            plan.data += bytes(by)
    elif kind == 11:
        # An empty tensor somewhere: at a border it is valid.
        at = rng.choice([t[3], t[4], t[3] + 1, 0, len(plan.data)])
        plan.tensors.insert(rng.randrange(len(plan.tensors) + 1), ["empty", "F32", [0], at, at])
    else:
        size = t[4] - t[3]
        for other in plan.tensors:
            if other is not t and other[3] > t[3]:
                other[3] = max(0, other[3] - size)
                other[4] = max(0, other[4] - size)


def _fields(tensor, w, breaks):
    """An entry's three texts; with `breaks`, one of them odd."""
    name, dtype, shape, begin, end = tensor
    dims = [str(d) for d in shape]
    ends = [str(begin), str(end)]
    type_text = w.string(dtype)
    shape_text = offsets_text = None
    if breaks:
        rng = w.rng
        kind = rng.randrange(10)
        if kind == 0 and dims:
            dims[rng.randrange(len(dims))] = w.any_value(2)
        elif kind == 1:
            ends[rng.randrange(2)] = w.any_value(2)
        elif kind == 2:
            ends.insert(rng.randrange(3), rng.choice(("0", "1", "null")))
        elif kind == 3:
            ends.pop()
        elif kind == 4:
            type_text = w.any_value(2)
        elif kind in (5, 6):
            inner = rng.choice(("null", "null", "null", "{}", "1", "[]", '{"k":null}', '{"k":1,"k":1}', '""', "false",
                                "[null]", w.deep(123), w.deep(125)))
            members = [(dtype, inner)]
            if rng.random() < 0.15:
                members.insert(rng.randrange(2), (rng.choice((dtype, "F32", "nope")), "null"))
            if rng.random() < 0.05:
                members = []
            type_text = w.object(members)
        elif kind == 7:
            shape_text = w.any_value(2)
        elif kind == 8:
            offsets_text = w.any_value(2)
        else:
            type_text = w.string(rng.choice(("f32", "F8", "F8_E4M3FN", "I4", "", "F32 ", "\0F32", "BFLOAT16", "C128")))
    return [("dtype", type_text), ("shape", shape_text or w.array(dims)),
            ("data_offsets", offsets_text or w.array(ends))]


def _entry(tensor, w, breaks):
    rng = w.rng
    fields = _fields(tensor, w, breaks and rng.random() < 0.5)
    if not breaks:
        if w.odd:
            rng.shuffle(fields)
            if rng.random() < w.odd:
                fields.insert(rng.randrange(4), ("extra", w.good_value()))
        return w.object(fields)
    kind = rng.randrange(9)
    if kind == 0:
        fields.append((rng.choice(("dtype", "shape", "data_offsets")), w.any_value(2)))
    elif kind == 1:
        fields.pop(rng.randrange(3))
    elif kind in (2, 3):
        values = [v for _, v in fields]
        if rng.random() < 0.15:
            values.append(w.any_value(2))
        if rng.random() < 0.15:
            values.pop(rng.randrange(len(values)))
        if rng.random() < 0.1:
            rng.shuffle(values)
        return w.array(values)
    elif kind == 4 and rng.random() < 0.5:
        return w.any_value()
    else:
        for _ in range(rng.choice((0, 1, 1, 2))):
            key = rng.choice(("x", "y", "x", "Dtype", "dtype ", "__metadata__", ""))
            fields.insert(rng.randrange(len(fields) + 1), (key, w.any_value(1)))
    return w.object(fields)


def _metadata_text(metadata, w, breaks):
    rng = w.rng
    if not breaks:
        return w.object([(k, w.string(v)) for k, v in metadata])
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice(("null", "null", "null", "{}", "[]", "1", '"x"', "true"))
    if kind == 1:
        return w.any_value()
    members = [(k, w.string(v)) for k, v in metadata]
    if kind == 2:
        members.append(("bad", w.any_value(1)))
    else:
        members.insert(rng.randrange(len(members) + 1), ("k", '"1"'))
        members.append(("k", '"2"'))
    return w.object(members)


def _break_bytes(text, w):
    """Breaks the text as bytes, wherever that falls."""
    rng = w.rng
    at = rng.randrange(len(text) + 1)
    kind = rng.randrange(8)
    if kind == 0:
        return text[:at] + text[at + 1:]
    if kind == 1:
        return text[:at] + bytes([rng.randrange(256)]) + text[at + 1:]
    if kind == 2:
        return text[:at] + rng.choice(b' \t\n\r",:[]{}0123456789-+.eE\\u/').to_bytes(1, "big") + text[at:]
    if kind == 3:
        end = min(len(text), at + rng.randrange(1, 20))
        return text[:at] + text[at:end] * 2 + text[end:]
    if kind == 4:
        return text[:at] + rng.choice(BAD_BYTES) + text[at:]
    if kind == 5:
        quote = text.find(b'"', at)
        if quote >= 0:
            return text[:quote + 1] + rng.choice(GOOD_BYTES).encode() + text[quote + 1:]
    if kind == 6:
        digits = [i for i, c in enumerate(text) if 48 <= c <= 57]
        if digits:
            at = rng.choice(digits)
            return text[:at] + rng.choice((b"-", b"0", b"1", b"e", b".0", b"e1", b"")) + text[at:]
    return text[:at]


def random_file(rng):
    w = Writer(rng)
    plan = Plan(rng)
    breaks = rng.choice((0, 0, 0, 1, 1, 1, 1, 2, 3))
    kinds = [rng.choice(("plan", "plan", "entry", "entry", "entry", "duplicate", "duplicate", "metadata", "bytes",
                         "margin", "length")) for _ in range(breaks)]
    for kind in kinds:
        if kind == "plan":
            _break_plan(plan, rng)
    broken = {rng.randrange(len(plan.tensors)) for k in kinds if k == "entry" and plan.tensors}
    members = [(t[0], _entry(t, w, i in broken)) for i, t in enumerate(plan.tensors)]
    if plan.metadata is not None or "metadata" in kinds:
        members.insert(rng.randrange(len(members) + 1),
                       ("__metadata__", _metadata_text(plan.metadata or [], w, "metadata" in kinds)))
    for kind in kinds:
        if kind == "duplicate" and members:
            _duplicate(members, plan, w)
    text = w.object(members).encode("utf-8")
    if "margin" in kinds:
        text = rng.choice((b"", b" ", b"\n", b"\t \r", b"\xef\xbb\xbf")) + text + \
            rng.choice((b"", b" ", b"\n", b"    \t", b"\0", b"{}", b"x", b"   "))
    for kind in kinds:
        if kind == "bytes":
            text = _break_bytes(text, w)
    if rng.random() < 0.5:
        text += b" " * (-len(text) % 8)
    file = packed(text, plan.data)
    if "length" in kinds:
        file = _break_length(file, len(text), rng)
    return file


def _duplicate(members, plan, w):
    """A key that stands twice, with the same value or an odd one, before or behind."""
    rng = w.rng
    name, value = rng.choice(members)
    kind = rng.randrange(5)
    if kind == 0 and plan.tensors:
        value = _entry(rng.choice(plan.tensors), w, True)
    elif kind == 1:
        value = w.any_value()
    elif kind == 2 and plan.tensors:
        tensor = list(rng.choice(plan.tensors))
        tensor[2] = rng.choice(([1 << 33, 1 << 33], [3], [U64 - 1], [1 << 61], [0, 1 << 63, 2]))
        tensor[3:] = rng.choice(([0, 1], [5, 2], [0, U64 - 1], tensor[3:]))
        value = _entry(tensor, w, False)
    members.insert(rng.randrange(len(members) + 1), (name, value))


def _break_length(file, true, rng):
    n = rng.choice((0, 1, true - 1, true + 1, len(file) - 8, len(file) - 7, len(file), 100_000_000, 100_000_001, 1 << 31,
                    1 << 32, 1 << 63, U64 - 8, U64 - 1, U64 - 9, true | 1 << 63, true | 1 << 32))
    file = struct.pack("<Q", n % U64) + file[8:]
    return file[:rng.randrange(12)] if rng.random() < 0.15 else file


def main(arguments):
    out = pathlib.Path(arguments[1])
    if arguments[0] == "corpus":
        for name, rules, data in cases():
            # What the official loader takes and we refuse is kept with the bad ones.
            bad = set(rules) - {"entry-extra-key", "leading-space", "trailing-space", "metadata-null",
                                "shape-order", "unaligned-data", "unaligned-tensor"}
            folder = out / ("bad" if bad else "ok")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.safetensors").write_bytes(data)
    elif arguments[0] == "random":
        rng = random.Random(int(arguments[3]) if len(arguments) > 3 else 1)
        out.mkdir(parents=True, exist_ok=True)
        for i in range(int(arguments[2])):
            (out / f"{i:06}.safetensors").write_bytes(random_file(rng))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:] if len(sys.argv) > 2 else sys.exit(__doc__))
