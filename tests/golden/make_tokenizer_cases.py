#!/usr/bin/env python3
"""Writes texts with the ids that the reference library gives them, for data_tokenizer_conformance, and prints how fast
the reference was on one thread.

    make_tokenizer_cases.py TOKENIZER CASES [--train VOCAB] [--unicode] [--megabytes N] [--rounds N] [FILE.jsonl ...]

TOKENIZER is a tokenizer.json or a folder with GPT-2's encoder.json and vocab.bpe. With --train, a Llama-2-style
tokenizer (metaspace, byte fallback) is trained on the texts first and written to TOKENIZER. Texts come from the
"text" fields of the JSON lines, the same share of every file; --unicode adds every code point of all planes in several
surroundings, control characters, and random mixtures. The file of cases is a row of: length of the text, text, number of
ids, ids; numbers are 32 bits, little-endian. Needs `pip install tokenizers` (0.23.3 was used; with --tiktoken, that too).
"""
import argparse
import json
import os
import random
import struct
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def load(path):
    if not os.path.isdir(path):
        return Tokenizer.from_file(path)
    t = Tokenizer(models.BPE.from_file(path + "/encoder.json", path + "/vocab.bpe"))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    return t


def train_llama_style(texts, path, vocab_size):
    """BPE over metaspace words with byte fallback; then the layout of Llama 2's file, where the normaliser writes the
    blanks and nothing cuts words."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    specials = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    t.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, limit_alphabet=4000, show_progress=False))
    d = json.loads(t.to_str())
    d["added_tokens"] = d["added_tokens"][:3]
    d["pre_tokenizer"] = None
    d["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}
    d["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    with open(path, "w") as f:
        json.dump(d, f, ensure_ascii=False)


def unicode_texts():
    for begin in range(0, len(CODE_POINTS), 256):
        part = [chr(c) for c in CODE_POINTS[begin:begin + 256]]
        yield "".join(part)
        yield "".join("a" + c for c in part)
        yield "".join(" " + c + "1" for c in part)
        yield "".join("'" + c + " \n" for c in part)
        yield "".join("e" + c + "\u0301\u0323 " for c in part)
    rng = random.Random(1)
    special = ["<|endoftext|>", "<|im_start|>", "<s>", "</s>", "<unk>", "<0x41>", "'LL", "'\u017f", "  ", "\r\n", "\n\n", "\t",
               "\u2581", "\u0000", "\u0085", "\u00a0", "\u180e", "\u1100\u1161\u11a8", "\u212b", "\ufb01"]
    for _ in range(20000):
        n = rng.randrange(1, 60)
        yield "".join(rng.choice(special) if rng.random() < 0.25 else chr(rng.choice(CODE_POINTS)) if rng.random() < 0.4
                      else chr(rng.randrange(0x20, 0x250)) for _ in range(n))
    for _ in range(20000):  # marks and composition
        n = rng.randrange(1, 40)
        yield "".join(chr(rng.choice([rng.randrange(0x300, 0x370), rng.randrange(0xC0, 0x250), rng.randrange(0x900, 0xE00),
                                      rng.randrange(0x1100, 0x1200), rng.randrange(0xAC00, 0xD7A4), rng.randrange(0x1AB0, 0x1F00),
                                      rng.randrange(0x61, 0x7B)])) for _ in range(n))


def read_texts(files, megabytes):
    share = megabytes * 1e6 / max(len(files), 1)
    for name in files:
        size = 0
        with open(name, encoding="utf-8") as lines:
            for line in lines:
                text = json.loads(line)["text"]
                size += len(text.encode())
                yield text
                if size >= share:
                    break


def speed(run, size, rounds):
    best = 0.0
    for _ in range(rounds):
        begin = time.process_time()
        run()
        best = max(best, size / 1e6 / (time.process_time() - begin))
    return best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tokenizer")
    parser.add_argument("cases")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--unicode", action="store_true")
    parser.add_argument("--train", type=int, metavar="VOCAB")
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--tiktoken", metavar="NAME")
    args = parser.parse_intermixed_args()
    texts = list(read_texts(args.files, args.megabytes))
    if args.train:
        train_llama_style(texts, args.tokenizer, args.train)
    if args.unicode:
        texts += unicode_texts()
    reference = load(args.tokenizer)
    with open(args.cases, "wb") as out:
        for text in texts:
            data = text.encode()
            ids = reference.encode(text, add_special_tokens=False).ids
            out.write(struct.pack("<I", len(data)) + data + struct.pack("<I%di" % len(ids), len(ids), *ids))
    size = sum(len(t.encode()) for t in texts)
    print("tokenizers %s: %d texts, %d bytes" % (tokenizers.__version__, len(texts), size))
    if args.rounds:
        encode = speed(lambda: [reference.encode(t, add_special_tokens=False).ids for t in texts], size, args.rounds)
        fast = speed(lambda: [e.ids for e in reference.encode_batch_fast(texts, add_special_tokens=False)], size, args.rounds)
        print("reference, one thread, best of %d: encode %.1f, encode_batch_fast %.1f MB a CPU second" % (args.rounds, encode, fast))
    if args.tiktoken:
        import tiktoken
        t = tiktoken.get_encoding(args.tiktoken)
        rate = speed(lambda: [t.encode_ordinary(x) for x in texts], size, args.rounds)
        print("tiktoken %s, best of %d: %.1f MB a CPU second" % (tiktoken.__version__, args.rounds, rate))


if __name__ == "__main__":
    sys.exit(main())
