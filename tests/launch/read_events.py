"""Reads RUN/tensorboard with TensorBoard's own reader and compares it with RUN/metrics.jsonl.  read_events.py RUN"""
import json
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

run = sys.argv[1]
events = EventAccumulator(run + "/tensorboard", size_guidance={"scalars": 0})
events.Reload()
expected = {}
for line in map(json.loads, open(run + "/metrics.jsonl")):
    if line["kind"] not in ("train", "eval"):
        continue
    for key, value in line.items():
        if key == "step":
            continue
        parts = value.items() if isinstance(value, dict) else [(None, value)]
        for part, number in parts:
            if isinstance(number, (int, float)):
                tag = line["kind"] + "/" + key + ("/" + part if part else "")
                expected.setdefault(tag, {})[line["step"]] = struct.unpack("f", struct.pack("f", number))[0]
found = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
assert len(expected) > 10, sorted(expected)
assert found.keys() == expected.keys(), (sorted(found), sorted(expected))
for tag in expected:
    assert found[tag] == expected[tag], (tag, found[tag], expected[tag])
print(f"TensorBoard reads {len(found)} curves, {sum(map(len, found.values()))} points, all equal to metrics.jsonl")
