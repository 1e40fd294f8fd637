"""Cadre's MoE layer and grouped products beside PyTorch's on one GPU: the same activations, weights and so the
same routing, one run, a line of JSON for each figure and a table of ratios at the end.

    python3 moe_layer.py BENCH_MOE [--trace FILE] [--shapes olmoe,sonic-7b] [--no-gemm] [--no-compile]

BENCH_MOE is the program of tests/bench. Inputs go to it as files, and its y, dx and router gradient are compared
with PyTorch's in fp32. Activations and router are normal, which makes the load of the experts nearly even; with a
routing trace (routing_trace.py) of the shape's experts and tokens they give the trace's logits."""
import argparse
import json
import subprocess
import tempfile

import torch
import torch.nn.functional as F

import routing_trace

BF16 = torch.bfloat16
SHAPES = {  # tokens, dim, width, experts, top_k
    "olmoe": (16384, 2048, 1024, 64, 8),
    "qwen3-30b": (16384, 2048, 768, 128, 8),
    "mixtral-mini": (16384, 1024, 3584, 8, 2),
    "sonic-7b": (24576, 1536, 256, 128, 8),
}
GEMMS = [  # experts, rows, in, out
    (64, 131072, 2048, 2048),
    (64, 131072, 1024, 2048),
    (8, 32768, 1024, 7168),
    (8, 32768, 3584, 1024),
    (64, 16384, 2048, 2048),
]


def median_ms(call, repeats=21):
    """Every run starts with a cold L2 cache."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        flush.zero_()
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        stop.record()
        times.append((start, stop))
    torch.cuda.synchronize()
    return sorted(a.elapsed_time(b) for a, b in times)[repeats // 2]


def layer(x, router, gate_up, down, top_k):
    """gate_up: (E, 2 n, d), down: (E, d, n); softmax router with renormalised gates."""
    experts = router.shape[0]
    probs = F.softmax((x @ router.t()).float(), -1)
    gates, chosen = torch.topk(probs, top_k, -1)
    gates = gates / gates.sum(-1, keepdim=True)
    flat = chosen.reshape(-1)
    order = torch.argsort(flat, stable=True)
    ends = torch.histc(flat.float(), bins=experts, min=0, max=experts - 1).cumsum(0).to(torch.int32)
    token = order // top_k
    gate, up = torch._grouped_mm(x[token], gate_up.transpose(1, 2), offs=ends).chunk(2, -1)
    out = torch._grouped_mm(F.silu(gate) * up, down.transpose(1, 2), offs=ends)
    out = out * gates.reshape(-1)[order].unsqueeze(-1).to(out.dtype)
    return torch.zeros_like(x).index_add_(0, token, out)


def reference(x, router, gate_up, down, top_k):
    """The same in fp32, expert by expert."""
    gates, chosen = torch.topk(F.softmax(x @ router.t(), -1), top_k, -1)
    gates = gates / gates.sum(-1, keepdim=True)
    y = torch.zeros_like(x)
    for e in range(router.shape[0]):
        token, place = (chosen == e).nonzero(as_tuple=True)
        gate, up = (x[token] @ gate_up[e].t()).chunk(2, -1)
        out = (F.silu(gate) * up) @ down[e].t()
        y = y.index_add(0, token, out * gates[token, place].unsqueeze(-1))
    return y


def save(folder, name, tensor):
    tensor.detach().contiguous().view(torch.int16).cpu().numpy().tofile(f"{folder}/{name}.bf16")


def load(folder, name, shape):
    count = 1
    for n in shape:
        count *= n
    return torch.from_file(f"{folder}/{name}.bf16", size=count, dtype=BF16).reshape(shape).cuda()


def run_bench(program, *args):
    text = subprocess.run([program, *map(str, args)], check=True, capture_output=True, text=True).stdout
    return json.loads(text.strip().splitlines()[-1])


def difference(a, b):
    return ((a.float() - b.float()).norm() / b.float().norm()).item()


def trace_shape(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return tuple(file.get_slice("logits").get_shape()[1:])


def bench_layer(args, name):
    tokens, dim, width, experts, top_k = SHAPES[name]
    torch.manual_seed(1)
    normal = lambda *shape, scale=1.0: (torch.randn(*shape, device="cuda") * scale).to(BF16)
    x, dy = normal(tokens, dim), normal(tokens, dim)
    router = normal(experts, dim, scale=0.02)
    traced = bool(args.trace) and trace_shape(args.trace) == (tokens, experts)
    if traced:
        x, router = routing_trace.inputs(args.trace, -1, dim)
    gate, up = normal(experts, width, dim, scale=0.02), normal(experts, width, dim, scale=0.02)
    down = normal(experts, dim, width, scale=0.02)
    with tempfile.TemporaryDirectory() as folder:
        for key, value in dict(x=x, dy=dy, router=router, gate=gate, up=up, down=down).items():
            save(folder, key, value)
        ours = run_bench(args.bench, "layer", *SHAPES[name], folder)
        got = {key: load(folder, key, s.shape) for key, s in dict(y=x, dx=x, drouter=router).items()}
    with torch.no_grad():
        gate_up = torch.cat([gate, up], 1).contiguous()
    del gate, up
    exact = [t.float().requires_grad_() for t in (x, router, gate_up, down)]
    torch.backends.cuda.matmul.allow_tf32 = False
    y = reference(*exact, top_k)
    dx, drouter = torch.autograd.grad(y, exact[:2], dy.float())
    errors = {"y": difference(got["y"], y), "dx": difference(got["dx"], dx), "drouter": difference(got["drouter"], drouter)}
    del exact, y, dx, drouter
    torch.cuda.empty_cache()
    print(json.dumps(dict(shape=name, peer="cadre", traced=traced, **ours, relative_error={k: round(v, 5) for k, v in errors.items()})), flush=True)

    leaves = [t.requires_grad_() for t in (x, router, gate_up, down)]
    flops, best = 18 * tokens * top_k * dim * width, 1e9
    for peer, run in {"torch eager": layer, "torch compiled": torch.compile(layer)}.items():
        if peer == "torch compiled" and args.no_compile:
            continue

        def both():
            run(*leaves, top_k).backward(dy)
            for leaf in leaves:
                leaf.grad = None

        ms = median_ms(both)
        best = min(best, ms)
        print(json.dumps(dict(shape=name, peer=peer, fwdbwd_ms=round(ms, 3), total_TF=round(flops / ms / 1e9))), flush=True)
    return name, best / ours["fwdbwd_ms"]


def bench_gemm(args, experts, rows, inner, outer, sizes):
    share = torch.arange(1, experts + 1).float() ** (0 if sizes == "even" else -0.5)
    counts = (share / share.sum() * rows).long()
    counts[0] += rows - counts.sum()
    ends = counts.cumsum(0).to(torch.int32).cuda()
    a, b = (torch.randn(rows, n, device="cuda").to(BF16) for n in (inner, outer))
    w = (torch.randn(experts, outer, inner, device="cuda") * 0.02).to(BF16)
    flops = 2 * rows * inner * outer / 1e9
    # Each direction in the layout of the weights that suits it.
    calls = {
        "fwd": [lambda v=v: torch._grouped_mm(a, v, offs=ends) for v in (w.transpose(1, 2), w.transpose(1, 2).contiguous())],
        "dgrad": [lambda v=v: torch._grouped_mm(b, v, offs=ends) for v in (w, w.transpose(1, 2).contiguous().transpose(1, 2))],
        "wgrad": [lambda: torch._grouped_mm(b.t(), a, offs=ends), lambda: torch._grouped_mm(a.t(), b, offs=ends)],
    }
    theirs = {key: max(flops / median_ms(call) for call in ways) for key, ways in calls.items()}
    del a, b, w, calls
    torch.cuda.empty_cache()
    ours = run_bench(args.bench, "gemm", experts, rows, inner, outer, sizes)
    print(json.dumps(dict(ours, torch={k: round(v) for k, v in theirs.items()})), flush=True)
    return f"gemm {experts} x {rows} x {inner} x {outer} {sizes}", {k: ours[f"{k}_TF"] / v for k, v in theirs.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("--trace")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--no-gemm", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    table = [bench_layer(args, name) for name in args.shapes.split(",") if name]
    if not args.no_gemm:
        table += [bench_gemm(args, *gemm, sizes) for gemm in GEMMS for sizes in ("even", "uneven")]
    for name, ratio in table:
        text = {k: round(v, 3) for k, v in ratio.items()} if isinstance(ratio, dict) else round(ratio, 3)
        print(f"{name:40} cadre / best peer: {text}")


if __name__ == "__main__":
    main()
