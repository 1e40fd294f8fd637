"""Cadre's step on several GPUs of one host beside a peer's, in one call.

    python3 two_gpus.py CADRE OUT.json [--gpus 2] [--configs olmoe4,olmoe-1b-7b] [--peer PROGRAM] [--steps 10] [--rounds 2]

PROGRAM is a script for torchrun that takes `CONFIG [--ep] [--recompute] [--batch B] [--steps N]` and prints one JSON object with
step_ms, tokens_s_gpu and peak_GiB. Both run data parallel and with split experts, the same sequences a GPU, in turns, ROUNDS
times; the fastest of each counts. A run that fails is recorded with the end of what it said, and the rest goes on."""
import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
BATCH = {"olmoe4": 8, "mixtral-mini": 8, "olmoe-1b-7b": 2}  # sequences a GPU, as configs/bench-NAME.yaml has them


def last_json(text):
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    return None


def stop(process):
    """Asks mpirun or torchrun to end its ranks: killed at once, it would leave them on the GPUs."""
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def call(command, limit):
    start = time.time()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=errors, text=True)
        try:
            code = process.wait(limit)
            failure = None
        except subprocess.TimeoutExpired:
            stop(process)
            code, failure = None, f"no end after {limit} s"
        except BaseException:
            stop(process)
            raise
        for file in (said, errors):
            file.seek(0)
        text, complaints = said.read(), errors.read()
    result = last_json(text) if code == 0 else None
    if result is None:
        failure = f"{failure or f'rc {code}'}: {(text + complaints)[-600:]}"
    return result, failure, round(time.time() - start, 1)


def run_cadre(options, config, experts, steps):
    degree = options.gpus if experts else 1
    command = ["mpirun", "-np", str(options.gpus), "--bind-to", "none", options.cadre, "bench", f"configs/bench-{config}.yaml",
               f"mesh.ep={degree}", f"train.micro_batch={BATCH[config]}", f"train.global_batch={BATCH[config] * options.gpus}",
               f"train.steps={steps}", "--json"]
    found, failure, seconds = call(command, options.limit)
    entry = {"program": "cadre", "config": config, "experts_split": experts, "seconds": seconds}
    if failure:
        return entry | {"failure": failure}
    return entry | {"step_ms": found["step_ms_median"], "tokens_s_gpu": found["tokens_per_s"] / options.gpus,
                    "peak_gib": found["gpu_gib"], "exposed": found["exposed_communication"], "loss": found["loss"]}


def run_peer(options, config, experts, steps):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(options.gpus), options.peer, config,
               "--batch", str(BATCH[config]), "--steps", str(steps)] + (["--ep"] if experts else [])
    found, failure, seconds = call(command, options.limit)
    entry = {"program": "peer", "config": config, "experts_split": experts, "seconds": seconds}
    if failure:
        return entry | {"failure": failure}
    return entry | {"step_ms": found["step_ms"], "tokens_s_gpu": found["tokens_s_gpu"], "peak_gib": found["peak_GiB"], "loss": found["loss"]}


def best(entries, program, config):
    speeds = [e["tokens_s_gpu"] for e in entries if e["program"] == program and e["config"] == config and "failure" not in e]
    return max(speeds, default=None)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cadre")
    parser.add_argument("out")
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--configs", default="olmoe4,olmoe-1b-7b")
    parser.add_argument("--peer")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit", type=int, default=180, help="seconds of one run")
    options = parser.parse_args()
    options.cadre = str(pathlib.Path(options.cadre).resolve())
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    entries, ratios = [], {}
    for config in options.configs.split(","):
        for _ in range(options.rounds):
            for experts in (True, False):
                entries.append(run_cadre(options, config, experts, options.steps))
                print(json.dumps(entries[-1]), flush=True)
                if options.peer:
                    entries.append(run_peer(options, config, experts, options.steps))
                    print(json.dumps(entries[-1]), flush=True)
        ours, theirs = best(entries, "cadre", config), best(entries, "peer", config)
        ratios[config] = round(ours / theirs, 3) if ours and theirs else None
        # After each model, so that a machine whose time ends leaves what there is.
        pathlib.Path(options.out).write_text(json.dumps({"tokens_s_gpu_over_peer": ratios, "runs": entries}, indent=1) + "\n")
    print(json.dumps({"tokens_s_gpu_over_peer": ratios}))


main()
