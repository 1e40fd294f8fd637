#!/usr/bin/env python3
"""Turns files of a Linux distribution into one JSONL file a domain, for the quickstart. Standard library only.

  clean.py packages UNPACKED OUT   UNPACKED/DOMAIN/PACKAGE/... are unpacked packages (fetch.sh makes them)
  clean.py machine OUT [--skip DOMAIN ...] [--limit N]   text that every installed system has

A line of OUT/DOMAIN.jsonl is {"id", "domain", "text"}. Files are taken in the order of the hash of their name until a
domain has CAP bytes, and cut into pieces of about PIECE bytes, so the same packages give the same bytes. Prints a line a
domain. Domains under LEAST bytes are left out.
"""
import argparse, glob, gzip, hashlib, json, pathlib, re, sys, unicodedata

CAP = 3_500_000   # bytes of text a domain
LEAST = 500_000
PIECE = 8_000     # small enough that 1 in 50 documents held out still is a few dozen thousand tokens
SHORTEST = 200
SOURCE = {".py", ".h", ".hpp", ".hh", ".c", ".cc", ".cpp", ".pm", ".pl", ".pod", ".cmake"}
PLAIN = {".txt", ".md", ".rst"}
MANUAL = re.compile(r"/man/(?:[a-z]{2}/)?man\d/[^/]+\.gz$")

# What to read where nothing can be downloaded: domain -> glob patterns.
MACHINE = {
    "code_python": ["/usr/lib/python3*/**/*.py"],
    "code_cpp": ["/usr/include/c++/**/*", "/usr/include/absl/**/*.h", "/usr/include/fmt/*.h", "/usr/include/nlohmann/**/*"],
    "code_c": ["/usr/include/linux/**/*.h", "/usr/include/*.h", "/usr/include/*-linux-gnu/**/*.h"],
    "code_perl": ["/usr/share/perl/**/*.p[ml]", "/usr/lib/*/perl-base/**/*.pm"],
    "code_cmake": ["/usr/share/cmake-*/Modules/**/*.cmake"],
    "docs": ["/usr/share/cmake-*/Help/**/*.rst", "/usr/share/doc/**/*.txt*", "/usr/share/doc/**/README*"],
    "licences": ["/usr/share/doc/*/copyright", "/usr/share/common-licenses/*"],
    "changelogs": ["/usr/share/doc/*/changelog*.gz", "/usr/share/doc/*/NEWS*"],
    "manuals": ["/usr/share/man/man[1-9]/*.gz"],
    "german": ["/usr/share/man/de/man*/*.gz"],
    "french": ["/usr/share/man/fr/man*/*.gz"],
}
LEFT_OUT = re.compile(r"/unicore/|/test/|/tests/|/encodings/|/pydoc_data/|/licenses?/|/fortunes/(?:ethnic|men-women|drugs|politics)$")


def read(path):
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    if b"\0" in data:
        return ""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


# ---- Manual pages: the man macros, enough of them for readable text; mdoc pages (BSD) are left out.
NAMED = {"aq": "'", "dq": '"', "lq": "\u201c", "rq": "\u201d", "oq": "\u2018", "cq": "\u2019", "bu": "*", "em": "-",
         "en": "-", "hy": "-", "ti": "~", "ha": "^", "rs": "\\", "ga": "`", "Fo": "\u00ab", "Fc": "\u00bb", "co": "(c)",
         "ss": "\u00df", "Bq": "\u201e", "->": "->"}
ACCENTS = {":": "\u0308", "'": "\u0301", "`": "\u0300", "^": "\u0302", "~": "\u0303", ",": "\u0327"}


def named(match):
    name = match.group(1) or match.group(2)
    if name in NAMED:
        return NAMED[name]
    if len(name) == 2 and name[0] in ACCENTS:
        return unicodedata.normalize("NFC", name[1] + ACCENTS[name[0]])
    if re.fullmatch(r"u[0-9A-F]{4,5}", name):
        return chr(int(name[1:], 16))
    return ""


def inline(text):
    text = re.sub(r'\\".*', "", text)
    text = re.sub(r"\\[fFmM](?:\[[^]]*\]|\(..|.)|\\s[-+]?\d+|\\\*(?:\[[^]]*\]|\(..|.)|\\[hvw]'[^']*'", "", text)
    text = re.sub(r"\\\((..)|\\\[([^]]*)\]", named, text)
    text = re.sub(r"\\[&|^/,:%c)]", "", text)
    return text.replace("\\-", "-").replace("\\ ", " ").replace("\\~", " ").replace("\\e", "\\").replace("\\.", ".")


def words(rest):
    return [quoted.replace('""', '"') or bare for quoted, bare in re.findall(r'"((?:[^"]|"")*)"|(\S+)', rest)]


def manual(roff):
    if re.search(r"^\.Dd ", roff, re.M):
        return ""
    blocks, line, fill, until = [], [], True, None

    def end():
        if line:
            blocks.append(" ".join(line) if fill else "\n".join(line))
            line.clear()

    for raw in roff.split("\n"):
        if until:
            until = None if raw.startswith(until) else until
            continue
        request = re.match(r"[.'][ \t]*([A-Za-z]*)[ \t]*(.*)", raw)
        if not request:
            if raw.strip():
                line.append(inline(raw))
            elif fill:
                end()
            else:
                line.append("")
            continue
        name, rest = request.groups()
        if name in ("TS", "de", "ig"):
            until = ".TE" if name == "TS" else ".."
        elif name in ("SH", "SS"):
            end()
            blocks.append(inline(" ".join(words(rest))))
        elif name in ("nf", "EX", "fi", "EE"):
            end()
            fill = name in ("fi", "EE")
        elif name in ("PP", "P", "LP", "TP", "IP", "HP", "sp", "RS", "RE"):
            end()
            if name == "IP" and words(rest):
                line.append(inline(words(rest)[0]))
        elif name in ("B", "I", "SM", "SB"):
            line.append(inline(" ".join(words(rest))))
        elif name in ("BR", "RB", "IR", "RI", "BI", "IB"):
            line.append(inline("".join(words(rest))))
    end()
    return "\n\n".join(blocks)


# ---- Any file to documents.
def tidy(text):
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\u00ad\ufeff\u200b]", "", text.replace("\r\n", "\n"))
    text = re.sub(r"[ \t]+$", "", text, flags=re.M)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def is_text(text):
    """Not a table of numbers, not minified: half letters, no very long lines on average."""
    letters = sum(c.isalpha() for c in text[:20_000])
    return 2 * letters > len(text[:20_000]) and len(text) < 2_000 * (text.count("\n") + 1)


def pieces(text):
    """Cuts at blank lines, else at line ends, near PIECE characters."""
    while len(text) > 1.5 * PIECE:
        cut = text.rfind("\n\n", PIECE // 2, PIECE)
        cut = cut if cut >= 0 else text.rfind("\n", PIECE // 2, PIECE)
        cut = cut if cut >= 0 else PIECE
        yield text[:cut].strip("\n") + "\n"
        text = text[cut:].lstrip("\n")
    yield text


def file_text(path):
    name = str(path)
    if MANUAL.search(name):
        return manual(read(path))
    text = read(path)
    if "/games/fortunes/" in name:
        text = re.sub(r"^%$", "", text, flags=re.M)
    if name.endswith(".txt.gz"):
        text = re.sub(r"^ *[|+].*[|+]$", "", text, flags=re.M)  # drawn tables
    return text


def write_domain(out, domain, files):
    """files: (id, path) pairs. Returns bytes of text written, 0 when there is too little."""
    total, lines = 0, []
    for name, path in sorted(files, key=lambda pair: hashlib.sha256(pair[0].encode()).digest()):
        try:
            text = tidy(file_text(path))
        except (OSError, EOFError):
            continue
        if not is_text(text):
            continue
        for part, piece in enumerate(pieces(text)):
            if len(piece) >= SHORTEST and total < CAP:
                total += len(piece.encode())
                lines.append(json.dumps({"id": f"{name}#{part}", "domain": domain, "text": piece}, ensure_ascii=False))
        if total >= CAP:
            break
    if total < LEAST:
        return 0
    (out / f"{domain}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"  {domain:<12} {len(lines):>5} documents {total / 1e6:6.2f} MB", flush=True)
    return total


def wanted(path):
    name = str(path)
    if LEFT_OUT.search(name) or "/fortunes/off/" in name or path.name.startswith("changelog") or path.name == "copyright":
        return False
    if MANUAL.search(name) or path.suffix in SOURCE | PLAIN or name.endswith(".txt.gz"):
        return True
    return not path.suffix and ("/games/fortunes/" in name or "/include/" in name)


def packages(unpacked, out):
    for folder in sorted(unpacked.iterdir()):
        files = [(str(path.relative_to(folder)), path) for path in folder.rglob("*")
                 if path.is_file() and not path.is_symlink() and wanted(path)]
        write_domain(out, folder.name, files)


def machine(out, skip, limit):
    made = 0
    for domain, patterns in MACHINE.items():
        if domain in skip or made == limit:
            continue
        found = {path for pattern in patterns for path in map(pathlib.Path, glob.glob(pattern, recursive=True))
                 if path.is_file() and not path.is_symlink() and not LEFT_OUT.search(str(path))}
        made += write_domain(out, domain, [(str(path), path) for path in found]) > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("packages")
    verb.add_argument("unpacked", type=pathlib.Path)
    verb.add_argument("out", type=pathlib.Path)
    verb = verbs.add_parser("machine")
    verb.add_argument("out", type=pathlib.Path)
    verb.add_argument("--skip", nargs="*", default=[])
    verb.add_argument("--limit", type=int, default=len(MACHINE))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.verb == "packages":
        packages(args.unpacked, args.out)
    else:
        machine(args.out, args.skip, args.limit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
