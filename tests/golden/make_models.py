"""Makes tests/golden/models: small random models of every family that `cadre import` reads, with the logits, the loss and
its gradients that transformers computes for them in float32 on the CPU.

    python3 -m venv venv && venv/bin/pip install torch transformers safetensors
    venv/bin/python tests/golden/make_models.py tests/golden/models

Each folder is a published model (config.json, safetensors) and golden.safetensors: `tokens` (B, T) as float32, `logits`
(B, T, V), `loss` (mean over the first T - 1 positions, each predicting the next token) and `grad.<name>` for every tensor of
the model. The committed files were made with torch 2.15 and transformers 5.23.
"""
import argparse
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file

SIZES = dict(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1, pad_token_id=None)
LONG = dict(num_hidden_layers=1, max_position_embeddings=64)  # texts of 24 tokens, made for 16 and stretched by 4
CONTEXT = 16


def rope(**scaling):
    return dict(rope_parameters=dict(rope_theta=10000.0, **scaling))


# name: (model_type, dtype of the file, options, bytes of one file)
CASES = {
    "llama_tied": ("llama", torch.float32, dict(intermediate_size=24, tie_word_embeddings=True), None),
    "llama_untied": ("llama", torch.bfloat16, dict(intermediate_size=24, num_key_value_heads=4, head_dim=6,
                                                   rms_norm_eps=1e-3, **rope(rope_type="default")), "3KB"),
    "llama_linear": ("llama", torch.bfloat16, dict(intermediate_size=24, **LONG, **rope(rope_type="linear", factor=4.0)), None),
    "llama_dynamic": ("llama", torch.bfloat16, dict(
        intermediate_size=24, num_hidden_layers=1, max_position_embeddings=CONTEXT, **rope(rope_type="dynamic", factor=4.0)), None),
    "llama_llama3": ("llama", torch.bfloat16, dict(intermediate_size=24, head_dim=16, **LONG, **rope(
        rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=CONTEXT)), None),
    "llama_yarn": ("llama", torch.bfloat16, dict(intermediate_size=24, head_dim=16, **LONG, **rope(
        rope_type="yarn", factor=4.0, beta_fast=4.0, beta_slow=0.5, original_max_position_embeddings=CONTEXT)), None),
    "llama_yarn_given": ("llama", torch.bfloat16, dict(intermediate_size=24, head_dim=16, **LONG, **rope(
        rope_type="yarn", factor=4.0, beta_fast=4.0, beta_slow=0.5, attention_factor=1.3, truncate=False,
        original_max_position_embeddings=CONTEXT)), None),
    "qwen3": ("qwen3", torch.bfloat16, dict(intermediate_size=24, head_dim=8), None),
    "mixtral": ("mixtral", torch.float16, dict(intermediate_size=12, num_local_experts=4, num_experts_per_tok=2), "4KB"),
    "mixtral_tied": ("mixtral", torch.bfloat16, dict(intermediate_size=12, num_local_experts=3, num_experts_per_tok=2,
                                                     tie_word_embeddings=True, num_hidden_layers=1), None),
    "olmoe": ("olmoe", torch.float32, dict(intermediate_size=12, num_experts=4, num_experts_per_tok=2), None),
    "olmoe_normalized": ("olmoe", torch.bfloat16, dict(intermediate_size=12, num_experts=4, num_experts_per_tok=3,
                                                       norm_topk_prob=True, num_hidden_layers=1), None),
    "qwen3_moe": ("qwen3_moe", torch.bfloat16, dict(
        intermediate_size=24, moe_intermediate_size=12, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True, head_dim=8,
        mlp_only_layers=[0]), None),
    "qwen3_moe_step": ("qwen3_moe", torch.bfloat16, dict(
        intermediate_size=24, moe_intermediate_size=12, num_experts=4, num_experts_per_tok=2, norm_topk_prob=False, head_dim=8,
        decoder_sparse_step=2, tie_word_embeddings=True, **rope(rope_type="yarn", factor=4.0,
                                                                original_max_position_embeddings=CONTEXT)), None),
}

EXPERT = {"mixtral": ("block_sparse_moe", "w1", "w3", "w2")}


def published(model_type, name, tensor):
    """The tensors as they are published, of one of the model's: experts apart, gate and up projections too."""
    moe, gate, up, down = EXPERT.get(model_type, ("mlp", "gate_proj", "up_proj", "down_proj"))
    layer, dot, rest = name.partition(".mlp.")
    if rest == "gate.weight":
        return {f"{layer}.{moe}.gate.weight": tensor}
    if not rest.startswith("experts."):
        return {name: tensor}
    out = {}
    for e, matrix in enumerate(tensor):
        if rest == "experts.down_proj":
            out[f"{layer}.{moe}.experts.{e}.{down}.weight"] = matrix
        else:
            first, second = matrix.chunk(2)
            out[f"{layer}.{moe}.experts.{e}.{gate}.weight"] = first
            out[f"{layer}.{moe}.experts.{e}.{up}.weight"] = second
    return out


def make_model(model_type, dtype, options, folder, shard):
    """Saves a model in `dtype` and returns it as loaded from there, computing in float32."""
    config = transformers.CONFIG_MAPPING[model_type](**{**SIZES, **options})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn(weight.shape) * 0.3 + (1 if "norm" in name else 0))
    # The saved one is not used further: to() also rounds what rotary positions are computed from.
    model.to(dtype).save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def golden(model, model_type, tokens):
    logits = model(input_ids=tokens).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    out = {"tokens": tokens.float(), "logits": logits.detach(), "loss": loss.detach().reshape(1)}
    for name, weight in model.named_parameters():
        for key, grad in published(model_type, name, weight.grad).items():
            out["grad." + key] = grad
    return {key: value.clone().contiguous() for key, value in out.items()}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder", type=pathlib.Path)
    folder = arguments.parse_args().folder
    shutil.rmtree(folder, ignore_errors=True)
    torch.use_deterministic_algorithms(True)
    for seed, (name, (model_type, dtype, options, shard)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        model = make_model(model_type, dtype, options, folder / name, shard)
        tokens = torch.randint(SIZES["vocab_size"], (2, 24))
        out = golden(model, model_type, tokens)
        save_file(out, folder / name / "golden.safetensors")
        print(f"{name}: loss {out['loss'].item():.6f}, {sum(p.numel() for p in model.parameters())} parameters")


if __name__ == "__main__":
    main()
