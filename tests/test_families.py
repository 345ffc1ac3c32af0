"""Families of language models, tiny and random: each loads without noise and is trained on its own logits."""

import pytest
import torch
import transformers
from conftest import logprobs_alone, make_tokenizer, sampled

from grpo import token_logprobs
from lab.policy import load_policy
from rollout import generate

PLAIN = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
LLAMA = dict(PLAIN, intermediate_size=48, num_key_value_heads=2)
GPT = dict(n_embd=32, n_layer=2, n_head=4, n_positions=64)
WINDOWS = dict(LLAMA, head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"])
FAMILIES = {            # of the config classes of transformers; dropout and jitter where the family has any
    "GPT2": dict(GPT, attn_pdrop=0.1, embd_pdrop=0.1),
    "OPT": dict(PLAIN, ffn_dim=48, word_embed_proj_dim=16, dropout=0.1, attention_dropout=0.1, layerdrop=0.3),
    "BioGpt": dict(PLAIN, intermediate_size=48, hidden_dropout_prob=0.1),
    "Starcoder2": dict(LLAMA, residual_dropout=0.1, embedding_dropout=0.1),
    "Mistral": dict(LLAMA, sliding_window=4, attention_dropout=0.1),
    "Gemma2": dict(WINDOWS, final_logit_softcapping=2.0),
    "Gemma3Text": WINDOWS,
    "Phi3": dict(LLAMA, resid_pdrop=0.1, max_position_embeddings=64, original_max_position_embeddings=64),
    "GPTNeoX": dict(PLAIN, intermediate_size=48, hidden_dropout=0.1),
    "Mixtral": dict(LLAMA, num_local_experts=4, router_jitter_noise=0.1),
    "GptOss": dict(WINDOWS, num_local_experts=4),
    "Bloom": dict(hidden_size=32, n_layer=2, n_head=4, hidden_dropout=0.1, attention_dropout=0.1),
    "Falcon": dict(PLAIN, hidden_dropout=0.1, attention_dropout=0.1),
    "Granite": dict(LLAMA, logits_scaling=8.0),
    "Cohere": dict(LLAMA, logit_scale=0.25),
    "Mamba": dict(hidden_size=32, num_hidden_layers=2, state_size=4),
}


def save(folder, family, **fields):
    """A model with sharp random distributions over 60 tokens, and a tokenizer for it, in a folder."""
    config = getattr(transformers, f"{family}Config")(
        vocab_size=60, pad_token_id=0, bos_token_id=1, eos_token_id=3, **fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_is_trained_on_its_own_logits_without_noise(tmp_path, family):
    save(tmp_path, family, **FAMILIES[family])
    model, _ = load_policy(tmp_path)
    assert not model.training
    rows = [torch.arange(5, 17)[None], torch.arange(30, 40)[None]]              # longer than the windows
    with torch.no_grad():
        own = [model(row).logits[0].log_softmax(-1) for row in rows]
        model.train()
        assert torch.equal(model(rows[0]).logits, model(rows[0]).logits)
    prompts = torch.tensor([[5, 6, 7, 8], [0, 0, 30, 31]])
    completions = torch.stack([rows[0][0, 4:], rows[1][0, 2:]])
    logprobs, entropy = token_logprobs(model, prompts, prompts > 0, completions, completions > 0, chunk=5)
    for i, last in enumerate([3, 1]):                                           # place of each prompt
        truth = own[i][last:-1]
        assert torch.allclose(logprobs[i], truth.gather(1, completions[i, :, None])[:, 0], atol=1e-4, rtol=0)
        assert torch.allclose(entropy[i], -(truth.exp() * truth).sum(1), atol=1e-4, rtol=0)
    logprobs.sum().backward()
    assert all(weights.grad is None or weights.grad.isfinite().all() for weights in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_is_trained_on_what_it_sampled_from(tmp_path, family):
    save(tmp_path, family, **FAMILIES[family])
    prompts = [[5, 6, 7, 8], [30, 31]] * 4
    model, tokenizer = load_policy(tmp_path)
    rollouts = generate(model, tokenizer, prompts, [24] * 8)
    with torch.no_grad():
        logprobs, _ = token_logprobs(load_policy(tmp_path)[0].train(), *rollouts.tokens)
        for prompt, completion, row, mask in zip(prompts, sampled(rollouts), logprobs, rollouts.mask):
            assert torch.allclose(row[mask], logprobs_alone(model, prompt, completion), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family, fields", [
    ("FalconH1", dict(LLAMA, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, lm_head_multiplier=0.5)),
    ("RoFormer", dict(PLAIN, intermediate_size=48, is_decoder=True, max_position_embeddings=64)),
    ("Bert", dict(PLAIN, intermediate_size=48))])
def test_a_model_that_would_be_trained_on_other_logits_is_refused(tmp_path, family, fields):
    save(tmp_path, family, **fields)
    with pytest.raises(ValueError, match="cannot be loaded: it ignores padding, or changes"):
        load_policy(tmp_path)


def test_noise_that_no_config_names_is_refused(tmp_path, monkeypatch):
    save(tmp_path, "Mistral", **LLAMA)
    forward = transformers.MistralModel.forward

    def noisy(self, *arguments, **named):
        out = forward(self, *arguments, **named)
        out.last_hidden_state = torch.nn.functional.dropout(out.last_hidden_state, 0.1, self.training)
        return out
    monkeypatch.setattr(transformers.MistralModel, "forward", noisy)
    with pytest.raises(ValueError, match="two passes in train mode differ"):
        load_policy(tmp_path)
