r"""MASA: meta-awareness via self-alignment (arXiv 2510.03259), from scratch.

    python masa.py                             the whole method on a laptop, in minutes, nothing downloaded
    python masa.py --algo grpo                 the same without meta predictions: plain GRPO
    python masa.py --algo masa-efficient       predict first, and solve only what is worth it
    python masa.py --model Qwen/Qwen3-1.7B     any causal language model of the hub, on one GPU

For every problem the policy writes G solutions and, on a second path, M predictions of how its solutions will
go: pass rate, length, concepts. A prediction is rewarded for agreeing with the policy's own solutions, and
one GRPO update trains both paths. Start reading at `train`: a line marked MASA is what the paper adds to
GRPO, a line marked MASA-efficient what it adds to save compute, and a line marked "ours" is not in the paper.
Left out of GRPO, as in the paper: the KL penalty (--beta brings it back), the value model, any reward for
format.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")     # a waiting thread must not spin for long on a busy core
# growing caches must not fragment a card
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

from collections import Counter
from dataclasses import dataclass, field

import torch

from eval import evaluate
from gating import length_budget, should_skip
from grpo import NotFinite, group_advantages, imitate, update
from lab.flags import Config, command_line
from lab.run import Run
from rewards import REWARDS, correct_expert, format_meta, meta_rewards
from rollout import Group, Sampler, concat, generate, hintable, pad_rows

CLONE_SIZE, CLONE_UPDATES = 128, 5      # experts that are collected, and supervised steps on them: the paper's
MAX_ROUNDS = 4                          # of drawing problems in a step, of refilling and of dynamic sampling


def train(config: Config) -> Run:
    """Algorithm 1 of the paper, as the flags say. Returns the Run, whose folder holds what came of it."""
    with Run(config, evaluate) as run:
        sampler = run.sampler()
        for step in run.steps():                                # seeded; evaluates and saves in between
            # Roll out: G solutions of every problem. MASA 1: and M predictions of how they will go.
            # MASA-efficient 1: predict first, and solve only what the predictions say is worth it.
            efficient = config.algo == "masa-efficient" and step >= config.gate_start
            roll_out = predict_first if efficient else sample_dynamically if config.dynamic_sampling else solve_all
            with run.sampling():
                batch = roll_out(sampler, run)

            # Reward a solution for being right, and compare it with the other solutions of its problem.
            batch.rewards = torch.tensor([float(c) for group in batch.groups for c in group.correct])
            keep = torch.tensor([not (config.mask_cut and c) for group in batch.groups for c in group.cut])
            advantages = group_advantages(batch.rewards, config.group_size, keep)
            rollouts = concat([group.solutions for group in batch.groups])

            if config.algo != "grpo":
                # MASA 2 (eq. 1 to 4): reward a prediction for agreeing with the solutions of its own problem.
                batch.terms = [terms for group in batch.groups for terms in self_alignment(group, config)]
                batch.meta_rewards = meta_scores(batch.terms, config)
                # MASA 3: compare it with the other predictions of its problem, never with solutions.
                meta_advantages = group_advantages(batch.meta_rewards, config.meta_group_size)
                advantages = torch.cat([advantages, meta_advantages])
                rollouts = concat([rollouts, *(group.metas for group in batch.groups)])

            # Update the policy on both paths together, with one GRPO loss.
            try:
                metrics = update(run.policy, run.optimizer, rollouts.tokens, advantages.to(run.device),
                                 weight=config.problems_per_step / len(batch.groups), **run.update_settings())
                # MASA-efficient 2: imitate the best predictions, with their numbers corrected.
                if config.algo == "masa-efficient" and config.clone:
                    metrics |= clone_experts(batch, run)
            except NotFinite as error:
                metrics = run.skip_update(batch, error.rows)
            run.keep(batch, metrics)
    return run


# --- Rolling out ------------------------------------------------------------------------------------------

@dataclass
class Batch:
    """What a step learns from. wasted: tokens sampled of problems that are not in it. metrics: to be logged.

    rewards: [N * G]. terms: N * M dicts of the three rewards. meta_rewards: what predictions are trained on,
    [N * M].
    """
    groups: list[Group]
    wasted: int = 0
    metrics: dict = field(default_factory=dict)
    rewards: torch.Tensor | None = None
    terms: list[dict] = field(default_factory=list)
    meta_rewards: torch.Tensor | None = None


def self_alignment(group: Group, config: Config) -> list[dict]:
    """The three rewards of each prediction, from the solutions of the same problem."""
    return [meta_rewards(prediction, group.problem.text, group.solutions.texts, group.solutions.lengths,
                         group.correct, config.notion_variant) for prediction in group.predictions]


def meta_scores(terms: list[dict], config: Config) -> torch.Tensor:
    """What each prediction is trained on, [N * M]: the mean of its rewards, or the control of
    --meta-reward."""
    if config.meta_reward in REWARDS:
        return torch.tensor([rewards[config.meta_reward] for rewards in terms])
    scores = torch.tensor([sum(rewards.values()) / len(rewards) for rewards in terms])
    if config.meta_reward == "shuffled":        # the same rewards, handed to the wrong rollouts of the group
        groups = scores.view(-1, config.meta_group_size)
        return groups.gather(1, torch.rand(groups.shape).argsort(1)).flatten()
    return torch.zeros_like(scores) if config.meta_reward == "none" else scores


def draw(run: Run, count: int) -> list[Group]:
    return [Group(problem, run.config.max_new_tokens) for problem in run.stream.draw(count)]


def predict(sampler: Sampler, groups: list[Group], config: Config) -> None:
    """M predictions of each problem, and what follows from them: hints, and whether gating would skip it."""
    sampler.predict(groups, config.meta_group_size)
    for group in groups:
        if config.hints:
            group.hints = [common_notions(group, sampler.tokenizer)]
        rates = [p.pass_rate for p in group.predictions]
        group.flagged = should_skip(rates, config.gate_std, config.gate_margin)


def solve_all(sampler: Sampler, run: Run) -> Batch:
    """Both paths of the next problems; the meta path only where it is trained. The gate's audit sees all of
    it."""
    groups = draw(run, run.config.problems_per_step)
    if run.config.algo != "grpo":
        predict(sampler, groups, run.config)
    sampler.solve(groups, run.config.group_size)
    return Batch(groups, metrics=judge_gate(groups, run) if run.config.algo != "grpo" else {})


def sample_dynamically(sampler: Sampler, run: Run) -> Batch:
    """DAPO's dynamic sampling (arXiv 2503.14476): solve, and throw away groups without variance until enough
    are left.

    It pays G solutions for what it throws away, where MASA-efficient pays M short predictions.
    """
    config, kept, thrown, drawn = run.config, [], [], 0
    for _ in range(MAX_ROUNDS):
        groups = draw(run, config.problems_per_step)
        sampler.solve(groups, config.group_size)
        drawn += len(groups)
        for group in groups:
            (thrown if group.silent or len(kept) == config.problems_per_step else kept).append(group)
        if len(kept) == config.problems_per_step:
            break
    # nothing to learn: a step that changes nothing
    kept = kept or [thrown.pop()]
    return Batch(kept, sum(sum(group.solutions.lengths) for group in thrown),
                 {"problems_drawn": drawn, "problems_kept": len(kept)})


def predict_first(sampler: Sampler, run: Run) -> Batch:
    """MASA-efficient: predict, skip what is hopeless or trivial, stop what rambles, solve the rest; audit
    both rules.

    A problem that is flagged but not skipped is never cut: what becomes of it is the evidence for or against
    the gate, and a cut solution would count as wrong.
    """
    config = run.config
    groups, skipped = gate(sampler, run)
    for group in groups:
        if config.cutoff and not (config.gate and group.flagged):
            lengths = [p.solution_length for p in group.predictions]
            group.budget = length_budget(lengths, config.max_new_tokens, config.cutoff_factor,
                                         config.cutoff_min)
    sampler.solve(groups, config.group_size)
    for group in groups:
        group.cut = [not finished and not correct and group.budget < config.max_new_tokens
                     for finished, correct in zip(group.solutions.finished.tolist(), group.correct)]
    metrics = judge_gate(groups, run)
    tokens = audit_gate(sampler, skipped, run) + audit_cutoff(sampler, groups, run)
    return Batch(groups, sum(sum(group.metas.lengths) for group in skipped), metrics | {
        "gate/share": len(skipped) / (len(groups) + len(skipped)),
        "problems_drawn": len(groups) + len(skipped), "problems_kept": len(groups), "audit/tokens": tokens,
        "cutoff/share": sum(sum(group.cut) for group in groups) / (len(groups) * config.group_size),
        "cutoff/mean_budget": sum(group.budget for group in groups) / len(groups),
        **{f"cutoff/{name}": value for name, value in run.cutoff_audit.figures().items()}})


def gate(sampler: Sampler, run: Run) -> tuple[list[Group], list[Group]]:
    """Predict until enough problems are worth solving, in at most MAX_ROUNDS rounds: groups to solve, and
    skipped ones.

    A flagged problem is skipped only while the audit trusts the gate (ours; so is drawing others in its
    place). If every problem is flagged, the first ones are solved all the same.
    """
    config, kept, skipped = run.config, [], []
    trusted = config.gate and run.gate_audit.trusted(config.gate_trust)
    for _ in range(MAX_ROUNDS if config.refill else 1):
        groups = draw(run, config.problems_per_step - len(kept))
        predict(sampler, groups, config)
        for group in groups:
            (skipped if group.flagged and trusted else kept).append(group)
        if len(kept) == config.problems_per_step:
            break
    if not kept:
        kept, skipped = skipped[:config.problems_per_step], skipped[config.problems_per_step:]
    return kept, skipped


def common_notions(group: Group, tokenizer, most: int = 3) -> list[str]:
    """The up to `most` notions that the predictions of a problem name most often, the commonest first."""
    named = [dict.fromkeys(hintable(p.notions, tokenizer)) for p in group.predictions]
    count = Counter(notion for notions in named for notion in notions)
    return [notion for notion, _ in count.most_common(most)]


# --- Audits (ours): nobody sees what a skipped problem would have been, so a random share is looked at ------

def judge_gate(groups: list[Group], run: Run) -> dict:
    """Tell the audit what came of solved groups; one that is silent because some were cut says nothing."""
    known = [group for group in groups if not (group.silent and any(group.cut))]
    run.gate_audit.add([group.silent for group in known if group.flagged],
                       sum(group.silent and not group.flagged for group in known))
    return {f"gate/{name}": value for name, value in run.gate_audit.figures().items()}


def audit_gate(sampler: Sampler, skipped: list[Group], run: Run) -> int:
    """Solve a random share of the skipped problems, off the books: was there really no variance? Tokens
    spent."""
    sample = [group for group in skipped if run.rng.random() < run.config.audit_fraction]
    if sample:
        sampler.solve(sample, run.config.group_size)
        run.gate_audit.add([group.silent for group in sample], 0, run.config.audit_fraction)
    return sum(sum(group.solutions.lengths) for group in sample)


def audit_cutoff(sampler: Sampler, groups: list[Group], run: Run) -> int:
    """Continue a random share of the cut solutions, off the books: would they have been wrong? Tokens
    spent."""
    config = run.config
    rows = [(group, i) for group in groups for i in range(config.group_size)]
    missed = sum(not group.correct[i] and not group.cut[i] for group, i in rows)
    run.cutoff_audit.add([], missed)
    sample = [(g, i) for g, i in rows if g.cut[i] and run.rng.random() < config.audit_fraction]
    if not sample:
        return 0
    prompts = [g.solutions.prompt_ids[i][g.solutions.prompt_mask[i]].tolist() for g, i in sample]
    begun = [g.solutions.completion_ids[i][g.solutions.mask[i]].tolist() for g, i in sample]
    rest = generate(run.policy, run.tokenizer, [p + b for p, b in zip(prompts, begun)],
                    [config.max_new_tokens - len(b) for b in begun], config.temperature,
                    max_tokens=config.max_tokens)
    ends = [ids[keep].tolist() for ids, keep in zip(rest.completion_ids, rest.mask)]
    texts = run.tokenizer.batch_decode([b + end for b, end in zip(begun, ends)], skip_special_tokens=True,
                                       clean_up_tokenization_spaces=False)
    wrong = [not sampler.grade(text, g.problem) for text, (g, _) in zip(texts, sample)]
    run.cutoff_audit.add(wrong, 0, config.audit_fraction)
    return sum(rest.lengths)


# --- Expert cloning ---------------------------------------------------------------------------------------

def clone_experts(batch: Batch, run: Run) -> dict:
    """Collect the step's experts (see `rewards.correct_expert`); once there are enough, imitate them and
    start over."""
    size = run.config.meta_group_size
    for i, group in enumerate(batch.groups):
        notions = [terms["notion"] for terms in batch.terms[i * size:(i + 1) * size]]
        expert = correct_expert(group.predictions, notions, group.solutions.lengths, group.correct)
        if expert:
            prompt = group.metas.prompt_ids[0][group.metas.prompt_mask[0]].tolist()
            text = run.tokenizer(format_meta(expert), add_special_tokens=False)["input_ids"]
            run.experts.append((prompt, [*text, run.tokenizer.eos_token_id]))
    if len(run.experts) < CLONE_SIZE:
        return {}
    prompts, completions = zip(*run.experts)
    run.experts = []
    run.set_learning_rate(run.config.clone_learning_rate)
    examples = (*pad_rows(prompts, left=True, device=run.device), *pad_rows(completions, device=run.device))
    return {"clone/loss": imitate(run.policy, run.optimizer, examples, CLONE_UPDATES,
                                  run.config.micro_batch_tokens, run.dtype)}


def main(arguments: list[str] | None = None) -> None:
    """The command line; `arguments` are those of sys.argv by default."""
    command_line("masa.py", lambda: train(Config.parse(arguments)))


if __name__ == "__main__":
    main()
