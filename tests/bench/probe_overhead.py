#!/usr/bin/env python3
"""What influence probes cost: step times of one run of which some steps are scored and the others are not.

    tests/bench/probe_overhead.py CADRE MANIFEST [--config configs/bench-olmoe4.yaml] [--period 200] [KEY=VALUE ...]

MANIFEST is prepared text with a held-out split, tokenized with at most the configuration's vocabulary. The run is ended a
quarter of a period into its third one, when two probes lie behind it. Prints one JSON object: the share by which a period
with its probe is longer than as many steps without one. Nothing else may use the GPU.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time


def run(command, metrics, steps):
    """The lines of a run up to a step; it is killed there, since its last checkpoint is of no use and may be large."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while True:
            ended = process.poll() is not None
            text = metrics.read_text() if metrics.exists() else ""
            lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
            if any(line["kind"] == "train" and line["step"] >= steps for line in lines):
                return lines
            if ended:
                raise SystemExit(f"the run ended with {process.returncode} before step {steps}")
            time.sleep(0.5)
    finally:
        process.kill()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cadre")
    parser.add_argument("manifest")
    parser.add_argument("--config", default="configs/bench-olmoe4.yaml")
    parser.add_argument("--period", type=int, default=200)
    parser.add_argument("overrides", nargs="*", help="key=value, as for `cadre train`")
    arguments = parser.parse_intermixed_args()
    period = arguments.period
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        command = [arguments.cadre, "train", arguments.config, f"data.manifest={arguments.manifest}", f"out={out}",
                   "log.every=1", f"train.steps={3 * period}", f"influence.period={period}", "checkpoint.every=0",
                   *arguments.overrides]
        lines = run(command, out / "metrics.jsonl", 2 * period + period // 4)
    times = {line["step"]: line["step_ms"] for line in lines if line["kind"] == "train"}
    probes = [line for line in lines if line["kind"] == "probe"]
    if len(probes) != 2:
        raise SystemExit(f"found {len(probes)} probes in {2 * period + period // 4} steps, expected 2")
    # A probe begins in the step after a multiple of the period and ends in the step of its line.
    scored = [range((line["step"] - 1) // period * period + 1, line["step"] + 1) for line in probes]
    inside = {step for steps in scored for step in steps}
    plain = statistics.median(ms for step, ms in times.items() if step > period // 2 and step not in inside)
    extra = [sum(times[step] - plain for step in steps) for steps in scored]
    print(json.dumps({
        "config": arguments.config, "period": period, "scored_steps": [len(steps) for steps in scored],
        "step_ms_plain": plain,
        "step_ms_first_of_probe": [times[steps[0]] for steps in scored],
        "step_ms_scored_median": [statistics.median(times[step] for step in steps) for steps in scored],
        "probe_ms": extra,
        "share": [ms / (period * plain) for ms in extra],
        "identity_error": [line.get("identity_error") for line in probes],
    }))


if __name__ == "__main__":
    main()
