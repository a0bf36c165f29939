"""A model that no one has trained: one layer, random weights, and a tokenizer in which a word is a token."""

from __future__ import annotations

import json
from pathlib import Path

from burstenv.files import write_atomic
from burstenv.gateway.endless import text_of

WORDS = 4096
LONGEST = 1 << 20  # of a sequence [tokens]
UNKNOWN, END = "<unk>", "</s>"
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def write_model(folder: Path) -> None:
    """Write the model's files, as ``transformers`` reads them; the weights are made up by the engine."""
    words = {UNKNOWN: 0, END: 1, **{f"w{k}": k for k in range(2, WORDS)}}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": k, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for k, text in enumerate((UNKNOWN, END))
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": UNKNOWN},
    }  # fmt: skip
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "vocab_size": WORDS,
        "max_position_embeddings": LONGEST,
        "bos_token_id": None,
        "eos_token_id": 1,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": LONGEST,
        "unk_token": UNKNOWN,
        "eos_token": END,
        "chat_template": TEMPLATE,
    }
    files = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": 1},
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": about,
    }
    for name, content in files.items():
        write_atomic(folder / name, json.dumps(content) + "\n")


def prompt_of(tokens: int, stream: int = 0) -> str:
    """Return a prompt of a number of tokens; prompts of one stream begin alike."""
    return " ".join(f"w{k}" for k in text_of(stream, 0, tokens))
