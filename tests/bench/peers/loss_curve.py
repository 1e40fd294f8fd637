"""Draws the loss curve of tests/bench/loss_curve.cc once more: transformers' model in fp32 with torch's AdamW, from the same
initial weights on the same batches.

    loss_curve OUT 200 docs/*.md
    cadre export OUT/checkpoints/step-00000000 OUT/hf --dtype float32
    python3 tests/bench/peers/loss_curve.py OUT

Prints how far apart the curves are and writes OUT/compared.json. Losses are the cross-entropy before each step.
"""
import argparse
import json
import pathlib

import numpy
import torch
import transformers

DECAY, CLIP, COEF, Z = 0.1, 1.0, 0.01, 0.001
FIELDS = ("tokens", "targets", "mask", "segment", "position")


def batches(folder, steps, sequences, length, device):
    shape = (steps, len(FIELDS), sequences, length)
    data = numpy.fromfile(folder / "batches.bin", dtype=numpy.int32).reshape(shape)
    for step in data:
        yield {name: torch.from_numpy(values).long().to(device) for name, values in zip(FIELDS, step)}


def aux_loss(top_k, seen, real):
    """Of every layer: COEF * E * sum(share of choices * mean probability), and the squared log-sum-exp of the logits."""
    total = 0
    for gate, hidden in seen:
        logits = torch.nn.functional.linear(hidden.flatten(0, -2), gate.weight)[real]
        probs = logits.softmax(-1)
        chosen = probs.topk(top_k, -1).indices
        share = torch.bincount(chosen.flatten(), minlength=logits.shape[-1]) / chosen.numel()
        total = total + COEF * logits.shape[-1] * (share * probs.mean(0)).sum() + Z * logits.logsumexp(-1).square().mean()
    return total


def train(folder, curve, device):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32, attn_implementation="eager")
    model.to(device).train()
    norms = [w for name, w in model.named_parameters() if "norm" in name]
    others = [w for name, w in model.named_parameters() if "norm" not in name]
    optimizer = torch.optim.AdamW([dict(params=others, weight_decay=DECAY), dict(params=norms, weight_decay=0.0)], lr=1.0,
                                  betas=(0.9, 0.95), eps=1e-8)
    seen = []
    for gate in [m for name, m in model.named_modules() if name.endswith("mlp.gate")]:
        gate.register_forward_hook(lambda module, args, out: seen.append((module, args[0])))
    losses, grad_norms = [], []
    for step, batch in enumerate(batches(folder, curve["steps"], curve["sequences"], curve["seq_len"], device)):
        seen.clear()
        logits = model(input_ids=batch["tokens"], position_ids=batch["position"]).logits
        counted = batch["mask"].flatten() > 0
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1)[counted], batch["targets"].flatten()[counted])
        assert len(seen) == model.config.num_hidden_layers
        losses.append(loss.item())
        optimizer.zero_grad()
        (loss + aux_loss(model.config.num_experts_per_tok, seen, batch["segment"].flatten() >= 0)).backward()
        grad_norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        for group in optimizer.param_groups:
            group["lr"] = curve["lr"][step]
        optimizer.step()
    return {"loss": losses, "grad_norm": grad_norms}


def distance(a, b):
    difference = numpy.abs(numpy.array(a["loss"]) - numpy.array(b["loss"]))
    return {"first": float(difference[0]), "first20": float(difference[:20].max()), "mean": float(difference.mean()),
            "largest": float(difference.max()), "last20": float(numpy.mean(a["loss"][-20:]) - numpy.mean(b["loss"][-20:]))}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = arguments.parse_args()
    curve = json.loads((arguments.folder / "curve.json").read_text())
    torch.backends.cuda.matmul.allow_tf32 = False
    curve["torch_fp32"] = train(arguments.folder, curve, arguments.device)
    sides = [name for name, value in curve.items() if isinstance(value, dict)]
    result = {}
    print(f"{'curves':32} {'first':>10} {'20 steps':>10} {'mean':>10} {'largest':>10} {'last 20':>10}")
    for i, a in enumerate(sides):
        for b in sides[i + 1:]:
            d = result[f"{a} - {b}"] = distance(curve[a], curve[b])
            print(f"{a + ' - ' + b:32} " + " ".join(f"{d[key]:10.2e}" for key in ("first", "first20", "mean", "largest", "last20")))
    for name in sides:
        print(f"{name}: {curve[name]['loss'][0]:.6f} to {curve[name]['loss'][-1]:.6f}")
    (arguments.folder / "compared.json").write_text(json.dumps({"distance": result, "curves": curve}) + "\n")


if __name__ == "__main__":
    main()
