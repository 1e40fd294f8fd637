"""Sampling with transformers' generate, for comparison with `cadre bench rollout configs/bench-rollout-olmoe4.yaml`:
the same shape with random weights, the same prompts' and responses' lengths, keys and values cached.

    python3 generate.py [--device cuda] [--cache dynamic] [--compile]

Prints one JSON object. `--cache static` takes a cache of fixed size, which generate can compile (`--compile` says
whether it may). Compare with the fastest of these."""
import argparse
import json
import statistics
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache", default="dynamic", choices=["dynamic", "static"])
    parser.add_argument("--compile", action="store_true", help="let generate compile its decoding step")
    parser.add_argument("--experts", default="", help="an experts_implementation of transformers, such as grouped_mm")
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--num-experts", type=int, default=64)
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--vocab", type=int, default=50304)
    a = parser.parse_args()

    import torch
    import transformers

    torch.manual_seed(1)
    config = transformers.OlmoeConfig(
        vocab_size=a.vocab, hidden_size=a.dim, intermediate_size=a.width, num_hidden_layers=a.layers,
        num_attention_heads=a.heads, num_key_value_heads=a.heads, num_experts=a.num_experts,
        num_experts_per_tok=a.top_k, max_position_embeddings=a.prompt_tokens + a.new_tokens,
        norm_topk_prob=False, tie_word_embeddings=False, eos_token_id=None, pad_token_id=0)
    if a.experts:
        config._experts_implementation = a.experts
    dtype = torch.bfloat16 if a.device == "cuda" else torch.float32
    model = transformers.OlmoeForCausalLM(config).to(device=a.device, dtype=dtype).eval()
    ids = torch.randint(0, a.vocab, (a.prompts, a.prompt_tokens), device=a.device)
    settings = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=a.new_tokens,
                    min_new_tokens=a.new_tokens, use_cache=True, attention_mask=torch.ones_like(ids))
    if a.cache == "static":
        settings["cache_implementation"] = "static"
        settings["disable_compile"] = not a.compile

    def synchronize():
        if a.device == "cuda":
            torch.cuda.synchronize()

    seconds = []
    with torch.no_grad():
        for repeat in range(a.repeats + 1):  # the first warms up
            synchronize()
            start = time.perf_counter()
            out = model.generate(ids, **settings)
            synchronize()
            if repeat > 0:
                seconds.append(time.perf_counter() - start)
            assert out.shape == (a.prompts, a.prompt_tokens + a.new_tokens), out.shape
    median = statistics.median(seconds)
    print(json.dumps({
        "peer": f"transformers {transformers.__version__}, torch {torch.__version__}", "cache": a.cache,
        "compiled": a.compile and a.cache == "static", "dtype": str(dtype), "seconds": seconds,
        "new_tokens_per_s": a.prompts * a.new_tokens / median}))


if __name__ == "__main__":
    main()
