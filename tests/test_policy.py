"""Loading a policy, and what is said when it cannot be loaded."""

import pytest
import torch

from lab.policy import load_policy, pick_device, precision


@pytest.mark.parametrize("name, said", [("nowhere/is/it", "neither toy, nor a folder"), ("./nowhere", "neither toy")])
def test_no_such_model(name, said):
    with pytest.raises(ValueError, match=said):
        load_policy(name)


def test_a_folder_that_is_no_model(tmp_path, tiny_policy):
    with pytest.raises(ValueError, match="without config.json or without weights"):
        load_policy(str(tmp_path))
    model, tokenizer = tiny_policy()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_policy(tmp_path)[0].dtype == torch.float32
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:len(weights) // 2])
    with pytest.raises(ValueError) as error:
        load_policy(str(tmp_path))
    assert "cannot be loaded" in str(error.value) and "\n" not in str(error.value)


def test_pick_device():
    assert pick_device("cpu").type == "cpu" and pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("tpu", "", "cuda:99x"):
        with pytest.raises(ValueError, match="not available here"):
            pick_device(name)


def test_precision_computes_in_bf16_but_keeps_the_weights():
    layer = torch.nn.Linear(4, 4)
    with precision(torch.device("cpu"), bf16=True):
        out = layer(torch.ones(2, 4))
    assert out.dtype == torch.bfloat16 and layer.weight.dtype == torch.float32
    out.sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    with precision(torch.device("cpu")):
        assert layer(torch.ones(2, 4)).dtype == torch.float32
