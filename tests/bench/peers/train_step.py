"""Whole training steps of Cadre beside PyTorch and transformers on one GPU, taking turns.

    python3 train_step.py compare CADRE_PROGRAM OUT.json [--configs olmoe4,dense124m] [--data MANIFEST mixtral-mini=MANIFEST]
    python3 train_step.py worker PEER CONFIG [--weights HF_DIR] [--batches FILE]

`compare` starts every program, lets all of them compile and warm up, and then asks each in turn for a few steps, the
order rotating from round to round. All train in bf16 with clipping at 1; Cadre and PyTorch hold fp32 masters and
moments, transformers only bf16 ones, which is lighter. Cadre writes the batches that it trains on and its weights, by
`cadre export`; the peers read both, so that tokens, weights and routing are the same for all."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

CONFIGS = {  # the sizes of configs/bench-NAME.yaml
    "olmoe4": dict(layers=4, dim=2048, heads=16, experts=64, top_k=8, width=1024, vocab=50304, length=2048, batch=8, qk_norm=True, normalize=False),
    "mixtral-mini": dict(layers=12, dim=1024, heads=16, experts=8, top_k=2, width=3584, vocab=32000, length=2048, batch=8, qk_norm=False, normalize=True),
    "dense124m": dict(layers=12, dim=768, heads=12, experts=0, top_k=0, width=2048, vocab=50304, length=1024, batch=32, qk_norm=False),
    "dense355m": dict(layers=24, dim=1024, heads=16, experts=0, top_k=0, width=2816, vocab=50304, length=1024, batch=16, qk_norm=False),
}
LR, BETAS, DECAY, CLIP, BALANCE, EPS = 4e-4, (0.9, 0.95), 0.1, 1.0, 0.01, 1e-5


def flops_per_token(c):
    """6 x active matmul parameters + 6 L T H h, as Cadre counts."""
    ffn = 3 * c["dim"] * c["width"] * max(c["top_k"], 1) + c["dim"] * c["experts"]
    params = c["layers"] * (4 * c["dim"] ** 2 + ffn) + c["dim"] * c["vocab"]
    return 6 * params + 6 * c["layers"] * c["length"] * c["dim"]


# ---- the model in PyTorch

def build_torch(c):
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    head_dim = c["dim"] // c["heads"]

    def linear(out, inner):
        return nn.Parameter(torch.randn(out, inner) * 0.02)

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            d, w, e = c["dim"], c["width"], c["experts"]
            self.norm1, self.norm2 = nn.RMSNorm(d, EPS), nn.RMSNorm(d, EPS)
            self.qkv, self.out = linear(3 * d, d), linear(d, d)
            if c["qk_norm"]:
                self.q_norm, self.k_norm = nn.RMSNorm(d, EPS), nn.RMSNorm(d, EPS)
            if e:
                self.router = linear(e, d)
                # (in, out) suits the forward product of torch._grouped_mm.
                self.gate_up, self.down = nn.Parameter(torch.randn(e, d, 2 * w) * 0.02), nn.Parameter(torch.randn(e, w, d) * 0.02)
            else:
                self.gate_up, self.down = linear(2 * w, d), linear(d, w)

        def attention(self, x, cosine, sine):
            b, t, d = x.shape
            q, k, v = F.linear(self.norm1(x), self.qkv).chunk(3, -1)
            if c["qk_norm"]:
                q, k = self.q_norm(q), self.k_norm(k)
            q, k, v = (z.view(b, t, c["heads"], head_dim).transpose(1, 2) for z in (q, k, v))

            def rotate(z):
                low, high = z.chunk(2, -1)
                return z * cosine + torch.cat((-high, low), -1) * sine

            y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
            return x + F.linear(y.transpose(1, 2).reshape(b, t, d), self.out)

        def experts(self, h):
            flat = h.reshape(-1, c["dim"])
            probs = F.softmax(F.linear(flat, self.router).float(), -1)
            gates, chosen = torch.topk(probs, c["top_k"], -1)
            if c["normalize"]:
                gates = gates / gates.sum(-1, keepdim=True)
            slots = chosen.reshape(-1)
            order = torch.argsort(slots, stable=True)
            counts = torch.histc(slots.float(), bins=c["experts"], min=0, max=c["experts"] - 1)
            ends, token = counts.cumsum(0).to(torch.int32), order // c["top_k"]
            gate, up = torch._grouped_mm(flat[token], self.gate_up, offs=ends).chunk(2, -1)
            out = torch._grouped_mm(F.silu(gate) * up, self.down, offs=ends)
            out = out * gates.reshape(-1)[order].unsqueeze(-1).to(out.dtype)
            balance = c["experts"] * (counts / slots.numel() * probs.mean(0)).sum()
            return torch.zeros_like(flat).index_add_(0, token, out).view_as(h), balance

        def forward(self, x, cosine, sine):
            x = self.attention(x, cosine, sine)
            h = self.norm2(x)
            if c["experts"]:
                y, balance = self.experts(h)
                return x + y, balance
            gate, up = F.linear(h, self.gate_up).chunk(2, -1)
            return x + F.linear(F.silu(gate) * up, self.down), 0.0

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(c["vocab"], c["dim"])
            self.layers = nn.ModuleList(Layer() for _ in range(c["layers"]))
            self.norm, self.head = nn.RMSNorm(c["dim"], EPS), linear(c["vocab"], c["dim"])

        def forward(self, tokens, targets, cosine, sine):
            x, balance = self.embed(tokens), 0.0
            for layer in self.layers:
                x, more = layer(x, cosine, sine)
                balance = balance + more
            loss = F.cross_entropy(F.linear(self.norm(x), self.head).float().view(-1, c["vocab"]), targets.reshape(-1))
            return loss + BALANCE / c["layers"] * balance, loss

    return Model()


def read_weights(folder):
    from safetensors import safe_open
    tensors = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            with safe_open(os.path.join(folder, name), "pt", device="cuda") as file:
                tensors.update({key: file.get_tensor(key) for key in file.keys()})
    return tensors


def fill(model, c, folder):
    """From the published names of the model's family (docs/interop.md)."""
    import torch
    t = read_weights(folder)

    def put(parameter, value):
        assert parameter.shape == value.shape, (parameter.shape, value.shape)
        parameter.data.copy_(value)

    put(model.embed.weight, t["model.embed_tokens.weight"])
    put(model.norm.weight, t["model.norm.weight"])
    put(model.head, t["lm_head.weight"])
    for i, layer in enumerate(model.layers):
        at = lambda name: t.pop(f"model.layers.{i}.{name}.weight")
        put(layer.norm1.weight, at("input_layernorm"))
        put(layer.norm2.weight, at("post_attention_layernorm"))
        put(layer.qkv, torch.cat([at(f"self_attn.{n}_proj") for n in "qkv"]))
        put(layer.out, at("self_attn.o_proj"))
        if c["qk_norm"]:
            put(layer.q_norm.weight, at("self_attn.q_norm"))
            put(layer.k_norm.weight, at("self_attn.k_norm"))
        if not c["experts"]:
            put(layer.gate_up, torch.cat([at("mlp.gate_proj"), at("mlp.up_proj")]))
            put(layer.down, at("mlp.down_proj"))
            continue
        mixtral = f"model.layers.{i}.block_sparse_moe.gate.weight" in t
        part = "block_sparse_moe" if mixtral else "mlp"
        gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
        put(layer.router, at(f"{part}.gate"))
        for e in range(c["experts"]):
            put(layer.gate_up[e], torch.cat([at(f"{part}.experts.{e}.{gate}"), at(f"{part}.experts.{e}.{up}")]).t())
            put(layer.down[e], at(f"{part}.experts.{e}.{down}").t())


def rotary(c):
    import torch
    part = torch.arange(0, c["dim"] // c["heads"], 2, device="cuda").float() * c["heads"] / c["dim"]
    angles = torch.outer(torch.arange(c["length"], device="cuda").float(), 10000 ** -part).repeat(1, 2)
    return angles.cos().bfloat16(), angles.sin().bfloat16()


def read_batches(path, c):
    """(micro-batches, tokens and targets, sequences, length) as `cadre bench --batches` writes them."""
    import torch
    flat = torch.from_file(path, size=os.path.getsize(path) // 4, dtype=torch.int32)
    return flat.view(-1, 2, c["batch"], c["length"]).long().cuda()


def torch_peer(c, weights):
    """bf16 weights and gradients, fp32 masters and moments, torch.compile, fused AdamW."""
    import torch
    model = build_torch(c).cuda()
    if weights:
        fill(model, c, weights)
    masters = [p.detach().clone().float().requires_grad_() for p in model.parameters()]
    model.bfloat16()
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(masters, lr=LR, betas=BETAS, weight_decay=DECAY, fused=True)
    cosine, sine = rotary(c)
    run = torch.compile(model)

    def step(tokens, targets):
        total, loss = run(tokens, targets, cosine, sine)
        total.backward()
        wide = [m.grad if m.grad is not None else torch.empty_like(m) for m in masters]
        with torch.no_grad():
            torch._foreach_copy_(wide, [p.grad for p in params])
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(wide)))
            torch._foreach_mul_(wide, CLIP / norm.clamp(min=CLIP))
        for master, grad in zip(masters, wide):
            master.grad = grad
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(params, masters)
        for p in params:
            p.grad = None
        return loss

    return step


def transformers_peer(c, weights, compiled):
    """The library's own class in bf16, grouped experts, torch.compile, fused AdamW with bf16 moments."""
    import torch
    import transformers as tf
    common = dict(hidden_size=c["dim"], num_hidden_layers=c["layers"], num_attention_heads=c["heads"], num_key_value_heads=c["heads"],
                  intermediate_size=c["width"], vocab_size=c["vocab"], num_experts_per_tok=c["top_k"], use_cache=False, output_router_logits=True)
    if c["qk_norm"]:
        config, family = tf.OlmoeConfig(num_experts=c["experts"], norm_topk_prob=c["normalize"], max_position_embeddings=4096, **common), tf.OlmoeForCausalLM
    else:
        rope = dict(rope_type="default", rope_theta=1e4)  # its own base is another one than Cadre's and OLMoE's
        config, family = tf.MixtralConfig(num_local_experts=c["experts"], rope_parameters=rope, **common), tf.MixtralForCausalLM
    config._attn_implementation, config._experts_implementation = "sdpa", "grouped_mm"
    model = family.from_pretrained(weights, config=config, dtype=torch.bfloat16) if weights else family(config).bfloat16()
    model = model.cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY, fused=True)
    run = torch.compile(model) if compiled else model

    def step(tokens, targets):
        out = run(input_ids=tokens, labels=tokens, shift_labels=targets)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return out.loss

    return step


def worker(args):
    import torch
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    c = CONFIGS[args.config]
    shape = (c["batch"], c["length"])
    data = read_batches(args.batches, c) if args.batches else torch.randint(0, c["vocab"], (8, 2, *shape), device="cuda")
    step = torch_peer(c, args.weights) if args.peer == "torch" else transformers_peer(c, args.weights, args.peer.endswith("compiled"))
    start, done, losses = time.time(), 0, []
    for _ in range(6):
        losses.append(step(*data[done % len(data)]).item())
        done += 1
    print(json.dumps(dict(compile_s=round(time.time() - start, 1), first_losses=[round(x, 4) for x in losses])), file=sys.stderr, flush=True)
    print("ready", flush=True)
    for line in sys.stdin:
        count = int(line)
        if count <= 0:
            break
        torch.cuda.synchronize()
        times, whole = [], time.perf_counter()
        for _ in range(count):
            begin = time.perf_counter()
            loss = step(*data[done % len(data)])
            torch.cuda.synchronize()
            times.append(1e3 * (time.perf_counter() - begin))
            done += 1
        mean = 1e3 * (time.perf_counter() - whole) / count
        print(json.dumps(dict(steps=count, step_ms_median=statistics.median(times), step_ms_mean=mean, step_ms_min=min(times), step_ms_max=max(times),
                              tokens=shape[0] * shape[1], loss=loss.item(), gib=torch.cuda.max_memory_allocated() / 2**30)), flush=True)


# ---- turns

class Program:
    def __init__(self, name, command, log):
        self.name, self.rounds, self.error = name, [], ""
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(log, "w"), text=True)

    def line(self):
        text = self.process.stdout.readline()
        if not text:
            self.error = self.error or f"ended with {self.process.wait()}"
        return text

    def ask(self, steps):
        if self.error:
            return
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        text = self.line()
        if text:
            self.rounds.append(json.loads(text))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class LlmC:
    """A build of llm.c (train_gpt2cu), which trains GPT-2's own architecture: compared in TFLOP/s of model arithmetic.
    It cannot wait for its turn, so every turn is a run of its own, of which the first steps do not count."""
    SIZES = {"dense124m": (12, 768, 32), "dense355m": (24, 1024, 16)}  # layers, dim, sequences of 1024: the others' tokens a step

    def __init__(self, program, config, folder):
        import numpy as np
        self.name, self.rounds, self.error = "llm.c", [], ""
        self.layers, self.dim, self.batch = self.SIZES[config]
        header = np.zeros(256, np.int32)
        header[:3] = 20240520, 1, 1 << 22  # magic, version, tokens
        self.file = f"{folder}/{config}-llmc.bin"
        with open(self.file, "wb") as file:
            file.write(header.tobytes())
            file.write(np.random.default_rng(1).integers(0, 50257, 1 << 22).astype(np.uint16).tobytes())
        self.command = [program, "-i", self.file, "-j", self.file, "-e", f"d{self.layers}", "-b", self.batch, "-t", 1024, "-d", self.batch * 1024,
                        "-r", 0, "-z", 0, "-c", DECAY, "-l", LR, "-u", 10, "-v", 10**6, "-s", 0, "-m", 1, "-h", 0, "-n", 0]

    def flops_per_token(self):
        return 6 * (12 * self.layers * self.dim**2 + 50304 * self.dim) + 6 * self.layers * 1024 * self.dim

    def ask(self, steps):
        skip = 6
        if len(self.rounds) == 2 or self.error:  # its start takes longer than its steps
            return
        run = subprocess.run([str(x) for x in self.command + ["-x", steps + skip]], capture_output=True, text=True)
        lines = [line for line in run.stdout.splitlines() if line.startswith("step")]
        times = [float(part.split()[0]) for line in lines for part in line.split("|") if part.strip().endswith(" ms")]
        if run.returncode != 0 or len(times) <= skip:
            self.error = f"code {run.returncode}: {(run.stdout + run.stderr)[-300:]!r}"
            return
        times = times[skip:]
        self.rounds.append(dict(steps=len(times), step_ms_mean=statistics.mean(times), step_ms_median=statistics.median(times)))

    def close(self):
        os.remove(self.file)


def start(args, name):
    """Cadre, which writes the batches, and then the peers of one configuration, which read them."""
    c = CONFIGS[name]
    log = lambda who: f"{args.logs}/{name}-{who}.log"
    batches, weights = f"{args.logs}/{name}.batches", args.weights.get(name)
    command = [args.cadre, "bench", f"{args.run_files}/bench-{name}.yaml", "--turns", "--batches", batches, "train.steps=1000"]
    if name in args.init:
        command.append(f"init={args.init[name]}")
    if name in args.data:
        command += [f"data.manifest={args.data[name]}", "data.mask_documents=false"]
    programs = [Program("cadre", command, log("cadre"))]
    programs[0].line()  # "ready"
    for peer in ["torch"] + (["transformers-compiled"] if c["experts"] else []):
        more = ["--batches", batches] + (["--weights", weights] if weights else [])
        programs.append(Program(peer, [sys.executable, __file__, "worker", peer, name] + more, log(peer)))
    if args.llmc and name in LlmC.SIZES:
        programs.append(LlmC(args.llmc, name, args.logs))
    return programs


def take_turns(args, name, programs):
    for i in range(args.rounds):
        for program in programs[i % len(programs):] + programs[:i % len(programs)]:
            program.ask(args.steps)
    rows = {}
    for program in programs:
        program.close()
        if program.error:
            rows[program.name] = dict(error=program.error)
            continue
        means = [r["step_ms_mean"] for r in program.rounds]
        c, ms = CONFIGS[name], statistics.median(means)
        llmc = isinstance(program, LlmC)
        tokens = program.batch * 1024 if llmc else c["batch"] * c["length"]
        flops = program.flops_per_token() if llmc else flops_per_token(c)
        rows[program.name] = dict(ms=ms, fastest_round=min(means), slowest_round=max(means), tokens_per_s=tokens / ms * 1e3,
                                  tflops=tokens / ms * flops / 1e9, rounds=program.rounds)
    return rows


def show(name, rows):
    best = max((r["tflops"] for who, r in rows.items() if who != "cadre" and "error" not in r), default=float("nan"))
    for who, r in rows.items():
        if "error" in r:
            print(f"{name:13} {who:22} failed: {r['error']}", flush=True)
            continue
        ratio = f"  {r['tflops'] / best:.3f} x best peer" if who == "cadre" else ""
        print(f"{name:13} {who:22} {r['ms']:7.2f} ms ({r['fastest_round']:.2f} to {r['slowest_round']:.2f}) {r['tokens_per_s']:8.0f} tokens/s "
              f"{r['tflops']:5.0f} TFLOP/s {r['tflops'] / 9.89:.1f}%{ratio}", flush=True)


def data_by_config(given):
    """The manifest of each configuration: its own, else the one that is given alone, whose ids only some vocabularies hold."""
    own = dict(entry.split("=", 1) for entry in given if "=" in entry)
    alone = [entry for entry in given if "=" not in entry]
    return {name: alone[-1] for name, c in CONFIGS.items() if alone and c["vocab"] >= 50257} | own


def compare(args):
    import torch
    args.init, args.weights = (dict(pair.split("=") for pair in pairs) for pairs in (args.init, args.weights))
    args.data = data_by_config(args.data)
    result = dict(machine=torch.cuda.get_device_name(), torch=torch.__version__, rounds=args.rounds, steps=args.steps, commit=args.commit,
                  data=args.data, init=args.init, configs={})
    for group in args.configs.split(","):  # of configurations whose programs fit on the GPU together
        programs = {name: start(args, name) for name in group.split("+")}
        for name in programs:
            for program in programs[name][1:]:
                if isinstance(program, Program):
                    program.line()  # "ready"
        for name in programs:
            result["configs"][name] = take_turns(args, name, programs[name])
            show(name, result["configs"][name])
            with open(args.out, "w") as file:
                json.dump(result, file, indent=1)


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("worker")
    one.add_argument("peer", choices=["torch", "transformers", "transformers-compiled"])
    one.add_argument("config", choices=CONFIGS)
    one.add_argument("--weights")
    one.add_argument("--batches")
    one.set_defaults(run=worker)
    both = verbs.add_parser("compare")
    both.add_argument("cadre")
    both.add_argument("out")
    both.add_argument("--configs", default="dense124m+dense355m,mixtral-mini,olmoe4", help="+ joins those that are on the GPU together")
    both.add_argument("--data", nargs="*", default=[], help="a manifest of text with at most 50304 ids, and CONFIG=MANIFEST; else random tokens")
    both.add_argument("--init", nargs="*", default=[], help="CONFIG=CHECKPOINT for Cadre")
    both.add_argument("--weights", nargs="*", default=[], help="CONFIG=HF_DIR, the same exported, for the peers")
    both.add_argument("--llmc", default="", help="a built train_gpt2cu of llm.c")
    both.add_argument("--run-files", default="configs")
    both.add_argument("--logs", default=tempfile.gettempdir())
    both.add_argument("--rounds", type=int, default=5)
    both.add_argument("--steps", type=int, default=8)
    both.add_argument("--commit", default="")
    both.set_defaults(run=compare)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
