"""What is sampled, against one-row loops without cache, padding or `generate`; and both paths of a group."""

import json

import pytest
import torch
from conftest import (
    END,
    PAD,
    checkpointed,
    chi_square_fits,
    greedy_alone,
    logprobs_alone,
    play,
    rows_of,
    sampled,
)
from transformers import (
    DynamicCache,
    GenerationConfig,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import grpo
import rollout
from rewards import MetaPrediction
from rollout import Group, Sampler, concat, eos_ids, generate, pad_rows
from tasks.problems import Problem
from tasks.prompts import encode, meta_messages, solution_messages

PROMPTS = [[10, 11, 12], [13, 14, 15, 16, 17, 18, 19], [20]]
pytestmark = pytest.mark.filterwarnings("error")


# --- Sampling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [True, False])
def test_gradient_checkpointing_and_padding_change_no_token_and_the_mode_is_put_back(tiny_policy, train):
    model, tokenizer = tiny_policy()
    expected = [greedy_alone(model, prompt, 16) for prompt in PROMPTS]
    assert min(len(set(row)) for row in expected) > 3                   # nothing degenerate to compare with
    own = checkpointed(model).train(train).generation_config
    assert sampled(generate(model, tokenizer, PROMPTS, [16] * 3, temperature=0)) == expected
    assert model.training is train and model.generation_config is own
    assert all(layer.gradient_checkpointing for layer in model.model.layers)
    model.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(model, tokenizer, PROMPTS, [4] * 3)
    assert model.training is train and model.generation_config is own


@pytest.mark.parametrize("stride, ends, pad", [(1, [3], PAD), (3, [3, 17, 40], END), (5, [3, 25], None)])
def test_rows_that_have_ended_leave_and_change_no_other(tiny_policy, monkeypatch, stride, ends, pad):
    monkeypatch.setattr(rollout, "STRIDE", stride)
    model, tokenizer = tiny_policy(eos=ends)
    tokenizer.pad_token = pad
    prompts = PROMPTS + [[token] for token in range(10, 40)]
    budgets = [14, 2, 9, *([12, 3, 7] * 10)]
    widths = []
    hook = model.register_forward_pre_hook(lambda _, args, given: widths.append(len(given["input_ids"])),
                                           with_kwargs=True)
    rollouts = generate(model, tokenizer, prompts, budgets, temperature=0)
    hook.remove()
    assert widths[0] == len(prompts) and widths[-1] < 12
    assert sum(widths) <= sum(-(-length // stride) * stride for length in rollouts.lengths)
    expected = [greedy_alone(model, prompt, budget) for prompt, budget in zip(prompts, budgets)]
    expected = [row[:min([i + 1 for i, token in enumerate(row) if token in ends] or [len(row)])]
                for row in expected]
    assert sampled(rollouts) == expected and any(len(row) < budget for row, budget in zip(expected, budgets))
    got, _ = grpo.token_logprobs(model, *rollouts.tokens)
    for row, (prompt, completion) in enumerate(zip(prompts, expected)):
        alone = logprobs_alone(model, prompt, completion)
        torch.testing.assert_close(got[row][rollouts.mask[row]], alone, atol=2e-5, rtol=0)


def test_under_autocast_the_cache_takes_half_the_memory_for_the_same_numbers(tiny_policy, monkeypatch):
    model, tokenizer = tiny_policy()
    found = []
    for kind in (DynamicCache, rollout.Cache):
        monkeypatch.setattr(rollout, "Cache", kind)
        sizes, logits = set(), []

        def look(_, args, given, out, sizes=sizes, logits=logits):
            sizes.update(part.dtype.itemsize for layer in out.past_key_values.layers
                         for part in (layer.keys, layer.values))
            logits.append(out.logits)
        hook = model.register_forward_hook(look, with_kwargs=True)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            found.append((generate(model, tokenizer, PROMPTS * 4, [40, 9, 22] * 4), sizes, logits))
        hook.remove()
    (theirs, wide, their_logits), (ours, narrow, our_logits) = found
    assert wide == {4} and narrow == {2}
    assert sampled(ours) == sampled(theirs) and all(map(torch.equal, our_logits, their_logits))


def test_a_model_with_a_recurrent_state_waits_for_its_longest_row(tiny_policy):
    _, tokenizer = tiny_policy()
    torch.manual_seed(0)
    for config, kind in ((Lfm2Config(
            vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, layer_types=["conv", "full_attention"], eos_token_id=3), Lfm2ForCausalLM),
            (MambaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, state_size=4, eos_token_id=3),
             MambaForCausalLM)):
        model = kind(config).eval()
        rollouts = generate(model, tokenizer, [[10, 11, 12], [13, 14, 15]], [40, 5], temperature=0)
        assert sampled(rollouts) == [greedy_alone(model, prompt, n) for prompt,
                                     n in (([10, 11, 12], 40), ([13, 14, 15], 5))]


@pytest.mark.parametrize("temperature", [0, 0.7, 1.0])
def test_generate_logs_no_warning(tiny_policy, transformers_said, temperature):
    for pad in (PAD, END, None):
        model, tokenizer = tiny_policy()
        tokenizer.pad_token = pad
        generate(checkpointed(model).train(), tokenizer, PROMPTS, [2, 9, 5], temperature)
    assert transformers_said == []


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.6, 1.0), (1.0, 0.5)])
def test_sampling_follows_the_softmax_whatever_the_checkpoint_configures(tiny_policy, temperature, top_p):
    model, tokenizer = tiny_policy()
    model.generation_config = own = GenerationConfig(
        do_sample=True, top_k=1, top_p=0.3, min_p=0.2, typical_p=0.5, temperature=0.1, repetition_penalty=5.0,
        no_repeat_ngram_size=1, min_new_tokens=2, suppress_tokens=[45, 46], eos_token_id=3, pad_token_id=0)
    before, prompt = own.to_dict(), PROMPTS[0]
    torch.manual_seed(1)
    rollouts = generate(model, tokenizer, [prompt] * 6000, [2] * 6000, temperature, top_p)
    continued = torch.cat([torch.tensor([prompt] * 60), torch.arange(60)[:, None]], 1)
    first, second = (model(ids).logits[:, -1].detach().double().div(temperature).softmax(-1)
                     for ids in (torch.tensor([prompt]), continued))
    if top_p < 1:                       # the fewest of the most likely tokens that reach top_p
        for row in (*first, *second):
            order = row.argsort(descending=True)
            row[order[int((row[order].cumsum(0) < top_p).sum()) + 1:]] = 0.0
            row /= row.sum()
    counts = torch.bincount(rollouts.completion_ids[:, 0], minlength=60)
    assert chi_square_fits(counts, first[0]) and (counts[3] > 0 or top_p < 1)  # EOS before min_new_tokens
    counts = torch.bincount(rollouts.completion_ids[rollouts.mask[:, 1], 1], minlength=60)
    assert chi_square_fits(counts, (first.T * second)[torch.arange(60) != 3].sum(0) / (1 - first[0, 3]))
    assert model.generation_config is own and own.to_dict() == before


@pytest.mark.parametrize("pad", [PAD, END, None])
def test_ends(tiny_policy, pad):
    """What the model says, the length of it that counts, has it ended by itself; the budget is 5, 3 and 40
    end."""
    cases = [([3], 1, True), ([21, 22, 3], 3, True), ([21, 22, 23, 24, 3], 5, True), ([21, 40], 2, True),
             ([21, 22, 23, 24, 25, 3], 5, False), ([21, 22, 23, 24, 25], 5, False), ([40, 3], 1, True),
             ([0, 0, 21, 0, 3], 5, True), ([0] * 5, 5, False), ([4, 1, 2, 3], 4, True)]
    model, tokenizer = tiny_policy(eos=[40, 3])
    tokenizer.pad_token = pad
    play(model, {30 + i: row for i, (row, *_) in enumerate(cases)}, 2)
    rollouts = generate(model, tokenizer, [[10, 30 + i] for i in range(len(cases))], [5] * len(cases))
    assert sampled(rollouts) == [row[:length] for row, length, _ in cases]
    assert rollouts.lengths == [length for _, length, _ in cases]
    assert rollouts.finished.tolist() == [finished for *_, finished in cases]


@pytest.mark.parametrize("configured, ends", [(40, [3, 40]), (3, [3]), ([40, 3], [3, 40]), (None, [3])])
def test_the_tokenizer_and_the_checkpoint_name_the_ends(tiny_policy, configured, ends):
    model, tokenizer = tiny_policy()
    model.generation_config.eos_token_id = configured
    assert eos_ids(model, tokenizer) == ends


@pytest.mark.parametrize("pad", [PAD, END])
@pytest.mark.parametrize("most, calls_at_most", [(None, 1), (27, 2), (26, 3), (45, 2), (1, 6)])
def test_budgets_and_splits(tiny_policy, most, calls_at_most, pad):
    """The prompts take 3 tokens. A row keeps to its budget, no split loses one, and nothing is sampled in
    vain."""
    model, tokenizer = tiny_policy(eos=[3, 40])
    tokenizer.pad_token = pad
    prompts, budgets = [[10, 11, 12], [13], [14, 15], [16, 16, 16], [17, 17], [18]], [1, 6, 2, 3, 3, 5]
    says = {12: [20] * 6, 13: [21, 21, 3], 15: [22] * 6, 16: [23, 23, 3], 17: [24, 24, 24, 3], 18: [25, 40]}
    calls = play(model, says, 3)
    rollouts = generate(model, tokenizer, prompts, budgets, max_tokens=most)
    assert sampled(rollouts) == [[20], [21, 21, 3], [22] * 2, [23, 23, 3], [24] * 3, [25, 40]]
    assert rollouts.finished.tolist() == [False, True, False, True, False, True]
    assert rollouts.prompt_mask.tolist() == [[i >= 3 - len(prompt) for i in range(3)] for prompt in prompts]
    assert rows_of(rollouts.prompt_ids, rollouts.prompt_mask) == prompts
    assert sorted(key for keys, _ in calls for key in keys) == list(says) and len(calls) <= calls_at_most
    for keys, tokens in calls:
        rows = [list(says).index(key) for key in keys]
        assert tokens == max(rollouts.lengths[row] for row in rows)
        assert most is None or len(rows) == 1 or len(rows) * (3 + max(budgets[row] for row in rows)) <= most


def test_every_stride_is_told(tiny_policy, monkeypatch):
    monkeypatch.setattr(rollout, "STRIDE", 3)
    model, tokenizer = tiny_policy(eos=[3, 25])
    prompts, told = [[token] for token in range(10, 40)], []
    rollouts = generate(model, tokenizer, prompts, [14, 2, 9] * 10, temperature=0,
                        progress=lambda *counts: told.append(counts))
    expected = []
    for done in range(0, max(rollouts.lengths), 3):
        left = [length - done for length in rollouts.lengths if length > done]
        expected.append((sum(n <= 3 for n in left), len(left) * min(3, max(left))))
    assert told == expected and len(told) == 5 and sum(ended for ended, _ in told) == 30


def test_ids_beyond_the_tokenizer_are_decoded_as_nothing(tiny_policy):
    """An embedding is often padded to a round number of rows; a model may sample what they stand for."""
    _, tokenizer = tiny_policy()
    model = Qwen3ForCausalLM(Qwen3Config(
        vocab_size=80, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, eos_token_id=3)).eval()
    play(model, {10: [21, 79, 60, 22, 3]}, 1)
    rollouts = generate(model, tokenizer, [[10]], [9])
    assert sampled(rollouts) == [[21, 79, 60, 22, 3]] and rollouts.texts == ["w11 w12"]
    logprobs, _ = grpo.token_logprobs(model, *rollouts.tokens)
    assert logprobs.isfinite().all()


def test_edges(tiny_policy):
    """A budget of one token; a prompt of one token (PROMPTS[2]); no prompts at all, which is the caller's
    mistake."""
    model, tokenizer = tiny_policy()
    got = sampled(generate(model, tokenizer, PROMPTS, [1] * 3, 0))
    assert got == [greedy_alone(model, prompt, 1) for prompt in PROMPTS]
    with pytest.raises(ValueError):
        generate(model, tokenizer, [], [])


def test_ids_are_kept_and_texts_are_without_special_tokens(tiny_policy):
    model, tokenizer = tiny_policy()
    says = [[59, 2, 11, 4, 3], [11, 12, 3], [3]]                        # 59 reads "w1 w2", as 11 and 12 do
    play(model, dict(enumerate(says, 30)), 1)
    rollouts = generate(model, tokenizer, [[30], [31], [32]], [5] * 3)
    assert sampled(rollouts) == says and rollouts.lengths == [5, 3, 1]
    assert rollouts.texts == ["w1 w2 w1", "w1 w2", ""]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_sampler_and_token_logprobs_agree(tiny_policy, temperature):
    model, tokenizer = tiny_policy()
    outputs, inner = [], model.generate

    def spy(generation_config, **kwargs):
        generation_config.output_scores = generation_config.return_dict_in_generate = True
        outputs.append(inner(generation_config=generation_config, **kwargs))
        return outputs[0].sequences
    model.generate = spy
    torch.manual_seed(0)
    r = generate(model, tokenizer, PROMPTS * 4, [12] * 12, temperature)
    scores = torch.stack(outputs[0].scores, 1).double().log_softmax(-1)
    expected = scores.gather(-1, r.completion_ids[..., None]).squeeze(-1)
    got, _ = grpo.token_logprobs(model, *r.tokens, temperature)
    assert (~r.mask).any()
    torch.testing.assert_close(got.detach()[r.mask].double(), expected[r.mask], atol=2e-5, rtol=0)


def test_concat_and_select_keep_rows_aligned(tiny_policy):
    model, tokenizer = tiny_policy()
    says = [[21, 3], [22] * 4, [23, 23, 3], [24] * 7]
    prompts = [[10, 11], [12], [13, 14, 15, 16], [17]]
    play(model, dict(zip([11, 12], says)), 2)
    short = generate(model, tokenizer, prompts[:2], [4] * 2)
    play(model, dict(zip([16, 17], says[2:])), 4)
    both = concat([short, generate(model, tokenizer, prompts[2:], [7] * 2)])
    assert both.texts == ["w11", "w12 w12 w12 w12", "w13 w13", "w14 w14 w14 w14 w14 w14 w14"]
    assert both.prompt_ids.shape == (4, 4) and both.mask.shape == (4, 7)
    for rows in ([0, 1, 2, 3], [3, 0], [1], [0, 2, 0], []):
        part = both.select(rows)
        assert sampled(part) == [says[i] for i in rows] and len(part) == len(rows)
        assert rows_of(part.prompt_ids, part.prompt_mask) == [prompts[i] for i in rows]
        assert part.finished.tolist() == [i in (0, 2) for i in rows]
        assert part.texts == [both.texts[i] for i in rows]
        if rows:                        # no column that only others used; prompts end where completions begin
            assert part.prompt_mask.any(0).all() and part.mask.any(0).all()
            assert part.prompt_mask[:, -1].all() and part.mask[:, 0].all()


def test_pad_rows():
    rows = [[9], [0, 9], [2, 9, 9]]
    ids, mask = pad_rows(rows, left=True, pad=7)
    assert ids.tolist() == [[7, 7, 9], [7, 0, 9], [2, 9, 9]]
    assert rows_of(ids, mask) == rows and mask[:, -1].all()
    ids, mask = pad_rows(rows)
    assert ids.tolist() == [[9, 0, 0], [0, 9, 0], [2, 9, 9]]
    assert rows_of(ids, mask) == rows and mask[:, 0].all()
    assert ids.dtype == torch.int64 and mask.dtype == torch.bool
    assert pad_rows([[1], []])[1].tolist() == [[True], [False]]


# --- Both paths -------------------------------------------------------------------------------------------

class Says:
    """Stands for `generate`: the texts that a function of the prompt, as text, and the row in its call
    gives."""

    def __init__(self, monkeypatch, tokenizer, answer):
        self.prompts, self.settings, real = [], [], rollout.generate

        def scripted(model, tokenizer, prompts, budgets, *settings):
            self.prompts.append(prompts)
            self.settings.append((budgets, *settings))
            rollouts = real(model, tokenizer, prompts, budgets, *settings)
            rollouts.texts = [answer(tokenizer.decode(prompt), row) for row, prompt in enumerate(prompts)]
            return rollouts
        monkeypatch.setattr(rollout, "generate", scripted)


def test_the_sampler_gives_each_group_its_own_predictions_and_solutions(tiny_policy, monkeypatch):
    model, tokenizer = tiny_policy()
    problems = [Problem("a", "w5 w6", "1"), Problem("b", "w7", "2")]
    groups = [Group(problems[0], [6]), Group(problems[1], [4, 2])]
    sampler = Sampler(model, tokenizer, 6, 5, temperature=0.7, top_p=0.9, thinking=True, max_tokens=999)
    said = Says(monkeypatch, tokenizer, lambda prompt, row: json.dumps(
        {"pass_rate": row, "solution_length": row + 3}))
    sampler.predict(groups, 3)
    asked = [encode(tokenizer, meta_messages(p.text, 6), True) for p in problems]
    assert said.prompts == [[asked[0]] * 3 + [asked[1]] * 3] and [s[:4] for s in said.settings] == [
        ([5] * 6, 0.7, 0.9, 999)]
    assert [[p.pass_rate for p in group.predictions] for group in groups] == [[0, 1, 2], [3, 4, 5]]
    lengths = [[p.solution_length for p in group.predictions] for group in groups]
    assert lengths == [[3, 4, 5], [6, None, None]]
    for group, ids in zip(groups, asked):
        assert rows_of(group.metas.prompt_ids,
                       group.metas.prompt_mask) == [ids] * 3 and max(group.metas.lengths) <= 5
        assert group.solutions is None and not group.correct and group.silent

    groups[0].hints = [["w8"], [], ["w9", "w10"]]
    said = Says(monkeypatch, tokenizer, lambda prompt, row: f"\\boxed{{{1 + row // 4}}}")
    sampler.solve(groups, 4)
    asked = [encode(tokenizer, solution_messages("w5 w6", hint), True)
             for hint in (["w8"], [], ["w9", "w10"], ["w8"])]
    asked += [encode(tokenizer, solution_messages("w7"), True)] * 4
    assert said.prompts == [asked] and [s[:4] for s in said.settings] == [
        ([6] * 4 + [4, 2] * 2, 0.7, 0.9, 999)]
    assert [group.correct for group in groups] == [[True] * 4] * 2
    assert [group.cut for group in groups] == [[False] * 4] * 2
    for group, most, rows in zip(groups, (6, 4), (asked[:4], asked[4:])):
        assert rows_of(group.solutions.prompt_ids, group.solutions.prompt_mask) == rows
        assert max(group.solutions.lengths) <= most and len(group.solutions) == 4


def test_the_sampler_asks_and_grades_as_it_is_told(tiny_policy, monkeypatch):
    model, tokenizer = tiny_policy()
    group = Group(Problem("a", "w5", "yes"), [3])
    said = Says(monkeypatch, tokenizer, lambda prompt, row: ["yes", "no"][row % 2])
    sampler = Sampler(model, tokenizer, 3, 3, instruction="w11", grade=lambda text,
                      problem: text == problem.answer)
    sampler.solve([group], 2)
    assert said.prompts == [[encode(tokenizer, [{"role": "user", "content": "w5\n\nw11"}])] * 2]
    assert group.correct == [True, False] and not group.silent
    sampler.grade = lambda text, problem: True
    sampler.solve([group], 2)                               # two more
    assert group.correct == [True, False, True, True] and len(group.solutions) == len(group.cut) == 4


def test_a_group_begins_with_nothing_of_another():
    one, other = (Group(Problem(name, "w5", "1"), [9]) for name in "ab")
    one.hints.append(["w1"])
    one.predictions.append(MetaPrediction())
    one.correct.append(True)
    assert other == Group(Problem("b", "w5", "1"), [9]) and other.hints == [[]]


def test_a_solution_is_cut_if_it_is_stopped_early_and_not_right(tiny_policy, monkeypatch):
    model, tokenizer = tiny_policy()
    group = Group(Problem("a", "w5", "1"), [3, 3, 6, 3])
    answers = iter([True, False, False, False])
    sampler = Sampler(model, tokenizer, 6, 5, grade=lambda text, problem: next(answers))
    sampler.solve([group], 4)
    stopped = [not done for done in group.solutions.finished.tolist()]
    assert group.correct == [True, False, False, False]
    assert group.cut == [False, stopped[1], False, stopped[3]] and any(group.cut)  # 6 is the whole budget


def test_the_prompts_of_a_group_are_read_once(tiny_policy):
    model, tokenizer = tiny_policy()
    groups = [Group(Problem(str(i), text, "1"), [3]) for i, text in enumerate(("w5 w6 w7", "w8"))]
    sampler = Sampler(model, tokenizer, 3, 3)
    sampler.solve(groups, 5)
    assert sampler.prefilled == sum(len(encode(tokenizer, solution_messages(group.problem.text)))
                                    for group in groups)
