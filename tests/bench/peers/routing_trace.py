"""Routing traces (docs/formats.md): which experts real text chose in a trained model, as router logits.

    python3 routing_trace.py CONFIG HF_DIR BATCHES OUT.safetensors    # records; CONFIG and BATCHES as in train_step.py
"""
import sys

import torch


def record(config, weights, batches, out):
    from safetensors.torch import save_file

    import train_step

    c = train_step.CONFIGS[config]
    model = train_step.build_torch(c).cuda()
    train_step.fill(model, c, weights)
    model.bfloat16()
    tokens = train_step.read_batches(batches, c)[0, 0]
    logits = []
    for layer in model.layers:
        layer.norm2.register_forward_hook(
            lambda _, __, h, layer=layer: logits.append((h.reshape(-1, c["dim"]) @ layer.router.t()).cpu()))
    with torch.no_grad():
        model(tokens, tokens, *train_step.rotary(c))
    trace = torch.stack(logits)
    save_file({"logits": trace}, out, {"config": config, "top_k": str(c["top_k"])})
    for i, layer in enumerate(trace.float()):
        loads = torch.bincount(layer.topk(c["top_k"], -1).indices.reshape(-1), minlength=c["experts"])
        print(f"layer {i}: the busiest expert has {loads.max() / loads.float().mean():.2f} times the mean, the idlest {loads.min() / loads.float().mean():.2f}")


def inputs(path, layer, dim, seed=1):
    """x (T, dim) and router (E, dim) in bf16 on the GPU whose product gives the trace's logits, up to rounding: x is
    normal but for its part along the router's rows, which are orthogonal."""
    from safetensors.torch import load_file

    logits = load_file(path)["logits"][layer].float().cuda()
    torch.manual_seed(seed)
    rows = torch.linalg.qr(torch.randn(dim, logits.shape[1], device="cuda"))[0].t()
    scale = 0.02 * dim**0.5  # as long as rows of normal weights with a deviation of 0.02
    x = torch.randn(logits.shape[0], dim, device="cuda")
    x += (logits / scale - x @ rows.t()) @ rows
    return x.bfloat16(), (rows * scale).bfloat16()


if __name__ == "__main__":
    record(*sys.argv[1:])
