"""Makes tests/golden/training.json: the losses of 20 steps of AdamW on two of tests/golden/models, by a plain PyTorch loop.

    venv/bin/python tests/golden/make_training.py tests/golden/models tests/golden/training.json

The loop is the recipe of Cadre's default step: cross-entropy as a mean over all targets of the batch, gradients clipped to norm
1, decoupled weight decay on everything but norms. The model with experts also has the balance loss coef * E * sum(f P) of each
layer with experts, f the share of all choices that an expert got and P its mean probability, and the z-loss. What is kept are
the cross-entropy before each step, as Cadre reports it, and the tokens, which are made by a formula that both sides know.
Made with torch 2.15 and transformers 5.23.
"""
import argparse
import json
import pathlib

import torch
import transformers

STEPS, SEQUENCES, LENGTH, VOCAB = 20, 4, 16, 32
LR, DECAY, CLIP, COEF, Z = 3e-3, 0.1, 1.0, 0.01, 0.001


def batch(step):
    """(B, T + 1) tokens: from a start and a stride of each row's own; every fifth row of all has noise in it."""
    rows = []
    for row in range(SEQUENCES):
        index = step * SEQUENCES + row
        noise = 11 if index % 5 == 0 else 0
        rows.append([(index * 7 + t * (1 + index % 3) + noise * (t * t % 7)) % VOCAB for t in range(LENGTH + 1)])
    return torch.tensor(rows)


def aux_loss(model, inputs):
    """Of the layers with experts, whose routers saw `inputs`."""
    total = 0
    for gate, hidden in inputs:
        top_k = model.config.num_experts_per_tok
        logits = torch.nn.functional.linear(hidden.flatten(0, -2), gate.weight)
        probs = logits.softmax(-1)
        chosen = probs.topk(top_k, -1).indices
        share = torch.bincount(chosen.flatten(), minlength=logits.shape[-1]) / chosen.numel()
        total = total + COEF * logits.shape[-1] * (share * probs.mean(0)).sum()
        total = total + Z * logits.logsumexp(-1).square().mean()
    return total


def train(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.train()
    norms = [w for name, w in model.named_parameters() if "norm" in name]
    others = [w for name, w in model.named_parameters() if "norm" not in name]
    optimizer = torch.optim.AdamW([dict(params=others, weight_decay=DECAY), dict(params=norms, weight_decay=0.0)], lr=LR,
                                  betas=(0.9, 0.95), eps=1e-8)
    gates, inputs = [m for name, m in model.named_modules() if name.endswith("mlp.gate")], []
    for gate in gates:
        gate.register_forward_hook(lambda module, args, out: inputs.append((module, args[0])))
    losses = []
    for step in range(STEPS):
        tokens = batch(step)
        inputs.clear()
        logits = model(input_ids=tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        (loss + aux_loss(model, inputs)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    return losses


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("models", type=pathlib.Path)
    arguments.add_argument("out", type=pathlib.Path)
    arguments = arguments.parse_args()
    result = {name: train(arguments.models / name) for name in ("llama_tied", "qwen3_moe")}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, losses in result.items():
        print(f"{name}: {losses[0]:.6f} -> {losses[-1]:.6f}")


if __name__ == "__main__":
    main()
