"""The report's two screenshots: something is drawn all the way down, in the palette's colours, on a light and on a dark page.
check_screenshots.py LIGHT.png DARK.png"""
import struct
import sys
import zlib


def read_png(path):
    data = open(path, "rb").read()
    assert data[:8] == b"\x89PNG\r\n\x1a\n", path
    at, packed = 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
        if kind == b"IDAT":
            packed += body
        at += 12 + length
    assert depth == 8 and colour in (2, 6), (depth, colour)
    size = 3 if colour == 2 else 4
    raw, rows, before = zlib.decompress(packed), [], bytearray(width * size)
    for y in range(height):
        start = y * (width * size + 1)
        rule, row = raw[start], bytearray(raw[start + 1:start + 1 + width * size])
        for i in range(len(row)):
            left = row[i - size] if i >= size else 0
            up = before[i]
            corner = before[i - size] if i >= size else 0
            if rule == 1:
                row[i] = (row[i] + left) & 255
            elif rule == 2:
                row[i] = (row[i] + up) & 255
            elif rule == 3:
                row[i] = (row[i] + (left + up) // 2) & 255
            elif rule == 4:
                guess = left + up - corner
                nearest = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))[2]
                row[i] = (row[i] + nearest) & 255
        before = row
        rows.append([bytes(row[i:i + 3]) for i in range(0, len(row), size)])
    return rows


def check(path, page, line):
    rows = read_png(path)
    assert rows[2][2] == page, (path, rows[2][2])
    drawn = sum(row.count(line) for row in rows)
    assert drawn > 300, f"{path}: {drawn} pixels of the first line colour"
    bands = [sum(1 for row in rows[y:y + 250] for pixel in row if pixel != page) for y in range(0, 2000, 250)]
    assert min(bands) > 2000, f"{path}: an empty part, {bands}"
    colours = {pixel for row in rows[::3] for pixel in row}
    assert len(colours) > 40, f"{path}: {len(colours)} colours"


check(sys.argv[1], b"\xfb\xfb\xfa", b"\x08\x68\xac")
check(sys.argv[2], b"\x14\x17\x1a", b"\x58\xa9\xe0")
print("both screenshots show the report")
