"""LoRA adapters: they change nothing at first, alone are trained and stored, and come back bit for bit."""

import json
import os
import sys

import pytest
import torch
from conftest import SMALL, checkpointed, logged, save_base_model, save_chat_model, train
from safetensors.torch import load_file
from test_run import same, trainer
from transformers import AutoModelForCausalLM

import eval as evaluation
from grpo import token_logprobs, update
from lab.adapter import WithoutAdapter, base_of, halve_frozen
from lab.flags import Config
from lab.policy import check_name, load_policy
from lab.results import read_results
from tools.merge import merge

IDS = torch.arange(5, 20)[None]
LORA = [*SMALL, "--lora-rank", 4]


@pytest.fixture
def peft():
    return pytest.importorskip("peft")


def shaken(model):
    """`model` with an adapter that does something."""
    for weights in model.parameters():
        if weights.requires_grad:
            weights.data.add_(0.1 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1)))
    return model


def stored_adapter(tmp_path):
    """(base, folder) of an adapter that does something."""
    base = save_chat_model(tmp_path / "base")
    model, tokenizer = load_policy(base, lora_rank=4)
    for part in (shaken(model), tokenizer):
        part.save_pretrained(tmp_path / "adapter")
    return base, tmp_path / "adapter"


def refusal(name, **more):
    with pytest.raises(ValueError) as error:
        load_policy(name, **more)
    assert "\n" not in str(error.value) and str(name) in str(error.value)
    return str(error.value)


# --- Flags and folders, without the package ---------------------------------------------------------------

def test_learning_rates_of_adapters_are_ten_times_those_of_all_weights():
    for preset in ("toy", "gpu", "paper"):
        arguments = ["--model", "owner/name", "--preset", preset]
        whole, adapter = Config.parse(arguments), Config.parse([*arguments, "--lora-rank", "8"])
        assert adapter.learning_rate == 10 * whole.learning_rate
        assert adapter.clone_learning_rate == 10 * whole.clone_learning_rate
    assert Config.parse([*arguments, "--lora-rank", "8", "--learning-rate", "0.5"]).learning_rate == 0.5
    with pytest.raises(ValueError, match="the toy model is small enough"):
        Config.parse(["--lora-rank", "8"])


def test_without_peft_a_line_says_how_to_get_it(tmp_path, monkeypatch, problems):
    monkeypatch.setitem(sys.modules, "peft", None)
    model = save_chat_model(tmp_path / "model")
    with pytest.raises(SystemExit, match="--lora-rank needs a package that is not installed: pip inst"):
        train("--model", model, "--data", problems, *LORA, "--output", tmp_path / "run")
    write(tmp_path / "adapter", base_model_name_or_path=model)
    assert "an adapter, needs a package" in refusal(tmp_path / "adapter")


def write(folder, weights="adapter_model.safetensors", **fields):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | fields))
    (folder / weights).touch()


@pytest.mark.parametrize("fields, said", [
    ({}, "does not name its model"), ({"base_model_name_or_path": 5}, "does not name its model"),
    ({"base_model_name_or_path": "a/b", "peft_type": "IA3"}, "no plain LoRA"),
    ({"base_model_name_or_path": "a/b", "modules_to_save": ["lm_head"]}, "no plain LoRA"),
    ({"base_model_name_or_path": "a/b", "weights": "adapter_model.bin"}, "without its weights"),
    ({"base_model_name_or_path": "a/b", "weights": "config.json"}, "in one folder"),
    ({"base_model_name_or_path": "FOLDER"}, "which is no base model"),                   # of itself
    ({"base_model_name_or_path": "/gone/base"}, "is an adapter, and its base model /gone/base is neither")])
def test_a_folder_that_is_no_adapter_for_a_model_is_named(tmp_path, monkeypatch, fields, said):
    monkeypatch.setattr("lab.policy.need_peft", lambda what: None)
    folder = tmp_path / "adapter"
    write(folder, **{name: str(folder) if value == "FOLDER" else value for name, value in fields.items()})
    with pytest.raises(ValueError, match=said) as error:
        check_name(str(folder))
    assert str(error.value).startswith(f"model {folder} is") and "\n" not in str(error.value)


# --- With the package -------------------------------------------------------------------------------------

def test_a_fresh_adapter_changes_nothing_and_is_drawn_with_the_seed(tmp_path, peft):
    base = save_chat_model(tmp_path / "base")
    whole, adapted, again, other = (load_policy(base, lora_rank=rank, seed=seed)[0]
                                    for rank, seed in ((0, 0), (4, 0), (4, 0), (4, 1)))
    assert type(adapted) is type(whole) and torch.equal(adapted(IDS).logits, whole(IDS).logits)
    assert same(adapted.state_dict(), again.state_dict())
    assert not same(adapted.state_dict(), other.state_dict())
    trained = {name: weights for name, weights in adapted.named_parameters() if weights.requires_grad}
    layers = [name for name, layer in whole.named_modules() if isinstance(layer, torch.nn.Linear)]
    assert {name.split(".lora_")[0] for name in trained} == {*layers} - {"lm_head"}
    assert all(weights.shape[name.endswith("B.default.weight")] == 4 for name, weights in trained.items())
    assert {module.p for module in adapted.modules() if isinstance(module, torch.nn.Dropout)} <= {0.0}


def test_a_stored_adapter_is_its_base_model_with_it_merged(tmp_path, peft):
    base, folder = stored_adapter(tmp_path)
    assert [path.name for path in folder.glob("*model*")] == ["adapter_model.safetensors"]
    assert base_of(folder) == base
    trained, merged = load_policy(folder, lora_rank=4)[0], load_policy(folder)[0]
    truth = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    assert torch.equal(trained(IDS).logits, truth(IDS).logits)
    plain = truth.merge_and_unload()
    assert same(merged.state_dict(), plain.state_dict()) and not same(plain.state_dict(), weights(base))
    assert all(weights.requires_grad for weights in merged.parameters())
    merge(folder, tmp_path / "out")
    for wrong, said in ((base, "holds no adapter"), (folder, "is there already")):
        with pytest.raises(ValueError, match=said):
            merge(wrong, tmp_path / "out")
    assert same(weights(tmp_path / "out"), plain.state_dict()) and load_policy(tmp_path / "out")


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_an_adapter_that_does_not_fit_is_refused(tmp_path, peft, tiny_policy):
    _, folder = stored_adapter(tmp_path)
    assert "has rank 4: give that" in refusal(folder, lora_rank=8)
    whole = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(whole[:len(whole) // 2])
    refusal(folder)
    (folder / "adapter_model.safetensors").write_bytes(whole)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    assert "does not fit" in refusal(folder)
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_dropout": 0.3}))
    assert "dropout" in refusal(folder, lora_rank=4)
    for part in tiny_policy():                                              # of other shapes
        part.save_pretrained(tmp_path / "other")
    other = config | {"base_model_name_or_path": str(tmp_path / "other")}
    (folder / "adapter_config.json").write_text(json.dumps(other | {"r": 5}))
    assert "cannot be loaded: Error(s) in loading state_dict" in refusal(folder)


def test_an_adapter_of_the_head_is_refused(tmp_path, peft):
    """With tied embeddings it would be merged into both."""
    base = save_base_model(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["lm_head", "q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    assert "changes the embedding or the LM head" in refusal(tmp_path / "adapter")


def test_the_reference_is_the_model_without_the_adapter(tmp_path, peft):
    base, folder = stored_adapter(tmp_path)
    policy, reference = load_policy(folder, lora_rank=4)[0], load_policy(base)[0]
    prompt, completion = IDS[:, :5], IDS[:, 5:]
    batch = prompt, prompt > 5, completion, completion > 0
    with torch.no_grad():
        own, without, truth = (token_logprobs(model, *batch)[0]
                               for model in (policy, WithoutAdapter(policy), reference))
        assert torch.equal(without, truth) and not torch.allclose(own, truth, atol=1e-2)
        assert torch.equal(token_logprobs(policy, *batch)[0], own)
    metrics = []
    for frozen in (WithoutAdapter(policy), reference):
        optimizer = torch.optim.SGD([w for w in policy.parameters() if w.requires_grad], lr=0.0)
        metrics.append(update(policy, optimizer, batch, torch.ones(1), beta=0.1, reference=frozen))
    assert metrics[0] == metrics[1] and metrics[0]["kl"] > 0


def test_gradient_checkpointing_changes_no_gradient(tmp_path, peft):
    _, folder = stored_adapter(tmp_path)
    gradients = []
    for model in (load_policy(folder, lora_rank=4)[0], checkpointed(load_policy(folder, lora_rank=4)[0])):
        batch = IDS[:, :5], IDS[:, :5] > 0, IDS[:, 5:], IDS[:, 5:] > 0
        token_logprobs(model.train(), *batch)[0].sum().backward()
        gradients.append({name: w.grad for name, w in model.named_parameters() if w.grad is not None})
    assert len(gradients[0]) == 28 and gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(one, gradients[1][name], atol=1e-5) for name, one in gradients[0].items())


@pytest.mark.parametrize("more", [[], ["--bf16", "True", "--gradient-checkpointing", "True"]])
def test_two_and_two_steps_are_four(tmp_path, problems, sometimes_right, peft, more):
    base = save_chat_model(tmp_path / "base")
    before = weights(base)
    common = ["--model", base, "--data", problems, *LORA, "--beta", 0.1, "--eval-problems", 0, *more]
    train(*common, "--output", tmp_path / "four", "--steps", 4)
    train(*common, "--output", tmp_path / "two", "--steps", 2)
    train(*common, "--output", tmp_path / "two", "--steps", 4, "--resume")
    one, other = (tmp_path / name / "checkpoint" for name in ("four", "two"))
    assert same(load_file(one / "adapter_model.safetensors"), load_file(other / "adapter_model.safetensors"))
    states = [trainer(folder.parent) for folder in (one, other)]
    assert same(states[0]["optimizer"], states[1]["optimizer"])
    assert logged(tmp_path / "four") == logged(tmp_path / "two")
    assert logged(tmp_path / "four")[-1]["kl"] > 0
    assert len(states[0]["optimizer"]["state"]) == 28 and same(before, weights(base))
    assert {path.name for path in one.glob("*.safetensors")} == {"adapter_model.safetensors"}
    assert any((tensor != 0).any() for name, tensor in load_file(one / "adapter_model.safetensors").items()
               if "lora_B" in name)


def test_frozen_weights_in_bfloat16_are_rounded_once(tmp_path, peft):
    _, folder = stored_adapter(tmp_path)
    model, exact = load_policy(folder, lora_rank=4)[0], load_policy(folder, lora_rank=4)[0]
    halve_frozen(model)
    for (name, one), other in zip(model.named_parameters(), exact.parameters()):
        assert one.dtype == (torch.float32 if "lora" in name else torch.bfloat16), name
        assert torch.equal(one, other.to(one.dtype))
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}


def test_a_checkpoint_is_evaluated_with_its_adapter(tmp_path, problems, sometimes_right, peft):
    """In training the adapter is beside the weights, in eval.py it is merged into them."""
    base, run = save_chat_model(tmp_path / "base"), tmp_path / "run"
    train("--model", base, "--data", problems, *LORA, "--steps", 2, "--learning-rate", 0.05, "--output", run)
    name = os.path.relpath(run / "checkpoint")
    policy = load_policy(name, lora_rank=4)[0]
    assert torch.allclose(load_policy(name)[0](IDS).logits, policy(IDS).logits, atol=1e-4)
    assert not torch.allclose(load_policy(base)[0](IDS).logits, policy(IDS).logits, atol=1e-2)
    out = str(tmp_path / "out.json")
    evaluation.main(["--model", name, "--data", problems, "--samples", "2", "--metas", "0",
                     "--max-new-tokens", "12", "--max-meta-tokens", "9", "--output", out])
    assert len(read_results(out)["problems"]) == 9


def test_what_an_adapter_cannot_be_combined_with(tmp_path, problems, peft):
    _, folder = stored_adapter(tmp_path)
    common = ["--data", problems, *LORA, "--eval-problems", 0, "--output", tmp_path / "run"]
    with pytest.raises(SystemExit, match="--beta compares with the initial policy"):
        train("--model", folder, *common, "--beta", 0.1)
    train("--model", folder, *common, "--steps", 1)                             # without it, training goes on
    assert base_of(tmp_path / "run/checkpoint") == base_of(folder)

