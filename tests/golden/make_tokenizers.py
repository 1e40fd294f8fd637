#!/usr/bin/env python3
"""Trains the small tokenizers of tests/golden/tokenizers with the reference library, on the text below, and writes the
ids that it gives for texts that are hard in some way. tests/data/bpe_test.cc compares with them.

    python3 tests/golden/make_tokenizers.py tests/golden/tokenizers

Needs `pip install tokenizers` (0.23.3 was used).
"""
import json
import os
import random
import sys

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers)

TEXT = """A router sends every token to the experts that should know it best, and the experts send back what they made of it.
When too many tokens want the same expert, some have to wait, and some are dropped. We don't like that; nobody does.
The loss goes down quickly at first, then slowly, then not at all: that's when you'll want to look at the data again.
for (int token = 0; token < num_tokens; ++token) {\n    sum += weights[token] * values[token];\n\tif (sum > 1000) return sum;\n}
def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n    return total / len(values)\n\n
Die Straße führt über drei Brücken in die Stadt; dort wohnen 12345 Menschen, und im Jahr 2026 werden es 13000 sein.
Каждый эксперт видит только часть слов, и поэтому учится быстрее. Это старая мысль, но она работает.
每个专家只看到一部分词语，所以学得更快。这个想法很旧，但是很有用。 三つの橋を渡ると町に着く。
E = mc^2, pi = 3.14159, 1/3 = 0.333..., x_i <= y_j; "quoted" text, (brackets) and [lists], 50% of 1,000,000 is 500,000.
""".split("\n")

QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

WORDS = [" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u0085", "the", "Token", "experts", "don't", "WE'LL", "'\u017f", "12", "1234567",
         "\u00e9", "e\u0301", "\u212b", "\u1100\u1161\u11a8", "q\u0307\u0323", "\u0628\u0898\u0334", "\u2581", "\u2581\u2581", "Stra\u00dfe", "\u6a4b", "\U0001f600", "\U00031350",
         "\U000105c0", "\u180e", "\x00", "\x01\x7f", "\ufffd", "\U0010ffff", "...", "!?", "<0x41>", "<s>", "</s>", "<|end|>", "<|im|>", "<think>",
         "<both>", "WORD", "xWORD", "caf\u00e9", "\u0660\u0661", "\u216b", "\u00bd", "a", "b", "c", "_", "-", "==", "\u0e01\u0e33", "\u0939\u093f\u0928"]


def texts():
    rng = random.Random(7)
    yield ""
    for word in WORDS:
        yield word
        yield " " + word
        yield word + " "
        yield "a" + word + "b"
        yield " " + word + "\n" + word + word
    for line in TEXT:
        yield line
    yield "\n".join(TEXT)
    yield "a" * 300 + " " * 100 + "\n" * 40 + "ab" * 200
    for _ in range(60):
        yield "".join(rng.choice(WORDS) + rng.choice(["", "", " "]) for _ in range(rng.randrange(1, 25)))


def bpe(tokenizer, vocab_size, specials, alphabet=()):
    tokenizer.train_from_iterator([t + "\n" for t in TEXT], trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, initial_alphabet=list(alphabet), show_progress=False))
    return tokenizer


def byte_level(*, pattern=None, behaviour="isolated", invert=False, prefix=False, nfc=False, vocab_size=420, first=()):
    t = Tokenizer(models.BPE())
    own = [] if pattern is None else [pre_tokenizers.Split(pattern, behaviour, invert)]
    steps = list(first) + own + [pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=pattern is None)]
    t.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    t.decoder = decoders.ByteLevel()
    if nfc:
        t.normalizer = normalizers.NFC()
    return bpe(t, vocab_size, ["<|end|>"], pre_tokenizers.ByteLevel.alphabet())


def metaspace(scheme, split, *, fallback=True, vocab_size=640):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=fallback))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    specials = ["<unk>", "<s>", "</s>"] + (["<0x%02X>" % b for b in range(256)] if fallback else [])
    d = json.loads(bpe(t, vocab_size, specials).to_str())
    d["added_tokens"] = d["added_tokens"][:3]
    t = Tokenizer.from_str(json.dumps(d))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    t.decoder = decoders.Metaspace(prepend_scheme=scheme, split=split)
    return t


def llama2():
    t = metaspace("always", True)
    t.pre_tokenizer = None
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    return t


def qwen():
    t = byte_level(pattern=Regex(QWEN), nfc=True)
    t.add_tokens([AddedToken("<think>", normalized=False), AddedToken("<both>", lstrip=True, rstrip=True, normalized=False),
                  AddedToken("WORD", single_word=True), AddedToken("cafe\u0301", normalized=True),
                  AddedToken("<think>!", normalized=False)])
    t.add_special_tokens([AddedToken("<|im|>", special=True, rstrip=True)])
    return t


def llama3():
    t = byte_level(pattern=Regex(LLAMA3))
    d = json.loads(t.to_str())
    d["model"]["ignore_merges"] = True
    next_id = max(d["model"]["vocab"].values()) + 1
    for word in ["\u0120experts", "zzz", "\u00e9"]:  # the first and last are known or reachable; the second is not
        if word not in d["model"]["vocab"]:
            d["model"]["vocab"][word] = next_id
            next_id += 1
    return Tokenizer.from_str(json.dumps(d))


def llama2_with_words():
    t = llama2()
    t.add_tokens([AddedToken("<think>", normalized=True), AddedToken("<both>", lstrip=True, rstrip=True, normalized=False)])
    return t


TOKENIZERS = {
    "gpt2_style": byte_level,
    "qwen_style": qwen,
    "llama3_style": llama3,
    "llama2_style": llama2,
    "llama2_words": llama2_with_words,
    "mistral_style": lambda: metaspace("first", False),
    "metaspace_always": lambda: metaspace("always", True),
    "metaspace_unk": lambda: metaspace("never", True, fallback=False, vocab_size=300),
    "prefix_space": lambda: byte_level(prefix=True, vocab_size=320),
    "digits_removed": lambda: byte_level(pattern=Regex(r"[\s,;]+"), behaviour="removed", vocab_size=320,
                                         first=[pre_tokenizers.Digits(individual_digits=True)]),
    "merged_previous": lambda: byte_level(pattern=" ", behaviour="merged_with_previous", vocab_size=320,
                                          first=[pre_tokenizers.Digits(individual_digits=False)]),
    "merged_next": lambda: byte_level(pattern=Regex(r"\s"), behaviour="merged_with_next", vocab_size=320),
    "inverted": lambda: byte_level(pattern=Regex(r"\p{L}+"), behaviour="removed", invert=True, vocab_size=320),
}


def write_json(path, value, compact=True):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=True, separators=(",", ":") if compact else None)
        f.write("\n")


def main():
    out = sys.argv[1]
    os.makedirs(out + "/gpt2_files", exist_ok=True)
    for name, make in TOKENIZERS.items():
        t = make()
        d = json.loads(t.to_str())
        if name == "llama2_style":  # as older files write them
            d["model"]["merges"] = [" ".join(m) for m in d["model"]["merges"]]
        write_json("%s/%s.json" % (out, name), d)
        t = Tokenizer.from_str(json.dumps(d))
        cases = []
        for text in texts():
            t.encode_special_tokens = False
            ids = t.encode(text, add_special_tokens=False).ids
            case = {"text": text, "ids": ids, "decoded": t.decode(ids)}
            t.encode_special_tokens = True
            as_text = t.encode(text, add_special_tokens=False).ids
            if as_text != ids:
                case["ids_of_document"] = as_text
            cases.append(case)
        write_json("%s/%s.cases.json" % (out, name), cases)
        if name == "gpt2_style":
            vocab = {("<|endoftext|>" if k == "<|end|>" else k): v for k, v in d["model"]["vocab"].items()}
            write_json(out + "/gpt2_files/encoder.json", vocab)
            with open(out + "/gpt2_files/vocab.bpe", "w", encoding="utf-8") as f:
                f.write("#version: 0.2\n" + "".join("%s %s\n" % tuple(m) for m in d["model"]["merges"]))


if __name__ == "__main__":
    main()
