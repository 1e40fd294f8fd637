"""Does an exported checkpoint say the same in transformers? Exports it, lets `cadre generate --temperature 0` and transformers
continue some prompts, and compares the texts. Needs torch and transformers; the checkpoint's tokenizer must be a tokenizer.json
(a SentencePiece model has ids compared instead, through the `sentencepiece` module when it is there).

    venv/bin/python tests/interop/greedy_text.py build/launch/cadre runs/quickstart [--tokens 60]
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers

PROMPTS = ["The", "def mean(values):\n", "In the beginning", "for (int i = 0;", "Once upon a time, there was"]


def load_tokenizer(folder):
    """encode and decode, without marks, and the two marks."""
    config = json.loads((folder / "config.json").read_text())
    marks = config["bos_token_id"], config["eos_token_id"]
    if (folder / "tokenizer.json").exists():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        return (lambda text: tokenizer.encode(text, add_special_tokens=False),
                lambda ids: tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False), *marks)
    import sentencepiece
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return model.encode, model.decode, *marks


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cadre")
    parser.add_argument("checkpoint")
    parser.add_argument("--tokens", type=int, default=60)
    arguments = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp()) / "exported"
    print(subprocess.run([arguments.cadre, "export", arguments.checkpoint, folder], check=True, text=True,
                         capture_output=True).stdout.strip())
    encode, decode, bos, eos = load_tokenizer(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    different = 0
    for prompt in PROMPTS:
        ours = subprocess.run([arguments.cadre, "generate", arguments.checkpoint, "--prompt", prompt, "--temperature", "0",
                               "--tokens", str(arguments.tokens)], check=True, text=True, capture_output=True).stdout
        ids = torch.tensor([[bos] + encode(prompt)])
        out = model.generate(ids, max_new_tokens=arguments.tokens, do_sample=False, eos_token_id=eos, pad_token_id=eos)
        new = [token for token in out[0, ids.shape[1]:].tolist() if token != eos]
        theirs = prompt + decode(new) + "\n"
        same = ours == theirs
        different += not same
        print(f"{'same' if same else 'OTHER'}, {len(new)} tokens: {ours!r}" + ("" if same else f"\n  theirs: {theirs!r}"))
    print(f"{len(PROMPTS) - different} of {len(PROMPTS)} texts are the same")
    return different != 0


if __name__ == "__main__":
    sys.exit(main())
