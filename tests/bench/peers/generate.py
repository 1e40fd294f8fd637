"""Sampling with transformers' generate, for comparison with `cadre bench rollout configs/bench-rollout-olmoe4.yaml`:
the same shape with random weights, the same prompts' and responses' lengths, keys and values cached.

    python3 generate.py [--device cuda] [--cache dynamic] [--compile] [--experts NAME]     one way of running it
    python3 generate.py --all --limit SECONDS                                             all ways, the most promising first

Prints one JSON object. `--cache static` takes a cache of fixed size, which generate can compile (`--compile` says
whether it may). `--experts` is an experts_implementation of transformers; while it decodes, generate takes batched_mm in
place of grouped_mm, and `grouped_mm_kept` is grouped_mm without that. With --all, what has not ended after SECONDS is
left out and named; `best` is the fastest of what ended. Compare with that."""
import argparse
import contextlib
import gc
import json
import signal
import statistics
import sys
import time

KEPT = "_kept"
# Cache, compiled, experts.
WAYS = [("dynamic", False, "grouped_mm"), ("static", True, "grouped_mm"), ("static", True, "grouped_mm_kept"),
        ("dynamic", False, "grouped_mm_kept"), ("static", False, "grouped_mm_kept"), ("static", True, "batched_mm"),
        ("dynamic", False, "batched_mm"), ("dynamic", False, "eager")]


class OutOfTime(BaseException):  # not an Exception, which libraries catch
    pass


def out_of_time(*_):
    raise OutOfTime


def make_model(a, torch, transformers):
    config = transformers.OlmoeConfig(
        vocab_size=a.vocab, hidden_size=a.dim, intermediate_size=a.width, num_hidden_layers=a.layers,
        num_attention_heads=a.heads, num_key_value_heads=a.heads, num_experts=a.num_experts,
        num_experts_per_tok=a.top_k, max_position_embeddings=a.prompt_tokens + a.new_tokens,
        norm_topk_prob=False, tie_word_embeddings=False, eos_token_id=None, pad_token_id=0)
    torch.set_default_dtype(torch.bfloat16 if a.device == "cuda" else torch.float32)
    with torch.device(a.device):  # random values of this size take half a minute on a CPU
        model = transformers.OlmoeForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    return model


def measure(a, torch, model, ids, cache, compiled, experts, repeats):
    """Seconds of each repeat after one that warms up."""
    if experts:
        model.set_experts_implementation(experts.removesuffix(KEPT))
    settings = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=a.new_tokens,
                    min_new_tokens=a.new_tokens, use_cache=True, attention_mask=torch.ones_like(ids))
    if cache == "static":
        settings["cache_implementation"] = "static"
        settings["disable_compile"] = not compiled
    switch = getattr(model, "_optimize_model_for_decode", None)
    if experts.endswith(KEPT) and switch is not None:
        model._optimize_model_for_decode = contextlib.nullcontext
    seconds = []
    try:
        with torch.no_grad():
            for repeat in range(repeats + 1):
                if a.device == "cuda":
                    torch.cuda.synchronize()
                start = time.perf_counter()
                out = model.generate(ids, **settings)
                if a.device == "cuda":
                    torch.cuda.synchronize()
                if repeat > 0:
                    seconds.append(time.perf_counter() - start)
                assert out.shape == (a.prompts, a.prompt_tokens + a.new_tokens), out.shape
    finally:
        if experts.endswith(KEPT) and switch is not None:
            del model._optimize_model_for_decode  # the class's own again
    return seconds


def forget(torch, model):
    """What one way leaves behind must not serve the next: compiled code, caches, memory."""
    for name in ("_compiled_call", "_last_compile_config", "_cache", "_static_cache"):
        model.__dict__.pop(name, None)
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def try_all(a, torch, model, ids, end):
    results, left_out = [], []
    for cache, compiled, experts in WAYS:
        way = {"cache": cache, "compiled": compiled, "experts": experts}
        left = end - time.monotonic()
        if left < 1:
            left_out.append(way | {"why": "no time left"})
            continue
        start = time.monotonic()
        try:
            signal.setitimer(signal.ITIMER_REAL, left)
            seconds = measure(a, torch, model, ids, cache, compiled, experts, a.repeats)
            signal.setitimer(signal.ITIMER_REAL, 0)
            rate = a.prompts * a.new_tokens / statistics.median(seconds)
            results.append(way | {"seconds": seconds, "new_tokens_per_s": rate, "with_warm_up_s": time.monotonic() - start})
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
        except OutOfTime:
            left_out.append(way | {"why": f"not done after {time.monotonic() - start:.0f} s"})
        except Exception as error:  # a way that this version or machine does not have
            left_out.append(way | {"why": f"{type(error).__name__}: {error}"[:300]})
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        forget(torch, model)
    best = max(results, key=lambda r: r["new_tokens_per_s"], default=None)
    return {"best": best, "ways": results, "left_out": left_out}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--all", action="store_true", help="try all ways of running it")
    parser.add_argument("--limit", type=float, default=100, help="seconds for --all, start of the program included")
    parser.add_argument("--cache", default="dynamic", choices=["dynamic", "static"])
    parser.add_argument("--compile", action="store_true", help="let generate compile its decoding step")
    parser.add_argument("--experts", default="", help="an experts_implementation of transformers, or grouped_mm_kept")
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--num-experts", type=int, default=64)
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--vocab", type=int, default=50304)
    a = parser.parse_args()
    end = time.monotonic() + a.limit
    if a.all:
        signal.signal(signal.SIGALRM, out_of_time)
        signal.signal(signal.SIGTERM, out_of_time)  # of `timeout`: print what is there

    import torch
    import transformers

    torch.manual_seed(1)
    model = make_model(a, torch, transformers)
    ids = torch.randint(0, a.vocab, (a.prompts, a.prompt_tokens), device=a.device)
    result = {"peer": f"transformers {transformers.__version__}, torch {torch.__version__}", "dtype": str(model.dtype)}
    if a.all:
        result |= try_all(a, torch, model, ids, end)
    else:
        seconds = measure(a, torch, model, ids, a.cache, a.compile, a.experts, a.repeats)
        result |= {"cache": a.cache, "compiled": a.compile and a.cache == "static", "experts": a.experts,
                   "seconds": seconds, "new_tokens_per_s": a.prompts * a.new_tokens / statistics.median(seconds)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
