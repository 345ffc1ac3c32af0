r"""MASA: meta-awareness via self-alignment (arXiv 2510.03259), from scratch.

    python masa.py                             MASA on a laptop, in minutes, nothing downloaded
    python masa.py --algo grpo                 the same without meta predictions: plain GRPO
    python masa.py --algo masa-efficient       predict first, and solve only what is worth it
    python masa.py --model Qwen/Qwen3-1.7B     any causal language model of the hub, on one GPU

For every problem the policy writes G solutions and, on a second path, M predictions of how its solutions will
go: pass rate, length, concepts. A prediction is rewarded for agreeing with the policy's own solutions, and
one GRPO update trains both paths. Start reading at `train`: a line marked MASA is what the paper adds to
GRPO, a line marked MASA-efficient what it adds to save compute, and a line marked "ours" is not in the paper.
Left out of GRPO, as in the paper: the KL penalty (--beta brings it back), any reward for format.
"""

from lab.command import command_line  # isort: skip  (first: it sets what torch reads when it is loaded)

import sys
from dataclasses import dataclass, field

import torch

from eval import evaluate
from gating import length_budget, should_skip, silent_mass
from grpo import NotFinite, group_advantages, imitate, update
from lab.flags import Config
from lab.reading import FEATURES, mass_by_solving, mass_of_numbers
from lab.run import Run
from rewards import REWARDS, correct_expert, format_meta, meta_rewards
from rollout import Group, Sampler, concat, finished_ids, pad_rows
from tasks.prompts import common_notions

CLONE_SIZE, CLONE_UPDATES = 128, 5      # the paper's: experts to collect, and supervised steps on them
PILOT = 2                               # solutions that --gate-by pilot looks at first
MAX_ROUNDS = 4                          # of drawing problems in a step, of refilling and of dynamic sampling


def train(config: Config) -> Run:
    """Algorithm 1 of the paper, as the flags say. Returns the Run, whose folder holds what came of it."""
    with Run(config, evaluate) as run:
        sampler = run.sampler
        for _ in run.steps():                                   # each seeded; evaluates and saves in between
            # Roll out: G solutions of every problem. MASA 1: and M predictions of how they will go.
            # MASA-efficient 1: gate and cut by what is said or read, and solve only what is worth it.
            roll_out = predict_first if config.algo == "masa-efficient" else solve_all
            with run.sampling():
                batch = (sample_dynamically if config.dynamic_sampling else roll_out)(sampler, run)

            # Reward a solution for being right, and compare it with the other solutions of its problem.
            batch.rewards = torch.tensor([float(c) for group in batch.groups for c in group.correct])
            keep = torch.tensor([not (config.mask_cut and c) for group in batch.groups for c in group.cut])
            advantages = group_advantages(batch.rewards, config.group_size, keep)[keep]
            rollouts = concat([group.solutions for group in batch.groups])
            rollouts = rollouts.select(keep.nonzero()[:, 0].tolist())

            if config.algo != "grpo" and config.meta_group_size:
                # MASA 2 (eq. 1 to 4): reward a prediction for agreeing with the solutions of its own problem.
                batch.terms = [terms for group in batch.groups for terms in self_alignment(group, config)]
                batch.meta_rewards = meta_scores(batch.terms, config)
                # MASA 3: compare it with the other predictions of its problem, never with solutions.
                meta_advantages = group_advantages(batch.meta_rewards, config.meta_group_size)
                advantages = torch.cat([advantages, config.meta_weight * meta_advantages])  # ours: a weight
                rollouts = concat([rollouts, *(group.metas for group in batch.groups)])

            # Update the policy on both paths together, with one GRPO loss.
            try:
                metrics = update(run.policy, run.optimizer, rollouts.tokens, advantages.to(run.device),
                                 weight=config.problems_per_step / len(batch.groups), **run.update_settings())
                # MASA-efficient 2: imitate the best predictions, with their numbers corrected.
                if config.algo == "masa-efficient" and config.clone and config.meta_group_size:
                    metrics |= clone_experts(batch, run)
            except NotFinite as error:
                metrics = run.skip_update(batch, error.rows)
            run.keep(batch, metrics)
    return run


# --- Rolling out ------------------------------------------------------------------------------------------

@dataclass
class Batch:
    """What a step learns from."""
    groups: list[Group]                                 # N
    wasted: int = 0                                     # tokens sampled of problems that are not in it
    metrics: dict = field(default_factory=dict)         # what else is logged
    rewards: torch.Tensor | None = None                 # [N * G]
    terms: list[dict] = field(default_factory=list)     # N * M times the three rewards
    meta_rewards: torch.Tensor | None = None            # [N * M], what predictions are trained on


def self_alignment(group: Group, config: Config) -> list[dict]:
    """The three rewards of each prediction, from the solutions of the same problem."""
    return [meta_rewards(prediction, group.problem.text, group.solutions.texts, group.solutions.lengths,
                         group.correct, config.notion_variant) for prediction in group.predictions]


def meta_scores(terms: list[dict], config: Config) -> torch.Tensor:
    """What each prediction is trained on, [N * M]: the mean of its rewards, or a control."""
    if config.meta_reward in REWARDS:
        return torch.tensor([rewards[config.meta_reward] for rewards in terms])
    scores = torch.tensor([sum(rewards.values()) / len(rewards) for rewards in terms])
    if config.meta_reward == "shuffled":        # the same rewards, in random order
        groups = scores.view(-1, config.meta_group_size)
        return groups.gather(1, torch.rand(groups.shape).argsort(1)).flatten()
    return scores


def draw(run: Run, count: int) -> list[Group]:
    return [Group(problem, [run.config.max_new_tokens]) for problem in run.stream.draw(count)]


def predict(sampler: Sampler, groups: list[Group], config: Config) -> None:
    """M predictions of each problem, and the hints that follow from them where they are asked for."""
    if groups and config.meta_group_size:
        sampler.predict(groups, config.meta_group_size)
        for group in groups if config.hints else ():
            group.hints = [common_notions(group.predictions, sampler.tokenizer)]


def solve_all(sampler: Sampler, run: Run) -> Batch:
    """GRPO's and MASA's batch: both paths of the next problems, the meta path only where it is trained."""
    groups = draw(run, run.config.problems_per_step)
    if run.config.algo != "grpo":
        predict(sampler, groups, run.config)
    sampler.solve(groups, run.config.group_size)
    return Batch(groups)


def sample_dynamically(sampler: Sampler, run: Run) -> Batch:
    """DAPO's dynamic sampling (arXiv 2503.14476): solve until enough groups have variance, drop others.

    It pays G solutions for what it throws away; MASA-efficient reads a prompt, or pays M short predictions.
    """
    config, kept, thrown = run.config, [], []
    for _ in range(MAX_ROUNDS):
        groups = draw(run, config.problems_per_step)
        sampler.solve(groups, config.group_size)
        for group in groups:
            (thrown if group.silent or len(kept) == config.problems_per_step else kept).append(group)
        if len(kept) == config.problems_per_step:
            break
    kept = kept or [thrown.pop()]       # no group has variance: a step that changes nothing
    return Batch(kept, wasted=sum(sum(group.solutions.lengths) for group in thrown),
                 metrics={"problems_drawn": len(kept) + len(thrown), "problems_kept": len(kept)})


# --- MASA-efficient: predict, skip, cut, solve --------------------------------------------------------------

def predict_first(sampler: Sampler, run: Run) -> Batch:
    """Skip hopeless and trivial problems, predict the rest, stop overlong solutions; audit all of it.

    Both rules are followed from step --gate-start on, as long as their audits trust them (ours), and then a
    random share of what they flag is let through, so that the audits go on (ours).
    """
    config, started = run.config, run.state["step"] >= run.config.gate_start
    gating = config.gate and started and run.gate_audit.trusted(config.gate_trust)
    cutting = config.cutoff and started and run.cutoff_audit.trusted(config.cutoff_trust)
    groups, skipped = gate(sampler, run, gating)
    predict(sampler, [group for group in groups if not group.metas], config)
    limits = [cutoff(group, run, cutting) for group in groups]
    sampler.solve(groups, config.group_size - (PILOT if config.gate_by == "pilot" else 0))
    if config.gate_by in FEATURES:
        run.reader.add(torch.cat([g.features for g in groups]), [sum(g.correct) for g in groups],
                       [g.right_length for g in groups])
        run.reader.fit()

    # Audits: was a flagged group without variance, would a solution over its limit have been wrong? (For the
    # first question a solution that was cut counts as wrong, which the second one watches.)
    run.gate_audit.add([group.silent for group in groups if group.flagged],
                       sum(group.silent and group.flagged is False for group in groups),
                       (config.audit_fraction or 1.0) if gating else 1.0)
    looks = [[not right for length, right in zip(group.solutions.lengths, group.correct) if length > limit]
             for group, limit in zip(groups, limits)]
    cut, wrong = sum(sum(group.cut) for group in groups), sum(group.correct.count(False) for group in groups)
    run.cutoff_audit.add(sum(looks, []), wrong - cut - sum(map(sum, looks)),
                         (config.audit_fraction or 1.0) if cutting else 1.0,
                         [run.rng.choice(part) for part in looks if part])
    thrown = [part for group in skipped for part in (group.metas, group.solutions) if part]
    return Batch(groups, wasted=sum(sum(part.lengths) for part in thrown), metrics={
        "gate/share": len(skipped) / (len(groups) + len(skipped)),
        "problems_drawn": len(groups) + len(skipped), "problems_kept": len(groups),
        "cutoff/share": cut / (len(groups) * config.group_size),
        "cutoff/mean_budget": sum(limits) / len(limits),
        **{f"gate/{name}": value for name, value in run.gate_audit.figures().items()},
        **{f"cutoff/{name}": value for name, value in run.cutoff_audit.figures().items()}})


def gate(sampler: Sampler, run: Run, gating: bool) -> tuple[list[Group], list[Group]]:
    """Draw until enough problems are worth solving, in at most MAX_ROUNDS rounds: (to solve, skipped).

    Drawing others in place of skipped problems is ours. If all are flagged, the first are solved after all.
    """
    config, kept, skipped = run.config, [], []
    for _ in range(MAX_ROUNDS if config.refill else 1):
        groups = draw(run, config.problems_per_step - len(kept))
        flag(sampler, groups, run)
        for group in groups:
            skip = group.flagged and gating and run.rng.random() >= config.audit_fraction
            (skipped if skip else kept).append(group)
        if len(kept) == config.problems_per_step:
            break
    if not kept:
        kept, skipped = skipped[:config.problems_per_step], skipped[config.problems_per_step:]
        for group in kept:
            group.flagged = None        # solved for want of others: no random sample for the audit
    return kept, skipped


def flag(sampler: Sampler, groups: list[Group], run: Run) -> None:
    """Flag groups that will have no variance. A new rule is a branch here, or a row of reading.FEATURES."""
    config = run.config
    if config.gate_by in FEATURES:                              # ours: read a mass before anything is sampled
        features = FEATURES[config.gate_by](sampler, groups)
        probabilities = run.reader.probabilities(features)
        for i, group in enumerate(groups):
            group.features = features[i:i + 1]
            mass = 0.0 if probabilities is None else silent_mass(probabilities[i])
            group.flagged = bool(mass >= config.gate_mass)
    elif config.gate_by == "pilot":                             # a control: two solutions, no prediction
        sampler.solve(groups, PILOT)
        for group in groups:
            group.flagged = group.silent
    elif config.gate_by == "oracle":                            # a control: it knows the true pass rates
        for group, mass in zip(groups, mass_by_solving(sampler, groups, config.group_size)):
            group.flagged = mass >= config.gate_mass
    else:
        predict(sampler, groups, config)
        for group in groups:
            if config.gate_by == "said":                        # the paper's
                rates = [p.pass_rate for p in group.predictions]
                group.flagged = should_skip(rates, config.gate_std, config.gate_margin)
            else:                                               # ours: the probabilities behind what is said
                group.flagged = mass_of_numbers(sampler, group) >= config.gate_mass


def cutoff(group: Group, run: Run, cutting: bool) -> int:
    """Where solutions of a group would be stopped, in tokens; sets their budgets.

    A flagged group is never cut: what becomes of it is the evidence for or against the gate.
    """
    config, whole = run.config, run.config.max_new_tokens
    if not config.cutoff or (config.gate and group.flagged):
        return whole
    if config.cutoff_by == "said" or group.features is None:            # the paper's
        lengths = [p.solution_length for p in group.predictions]
    else:                                                               # ours: by what the gate has read
        lengths = run.reader.lengths(group.features)
    limit = length_budget(lengths, whole, config.cutoff_factor, config.cutoff_min)
    group.budgets = [limit if cutting and run.rng.random() >= config.audit_fraction else whole
                     for _ in range(config.group_size)]
    return limit


# --- Expert cloning ---------------------------------------------------------------------------------------

def clone_experts(batch: Batch, run: Run) -> dict:
    """Collect the step's experts (`rewards.correct_expert`); once there are enough, imitate them."""
    config, size = run.config, run.config.meta_group_size
    for i, group in enumerate(batch.groups):
        notions = [terms["notion"] for terms in batch.terms[i * size:(i + 1) * size]]
        expert = correct_expert(group.predictions, notions, group.solutions.lengths, group.correct)
        if expert:
            prompt = group.metas.prompt_ids[0][group.metas.prompt_mask[0]].tolist()
            run.experts.append((prompt, finished_ids(run.policy, run.tokenizer, format_meta(expert))))
    if len(run.experts) < CLONE_SIZE:
        return {}
    prompts, completions = zip(*run.experts)
    run.experts = []
    examples = (*pad_rows(prompts, left=True, device=run.device), *pad_rows(completions, device=run.device))
    try:
        loss = imitate(run.policy, run.cloner, examples, CLONE_UPDATES, config.micro_batch_tokens, run.dtype)
    except NotFinite as error:
        run.bar.write(f"expert cloning: {error}, these experts are dropped", file=sys.stdout)
        loss = float("nan")
    return {"clone/loss": loss}


def main(arguments: list[str] | None = None) -> None:
    """The command line; `arguments` are those of sys.argv by default."""
    command_line("masa.py", lambda: train(Config.parse(arguments)))


if __name__ == "__main__":
    main()
