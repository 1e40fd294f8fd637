#!/usr/bin/env python3
"""Writes data/tokenizers/unicode_tables.cc: what the reference tokenizer library knows of Unicode and this project's
packages do not, or the other way round. Found by asking the library about every code point, so that ids agree on all
planes. Needs `pip install tokenizers` (0.23.3 was used) and a Python whose unicodedata is 14.0.0 (3.11), the version
of PCRE2 10.42.

    python3 tests/golden/make_unicode_tables.py > data/tokenizers/unicode_tables.cc
"""
import sys
import unicodedata

from tokenizers import Regex, __version__, normalizers, pre_tokenizers

assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CATEGORIES = ["Lu", "Ll", "Lt", "Lm", "Lo", "M", "Nd", "Nl", "No", "P", "S"]


def members(name):
    split = pre_tokenizers.Split(Regex(r"\p{%s}" % name), "removed")
    return {c for c in CODE_POINTS if not split.pre_tokenize_str(chr(c))}


def ranges(code_points):
    found = []
    for c in sorted(code_points):
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c])
    return found


def newer():
    """(first, last, category) of the code points that the reference has a category for and Unicode 14 does not."""
    rows = []
    for name in CATEGORIES:
        known = {c for c in CODE_POINTS if unicodedata.category(chr(c)).startswith(name)}
        theirs = members(name)
        assert not known - theirs, (name, sorted(known - theirs)[:5])
        rows += [(a, b, name) for a, b in ranges(theirs - known)]
    return sorted(rows)


def active_in_nfc():
    """Code points that composition may move, join or replace, as far as the reference knows them (Unicode 9)."""
    nfc = normalizers.NFC()
    seconds = set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))  # Hangul vowels and finals
    for c in CODE_POINTS:
        parts = unicodedata.decomposition(chr(c)).split()
        if parts and not parts[0].startswith("<"):
            pair = "".join(chr(int(x, 16)) for x in parts)
            # A pair that the reference does not compose, although Unicode 14 does, is younger than its tables.
            if len(parts) == 2 and nfc.normalize_str(pair) == chr(c):
                seconds.add(int(parts[1], 16))
    active = set()
    for c in CODE_POINTS:
        s = chr(c)
        if c in seconds or nfc.normalize_str(s) != s:
            active.add(c)
        elif unicodedata.combining(s):
            tests = ["\u0628" + s + m + "x" for m in "\u0334\u0301\u0345\u0323"]
            if all(nfc.normalize_str(t) == unicodedata.normalize("NFC", t) for t in tests):
                active.add(c)
    return ranges(active)


def emit(rows):
    line = " "
    for row in rows:
        cell = " {" + ", ".join(row) + "},"
        if len(line) + len(cell) > 108:
            print(line)
            line = " "
        line += cell
    print(line)


print(f"// Made by tests/golden/make_unicode_tables.py from tokenizers {__version__}; do not edit.")
print('#include "data/tokenizers/unicode_tables.h"\n\nnamespace cadre::data {\n')
print("// clang-format off")
print("const std::vector<CategoryRange>& newer_code_points() {\n  static const std::vector<CategoryRange> table = {")
emit([(hex(a), hex(b), "Category::k" + name) for a, b, name in newer()])
print("  };\n  return table;\n}\n")
print("const std::vector<CodePointRange>& nfc_active() {\n  static const std::vector<CodePointRange> table = {")
emit([(hex(a), hex(b)) for a, b in active_in_nfc()])
print("  };\n  return table;\n}\n// clang-format on\n\n}  // namespace cadre::data")
sys.stdout.flush()
