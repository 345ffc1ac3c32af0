"""Loading a policy, and what is said when it cannot be loaded or cannot be loaded."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TEMPLATE
from transformers import Qwen3Config, Qwen3ForSequenceClassification

from lab.flags import Config
from lab.policy import check_name, check_size, load_policy, memory_of, pick_device, tokens_at_once


def save(folder, policy):
    for part in policy:
        part.save_pretrained(folder)
    return folder


def refusal(name):
    """The one line that load_policy says."""
    with pytest.raises(ValueError) as error:
        load_policy(name)
    assert "\n" not in str(error.value) and str(name) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["nowhere/is/it", "./nowhere", ""])
def test_no_such_model(name):
    assert "neither toy, nor a folder" in refusal(name)


@pytest.mark.parametrize("files, said", [
    ("", "a folder without config.json"), ("config.json", "a folder without weights (*.safetensors)"),
    ("config.json pytorch_model.bin tokenizer.json", "in *.bin, which may hold code and are not read: save"),
    ("config.json model.safetensors model-Q4.gguf", "a folder without a tokenizer"),
    ("config.json checkpoint/config.json metrics.jsonl", "checkpoint?"),
    ("config.json model.safetensors", "a folder without a tokenizer"),
    ("model-Q4.gguf", "in GGUF"), ("model-Q4.gguf config.json", "in GGUF")])
def test_a_folder_of_another_kind_is_named_without_loading_it(tmp_path, files, said):
    for file in map(tmp_path.joinpath, files.split()):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    assert said in refusal(tmp_path)


def test_a_model_of_another_kind_is_named(tmp_path):
    for file, content in (("config.json", '{"model_type": "t5"}'), ("model.safetensors", ""), ("tokens", "")):
        (tmp_path / file).write_text(content)
    assert "it is of type 't5', which is no causal language model" in refusal(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    for name, said in [("model.gguf", "in GGUF"), ("model.safetensors", "neither toy")]:
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=said):
            check_name(str(tmp_path / name))


def test_damaged_weights_are_one_line(tmp_path, tiny_policy):
    save(tmp_path, tiny_policy())
    assert load_policy(tmp_path)[0].dtype == torch.float32
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:len(weights) // 2])
    assert "cannot be loaded" in refusal(tmp_path)


@pytest.mark.parametrize("tied", [False, True])
def test_a_classifier_is_no_policy(tmp_path, tiny_policy, tied):
    _, tokenizer = tiny_policy()
    classifier = Qwen3ForSequenceClassification(Qwen3Config(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=tied, pad_token_id=0))
    said = refusal(save(tmp_path, (classifier, tokenizer)))
    assert "no language model but Qwen3ForSequenceClassification" in said
    assert ("without weights for lm_head.weight" in said) == (not tied)


def test_weights_that_are_missing_are_not_made_up(tmp_path, tiny_policy):
    model, tokenizer = tiny_policy()
    weights = {name: tensor for name, tensor in model.state_dict().items() if "layers.1.mlp" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    tokenizer.save_pretrained(tmp_path)
    assert "without weights for model.layers.1.mlp" in refusal(tmp_path)


def test_a_pad_token_beyond_the_embedding_pads_no_more(tmp_path, tiny_policy):
    model, tokenizer = tiny_policy()
    tokenizer.add_special_tokens({"pad_token": "<added>"})
    assert tokenizer.pad_token_id == model.get_input_embeddings().num_embeddings
    assert load_policy(save(tmp_path, (model, tokenizer)))[1].pad_token_id is None


def test_other_tokens_beyond_the_embedding(tmp_path, tiny_policy):
    model, tokenizer = tiny_policy()
    tokenizer.add_tokens("<picture>", special_tokens=True)              # as Gemma 3's; no problem has it
    load_policy(save(tmp_path, (model, tokenizer)))
    tokenizer.chat_template = TEMPLATE + "<picture>"
    assert "61 tokens in its tokenizer, 60" in refusal(save(tmp_path, (model, tokenizer)))
    model, tokenizer = tiny_policy()
    tokenizer.add_tokens("hello")
    assert "61 tokens in its tokenizer, 60" in refusal(save(tmp_path, (model, tokenizer)))


def test_a_policy_that_cannot_end_a_text(tmp_path, tiny_policy):
    model, tokenizer = tiny_policy(eos_token=None, pad_token=None, eos=3)
    load_policy(save(tmp_path, (model, tokenizer)))                     # the generation config names it
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    assert "token that ends a text" in refusal(save(tmp_path, (model, tokenizer)))


@pytest.mark.parametrize("template", [
    TEMPLATE.replace("m.content", "m.content | selectattr('type') | map(attribute='text') | join"),
    TEMPLATE.replace("{{ m.content }}", "{% if m.role == 'system' %}{{ m.content }}{% endif %}")])
def test_a_template_that_wants_parts_or_only_a_system_message(tmp_path, tiny_policy, template):
    assert "the same prompt of every problem" in refusal(save(tmp_path, tiny_policy(template=template)))


def test_a_tokenizer_that_knows_nothing(tmp_path, tiny_policy):
    model, _ = tiny_policy(template=None)
    save(tmp_path, [model])
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}))
    assert "the same prompt" in refusal(tmp_path)


def test_without_a_network_a_hub_id_fails_within_seconds(tmp_path):
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from lab.policy import load_policy
from tasks.problems import load_problems
for load in (load_policy, load_problems):
    start = time.perf_counter()
    try:
        load("owner/name")
    except ValueError as error:
        print(time.perf_counter() - start < 10, "owner/name" in str(error) and "\\n" not in str(error))
print("tasks.toy" in sys.modules)
"""
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=nowhere, capture_output=True, text=True)
    assert done.stdout.split() == ["True"] * 4 + ["False"], done.stderr


def test_pick_device():
    assert pick_device("cpu").type == "cpu" and pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("tpu", "", "cuda:99x"):
        with pytest.raises(ValueError, match="not available here"):
            pick_device(name)


# --- Does it fit? -----------------------------------------------------------------------------------------

@pytest.fixture
def shape(tmp_path):
    """A folder with the configuration of a model of 2.14 million parameters, and no weights."""
    config = Qwen3Config(vocab_size=1000, hidden_size=256, intermediate_size=1024, num_hidden_layers=2,
                         head_dim=64, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True)
    config.save_pretrained(tmp_path)
    return tmp_path


def parameters_of(shape):
    layer = 4 * 256 * 256 + 3 * 256 * 1024 + 2 * 256 + 2 * 64      # attention, MLP, norms, norms of q and k
    return 1000 * 256 + 2 * layer + 256


def test_weights_pass_through_main_memory_in_float32(shape, monkeypatch):
    need, card = 4 * parameters_of(shape), torch.device("cuda")
    monkeypatch.setattr("lab.policy.memory_of", lambda device: need / 0.9 + (1 if device == card else -1))
    with pytest.raises(ValueError, match=r"for loading its weights \(4 bytes for each of"):
        check_size(shape, Config(), card, 2, "its weights alone")


@pytest.mark.parametrize("bytes_each", [4, 16])
def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(shape, monkeypatch, bytes_each):
    need = bytes_each * parameters_of(shape)
    arguments = shape, Config(), torch.device("cpu"), bytes_each, "weights and so on"
    monkeypatch.setattr("lab.policy.memory_of", lambda device: need / 0.9 + 1)
    check_size(*arguments)
    monkeypatch.setattr("lab.policy.memory_of", lambda device: need / 0.9 - 1)
    with pytest.raises(ValueError, match=rf"for weights and so on \({bytes_each} bytes for each of"):
        check_size(*arguments)


def test_a_large_model_on_a_cpu_has_to_be_asked_for(shape, monkeypatch):
    monkeypatch.setattr("lab.policy.LARGE", parameters_of(shape) - 1)
    with pytest.raises(ValueError, match="there is no GPU: choose a smaller model, or add --device cpu"):
        check_size(shape, Config(), torch.device("cpu"), 4, "weights")
    check_size(shape, Config(device="cpu"), torch.device("cpu"), 4, "weights")
    monkeypatch.setattr("lab.policy.LARGE", parameters_of(shape))
    check_size(shape, Config(), torch.device("cpu"), 4, "weights")


def test_what_is_wrong_with_a_model_is_left_to_loading_it(tmp_path):
    for name in (tmp_path, "toy"):
        check_size(name, Config(), torch.device("cpu"), 16, "weights")


def test_memory_is_that_of_this_machine():
    assert 2**28 < memory_of(torch.device("cpu")) < 2**45


def test_tokens_at_once_depend_on_the_device():
    cpu, cuda = torch.device("cpu"), torch.device("cuda:1")
    assert (tokens_at_once(None, cuda), tokens_at_once(None, cpu)) == (262_144, 32_768)
    assert tokens_at_once(7, cpu) == tokens_at_once(7, cuda) == 7


# --- The toy model ----------------------------------------------------------------------------------------

def test_a_user_without_a_home_has_the_toy_model_kept_elsewhere(tmp_path, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("tasks.toy_model.warm_up", lambda *arguments: None)
    load_policy("toy")
    assert list(tmp_path.glob("masa-toy/*/model.safetensors"))
