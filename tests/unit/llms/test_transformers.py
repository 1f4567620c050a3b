"""Embeddings of local models: which vector, of what, and how failures of one text stay with it."""

from __future__ import annotations

import asyncio
import builtins
import json
import logging
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from airflow_distil.conversation import Chat, Embed, Rank, user
from airflow_distil.exceptions import BadRow, Fatal, TaskDefinitionError, Transient
from airflow_distil.llms import TransformersLLM
from tests import tiny_models
from tests.tiny_models import torch, transformers

TEXTS = ["a cat", "the dog ran under the tree and sat on a mat", "one", "a very blue cat is not green"]


@pytest.fixture(scope="module")
def minilm() -> TransformersLLM:
    return TransformersLLM(tiny_models.minilm())


@pytest.fixture(scope="module", params=["right", "left"])
def chat_model(request, tmp_path_factory) -> TransformersLLM:
    return TransformersLLM(tiny_models.chat_model(tmp_path_factory.mktemp("chat"), padding_side=request.param))


def last_state(folder: str, text: str, *, special: bool = True) -> list[float]:
    """Return the last layer's hidden state of the last token of one text, unpadded, as the library's own example does."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        told = model(**tokenizer(text, return_tensors="pt", add_special_tokens=special), output_hidden_states=True)
    return told.hidden_states[-1][0, -1].tolist()


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)


def test_the_state_of_the_last_token_of_the_last_layer(minilm):
    """The vector was pooled, normalised, or that of a padding token."""
    found = minilm.get_last_hidden_state(TEXTS)
    assert [len(vector) for vector in found] == [384] * 4
    for text, vector in zip(TEXTS, found, strict=True):
        assert vector == pytest.approx(last_state(minilm.model, text), abs=1e-4)


def test_padding_on_either_side_and_without_a_pad_token(chat_model):
    """A causal model that pads at the left gave the last token's vector for some texts, and a padding token's for others."""
    found = chat_model.get_last_hidden_state(TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        assert vector == pytest.approx(last_state(chat_model.model, text), abs=1e-5)


def test_meaning(minilm):
    """Vectors came out in another order than the texts, or of an untrained model."""
    cat, kitten, stock = minilm.get_last_hidden_state(["A cat sat down.", "A kitten sat down.", "Stock prices fell on Monday."])
    assert cosine(cat, kitten) > cosine(cat, stock) + 0.2


def test_the_same_vector_in_any_batch(minilm):
    """A text's vector depended on the others of its batch, and so on concurrency."""
    alone = [minilm.get_last_hidden_state([text])[0] for text in TEXTS]
    padded = minilm.get_last_hidden_state(["word " * 300, *reversed(TEXTS)])[:0:-1]
    for one, other in zip(alone, padded, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_one_pass_for_those_who_wait(minilm, monkeypatch):
    """A hundred texts were a hundred passes; or a short text was padded to the longest of all."""
    shapes = []
    compute = minilm._vectors
    monkeypatch.setattr(minilm, "_vectors", lambda ids, mask: shapes.append(tuple(ids.shape)) or compute(ids, mask))

    async def run() -> None:
        texts = [f"{'word ' * (50 if i % 2 else 2)}{i}" for i in range(64)]
        await asyncio.gather(*(minilm.answer(Embed(text)) for text in texts))

    asyncio.run(run())
    assert [count for count, _ in shapes] == [32, 32]
    assert sorted(length < 10 for _, length in shapes) == [False, True]


def test_tokens_are_counted(minilm):
    """Usage was None, so that a budget of tokens did not hold."""
    (answer,) = asyncio.run(minilm.answer(Embed("hello world")))
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 0)


def test_long_texts_make_smaller_passes(minilm, monkeypatch):
    """A batch of the longest texts took as much memory as a batch size for short ones allows many times over."""
    monkeypatch.setattr(minilm, "batch_size", 4)
    shapes = []
    compute = minilm._vectors
    monkeypatch.setattr(minilm, "_vectors", lambda ids, mask: shapes.append(ids.numel()) or compute(ids, mask))
    monkeypatch.setattr("airflow_distil.llms.local.TOKENS", 64)
    minilm.get_last_hidden_state(["word " * 100] * 5 + ["word"] * 8)
    assert max(shapes) <= 4 * 64
    assert len(shapes) < 13


def test_a_chat_goes_through_the_template(chat_model):
    """A chat was embedded as its text in Python, or a text as if it were a chat."""
    chat = [user("the cat sat")]
    said = [*chat, {"role": "assistant", "content": "very good"}]
    asked, answered, text = chat_model.get_last_hidden_state([chat, said, "the cat sat"])
    expected = [last_state(chat_model.model, "<user> the cat sat <assistant>", special=False)]
    expected += [last_state(chat_model.model, "<user> the cat sat <assistant> very good ", special=False)]
    assert asked == pytest.approx(expected[0], abs=1e-5)
    assert answered == pytest.approx(expected[1], abs=1e-5)
    assert text != asked


@pytest.mark.parametrize(
    ("input", "reason"),
    [
        ("word " * 600, r"602 tokens, and the model takes 512. Shorten or split it"),
        ([user("hello")], "no chat template"),
        ("a \ud800 b", "cannot read this"),
    ],
)
def test_a_bad_one_costs_one_row(minilm, input, reason):
    """One text that is too long raised an IndexError in the pass of thirty-one others."""

    async def run() -> list[object]:
        return await asyncio.gather(*(minilm.answer(Embed(each)) for each in ["a", input, "b"]), return_exceptions=True)

    good, bad, other = asyncio.run(run())
    assert good[0].vector
    assert other[0].vector
    assert isinstance(bad, BadRow)
    with pytest.raises(BadRow, match=reason):
        raise bad


@pytest.mark.parametrize("kind", ["Roberta", "MPNet", "Bert"])
def test_positions_that_padding_takes(tmp_path, kind):
    """RoBERTa has 514 positions for 512 tokens: a text of 513 ended the run with an IndexError."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_models.minilm())
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(tmp_path)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=20, pad_token_id=1,
    )  # fmt: skip
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
    most = 20 if kind == "Bert" else 18
    llm = TransformersLLM(str(tmp_path), device="cpu")
    assert len(llm.get_last_hidden_state(["a " * (most - 2), "a"])) == 2
    with pytest.raises(BadRow, match=f"{most + 1} tokens, and the model takes {most}"):
        llm.get_last_hidden_state(["a " * (most - 1)])


def test_an_empty_text_for_a_tokenizer_without_special_tokens(chat_model):
    """A row without any token has no last one: index -1 took that of the padding."""
    with pytest.raises(BadRow, match="empty"):
        chat_model.get_last_hidden_state([""])


def test_a_template_that_raises_costs_one_row(chat_model):
    """Templates refuse orders of roles they do not know, each with an exception of its own."""
    with pytest.raises(BadRow, match="cannot read this"):
        chat_model.get_last_hidden_state([[{"content": "no role"}]])


def test_numbers_that_are_not_finite(minilm, monkeypatch):
    """A NaN is no JSON: it broke the log of answers, or stood in the dataset."""
    monkeypatch.setattr(minilm, "_vectors", lambda ids, mask: [[0.5, float("nan")]] * len(ids))
    with pytest.raises(BadRow, match="not finite"):
        minilm.get_last_hidden_state(["a"])


def test_out_of_memory_makes_smaller_batches(minilm, monkeypatch, caplog):
    """A batch that was too large for the accelerator ended the run, though half of it fits."""
    monkeypatch.setattr(minilm, "batch_size", 16)
    compute = minilm._vectors
    sizes = []

    def limited(ids, mask):
        sizes.append(len(ids))
        if len(ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(ids, mask)

    monkeypatch.setattr(minilm, "_vectors", limited)
    assert len(minilm.get_last_hidden_state(["a"] * 16)) == 16
    assert sizes == [16, 8, 4, *[2] * 8]
    assert minilm.batch_size == 2
    assert "at most 2" in caplog.text


def test_out_of_memory_for_one(minilm, monkeypatch):
    """A text that fits no batch was tried for ever."""

    def full(ids, mask):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(minilm, "batch_size", 4)
    monkeypatch.setattr(minilm, "_vectors", full)
    with pytest.raises(BadRow, match="not enough memory on cpu"):
        minilm.get_last_hidden_state(["a", "b"])


def test_a_stop_does_not_wait_for_all_passes(minilm, monkeypatch):
    """A task that was told to stop went on until all that was gathered was computed."""
    monkeypatch.setattr(minilm, "batch_size", 1)
    began, go_on, passes = threading.Event(), threading.Event(), []

    def slow(ids, mask):
        passes.append(len(ids))
        began.set()
        assert go_on.wait(10)
        return [[1.0]] * len(ids)

    monkeypatch.setattr(minilm, "_vectors", slow)

    async def run() -> None:
        calls = [asyncio.create_task(minilm.answer(Embed(text))) for text in TEXTS]
        await asyncio.to_thread(began.wait, 10)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await minilm.aclose()
        go_on.set()

    asyncio.run(run())
    wait_for_models()
    assert passes == [1]


def wait_for_models() -> None:
    for thread in threading.enumerate():
        if thread.name == "airflow-distil-model":
            thread.join(10)


def test_a_stop_does_not_wait_for_a_model_that_loads(monkeypatch):
    """A stop while weights were read was over only when they were: Airflow had killed the task, and answers were lost."""
    llm = TransformersLLM(tiny_models.minilm())
    began, go_on, passes = threading.Event(), threading.Event(), []
    load, loads = llm.load, []

    def slow(*given):
        loads.append(given)
        began.set()
        assert go_on.wait(10)
        load(*given)

    monkeypatch.setattr(llm, "load", slow)
    monkeypatch.setattr(llm, "_vectors", lambda ids, mask: passes.append(len(ids)) or [[1.0]] * len(ids))

    async def run() -> None:
        calls = [asyncio.create_task(llm.answer(Embed(text))) for text in TEXTS]
        await asyncio.to_thread(began.wait, 10)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await llm.aclose()

    asyncio.run(run())  # hangs for 10 s, and fails, if it waits for the thread
    assert not go_on.is_set()
    assert not llm._loaded
    go_on.set()
    wait_for_models()
    (answer,) = asyncio.run(llm.answer(Embed("a")))
    assert answer.vector == [1.0]
    assert passes == [1], "what was stopped was computed all the same"
    assert len(loads) == 1


def test_the_process_ends_while_a_model_loads():
    """The interpreter waits for threads of executors when it ends, and it waited for the weights."""
    code = """
import asyncio, threading
from airflow_distil.conversation import Embed
from airflow_distil.llms import TransformersLLM

class Slow(TransformersLLM):
    def _load(self):
        began.set()
        threading.Event().wait()

async def run():
    call = asyncio.create_task(Slow("m").answer(Embed("a")))
    while not began.is_set():
        await asyncio.sleep(0.001)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)

began = threading.Event()
asyncio.run(run())
print("ended")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout == "ended\n"


def test_what_was_stopped_before_its_turn_loads_nothing(monkeypatch):
    """A call that had waited for another's pass loaded a model that nobody wanted any more."""
    llm, halted = TransformersLLM("m"), threading.Event()
    monkeypatch.setattr(llm, "load", lambda *_: pytest.fail("loaded"))
    halted.set()
    with pytest.raises(Transient, match="stopped before it began"):
        llm._computed([Embed("a")], halted)


def test_halted_is_said(minilm, monkeypatch):
    """What was broken off must be asked again, not be taken for an answer."""
    halted = threading.Event()
    monkeypatch.setattr(minilm, "batch_size", 1)
    monkeypatch.setattr(minilm, "_vectors", lambda ids, mask: halted.set() or [[1.0]] * len(ids))
    with pytest.raises(Transient, match="stopped between two"):
        minilm._computed([Embed("a"), Embed("b")], halted)


def test_it_is_loaded_once_and_late(monkeypatch):
    """Each of 64 first requests loaded the model; or a mere `get_conn` did."""
    loads = []
    llm = TransformersLLM(tiny_models.minilm())
    load = llm.load
    monkeypatch.setattr(llm, "load", lambda *given: loads.append(given) or load(*given))

    async def run() -> None:
        await asyncio.gather(*(llm.answer(Embed(text)) for text in TEXTS))
        await llm.aclose()

    assert not loads
    asyncio.run(run())
    asyncio.run(run())
    assert len(loads) == 1


@pytest.mark.parametrize("request_", [Chat([user("hi")]), Rank("a", ["b"])], ids=["chat", "rank"])
def test_what_it_cannot_do_is_said_before_it_is_loaded(request_):
    """A chat ended in an error of the library after minutes of loading."""
    with pytest.raises(TaskDefinitionError, match="embeddings"):
        asyncio.run(TransformersLLM("none").answer(request_))


@pytest.mark.parametrize("request_", [Embed("a", model="other"), Embed("a", parameters={"dimensions": 3})])
def test_what_it_would_ignore_is_refused(request_):
    """`dimensions` was taken and had no effect."""
    with pytest.raises(TaskDefinitionError, match=r"other|dimensions"):
        asyncio.run(TransformersLLM("none").answer(request_))


@pytest.mark.parametrize("given", [{"model": ""}, {"model": "m", "batch_size": 0}])
def test_nothing_to_compute_with_is_refused(given):
    """No model was asked for at the hub by an empty name."""
    with pytest.raises(TaskDefinitionError):
        TransformersLLM(**given)


def fails(model: str, **given) -> str:
    with pytest.raises(Fatal) as caught:
        TransformersLLM(model, **given).get_last_hidden_state(["a"])
    return str(caught.value)


def test_no_such_model(tmp_path):
    """The library's own error has five lines about tokens and pull requests."""
    assert "'nobody/nothing'" in fails("nobody/nothing")
    assert "Next:" in fails(str(tmp_path))


class ConnectTimeout(Exception):
    """As the hub's client would raise it."""


@pytest.mark.parametrize("cause", [ConnectionRefusedError("refused"), ConnectTimeout("timed out"), None], ids=repr)
def test_a_hub_that_cannot_be_reached(monkeypatch, cause):
    """A network that was down for a minute failed the task for good; or a misspelt model was tried again and again."""
    llm = TransformersLLM("org/model")

    def load(*_):
        try:
            if cause:
                raise cause
        except Exception as error:
            raise RuntimeError("wrapped") from error
        raise OSError("org/model is not a valid model identifier")

    monkeypatch.setattr(llm, "load", load)

    async def run() -> list[object]:
        return await asyncio.gather(*(llm.answer(Embed(text)) for text in "ab"), return_exceptions=True)

    errors = asyncio.run(run())
    assert [(type(error), error.final) for error in errors] == [(Fatal, cause is None)] * 2
    assert "'org/model' cannot be loaded" in str(errors[0])


def test_no_such_device():
    """A typo in the device was a traceback of PyTorch."""
    assert "cannot be loaded" in fails(tiny_models.minilm(), device="cuda:99")


def copied(folder: Path) -> Path:
    for file in Path(tiny_models.minilm()).iterdir():
        if file.is_file() and file.name != "model.safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_pickled_weights_are_not_read(tmp_path):
    """`pytorch_model.bin` is a pickle: it can hold code, and the library reads it where there is nothing else."""
    from safetensors.torch import load_file

    torch.save(load_file(Path(tiny_models.minilm()) / "model.safetensors"), copied(tmp_path) / "pytorch_model.bin")
    assert "safetensors" in fails(str(tmp_path))


def test_code_of_a_model_is_not_run(tmp_path):
    """A model of the hub may bring Python files, which the library runs if it is let."""
    config = json.loads((copied(tmp_path) / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    assert "cannot be loaded" in fails(str(tmp_path))


def test_weights_that_are_missing(tmp_path):
    """The library fills what is missing with random numbers and warns: all vectors were noise."""
    from safetensors.torch import load_file, save_file

    weights = load_file(Path(tiny_models.minilm()) / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layer.3.output.dense" not in name and "pooler" not in name}
    save_file(kept, copied(tmp_path) / "model.safetensors", metadata={"format": "pt"})
    assert "layer.3.output.dense" in fails(str(tmp_path))


def test_encoder_with_decoder(tmp_path):
    """T5 has no last token of its own: the pass failed with a TypeError."""
    copied(tmp_path)
    (tmp_path / "config.json").unlink()
    config = transformers.T5Config(vocab_size=99, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    transformers.T5Model(config).save_pretrained(tmp_path)
    assert "decoder" in fails(str(tmp_path))


def test_without_pytorch(monkeypatch):
    """The error named a module, and not what to install."""
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'airflow-distil[transformers]'" in fails("m")


def test_nothing_is_drawn_on_the_console(capfd, caplog):
    """A progress bar of the library filled the task's log with control characters."""
    caplog.set_level(logging.INFO)
    TransformersLLM(tiny_models.minilm()).get_last_hidden_state(["a"])
    assert "%" not in "".join(capfd.readouterr())
    assert "Loaded" in caplog.text
