r"""What a training step learns from: problems, their graded solutions, and the predictions made about them.

    solve_all          GRPO and MASA: both paths of every problem, in parallel
    predict_first      MASA-efficient: predict, skip what promises nothing, stop what rambles, draw more problems
    sample_dynamically DAPO's dynamic sampling (arXiv 2503.14476), the peer of MASA-efficient: solve, and throw
                       away the groups without variance until enough are left

MASA-efficient and DAPO want the same, a batch in which every group has something to teach. DAPO pays for what
it throws away with G full solutions, MASA-efficient with M short predictions.
"""

from collections import Counter
from dataclasses import dataclass, field

import torch

from gating import length_budget, should_skip
from tasks.grader import grade
from parallel import generate
from rewards import ATTEMPTS, parse_meta
from prompts import encode, hint_messages, hintable, meta_messages, solution_messages
from rollout import Rollouts, concat


@dataclass
class Collected:
    """N problems with N * G solutions, and N * M meta rollouts, or None in GRPO.

    correct: [N * G] booleans. predictions: N lists of M MetaPredictions, empty in GRPO. cut: [N * G] booleans, True
    where the cutoff stopped a solution before its answer and before the budget.
    wasted: tokens sampled of problems that are not in the batch. metrics: what else is to be logged.
    """
    problems: list
    solutions: Rollouts
    correct: list
    metas: Rollouts | None
    predictions: list
    cut: torch.Tensor
    wasted: int = 0
    metrics: dict = field(default_factory=dict)


class Collector:
    """Rolls out with `policy`; `draw(n)` gives the next n problems of the data."""

    def __init__(self, policy, tokenizer, config, draw, rng):
        self.policy, self.tokenizer, self.config, self.draw, self.rng = policy, tokenizer, config, draw, rng

    def predict(self, problems):
        """M meta rollouts of each problem: Rollouts of N * M rows."""
        config = self.config
        prompts = [encode(self.tokenizer, meta_messages(problem.text, config.max_new_tokens), config.thinking)
                   for problem in problems for _ in range(config.meta_group_size)]
        return generate(self.policy, self.tokenizer, prompts, config.max_meta_tokens, config.temperature,
                        max_tokens=config.max_tokens)

    def solve(self, problems, budgets=None, hints=None):
        """G solutions of each problem, and their grades: Rollouts of N * G rows, N * G booleans.

        budgets: tokens, one for each problem. hints: for each problem a list of notions to pass on.
        """
        size = self.config.group_size
        chats = ([solution_messages(problem.text) for problem in problems] if hints is None else
                 [hint_messages(problem.text, notions) for problem, notions in zip(problems, hints)])
        budgets = budgets or [self.config.max_new_tokens] * len(problems)
        prompts = [encode(self.tokenizer, chat, self.config.thinking) for chat in chats for _ in range(size)]
        solutions = generate(self.policy, self.tokenizer, prompts, [b for b in budgets for _ in range(size)],
                             self.config.temperature, max_tokens=self.config.max_tokens)
        return solutions, [grade(text, problems[row // size].answer) for row, text in enumerate(solutions.texts)]

    def solve_all(self, gate_audit):
        """Both paths of the next problems, the meta path only where it is trained. Everything is seen: `gate_audit`
        learns of each problem whether gating would have been right about it."""
        config = self.config
        problems = self.draw(config.problems_per_step)
        metas = self.predict(problems) if config.algo != "grpo" else None
        predictions = self.predictions(metas) if metas else []
        solutions, correct = self.solve(problems, hints=self.hints(predictions))
        uncut = torch.zeros(len(correct), dtype=torch.bool)
        metrics = self.judge_gate([self.flags(group) for group in predictions], correct, uncut, gate_audit)
        return Collected(problems, solutions, correct, metas, predictions, uncut, metrics=metrics)

    def sample_dynamically(self):
        """Groups with variance only, from up to `max_draws` batches of solutions; at least one group."""
        config, kept, wasted, drawn = self.config, [], 0, 0
        for _ in range(config.max_draws):
            problems = self.draw(config.problems_per_step)
            solutions, correct = self.solve(problems)
            drawn += len(problems)
            for i, problem in enumerate(problems):
                rows = list(range(i * config.group_size, (i + 1) * config.group_size))
                grades = [correct[row] for row in rows]
                if len(set(grades)) > 1 and len(kept) < config.problems_per_step:
                    kept.append((problem, solutions.select(rows), grades))
                else:
                    wasted += sum(solutions.lengths[row] for row in rows)
            if len(kept) == config.problems_per_step:
                break
        if not kept:                                            # nothing to learn: a step that changes nothing
            kept.append((problem, solutions.select(rows), grades))
            wasted -= sum(solutions.lengths[row] for row in rows)
        correct = [c for _, _, grades in kept for c in grades]
        return Collected([problem for problem, _, _ in kept], concat([part for _, part, _ in kept]), correct, None,
                         [], torch.zeros(len(correct), dtype=torch.bool), wasted,
                         {"problems_drawn": drawn, "problems_kept": len(kept)})

    def predict_first(self, gate_audit, cutoff_audit):
        """The sequence of Algorithm 1: predict, gate, solve with the budgets that were predicted; then audit both.

        A problem that is flagged but not skipped is never cut: what becomes of it is the evidence for or against
        the gate, and a cut solution would count as wrong.
        """
        config = self.config
        problems, metas, flagged, skipped, wasted, drawn = self.gate(gate_audit)
        predictions, budgets = self.predictions(metas), [config.max_new_tokens] * len(problems)
        for i, group in enumerate(predictions):
            if config.cutoff and not (config.gate and flagged[i]):
                lengths = [p.solution_length for p in group if p.solution_length is not None]
                budgets[i] = length_budget(lengths, config.max_new_tokens, config.cutoff_factor, config.cutoff_min)
        solutions, correct = self.solve(problems, budgets, self.hints(predictions))
        limits = torch.tensor(budgets).repeat_interleave(config.group_size)
        cut = ~solutions.finished.cpu() & (limits < config.max_new_tokens) & ~torch.tensor(correct)

        metrics = self.judge_gate(flagged, correct, cut, gate_audit)
        tokens = self.audit_gate(skipped, gate_audit)
        tokens += self.audit_cutoff(problems, solutions, correct, cut, cutoff_audit)
        metrics |= {
            "gate/share": len(skipped) / drawn, "problems_drawn": drawn, "problems_kept": len(problems),
            "cutoff/share": cut.float().mean().item(), "cutoff/mean_budget": limits.float().mean().item(),
            "audit/tokens": tokens, **{f"cutoff/{name}": value for name, value in cutoff_audit.figures().items()}}
        return Collected(problems, solutions, correct, metas, predictions, cut, wasted, metrics)

    def gate(self, audit):
        """Predict until there are enough problems worth solving, in at most `max_draws` rounds.

        Returns problems, their meta rollouts, whether each is flagged, the skipped problems with their meta rollouts,
        the tokens of these, and the number of problems drawn. A flagged problem is skipped only while the
        audit trusts the gate; and if every problem is flagged, the first round is solved all the same.
        """
        config = self.config
        trusted = audit.trusted(config.gate_trust)
        kept, skipped, drawn = [], [], 0
        for _ in range(config.max_draws if config.refill else 1):
            problems = self.draw(config.problems_per_step - len(kept))
            metas = self.predict(problems)
            drawn += len(problems)
            for i, (problem, group) in enumerate(zip(problems, self.predictions(metas))):
                part = metas.select(list(range(i * config.meta_group_size, (i + 1) * config.meta_group_size)))
                flagged = self.flags(group)
                (skipped if flagged and trusted and config.gate else kept).append((problem, part, flagged))
            if len(kept) == config.problems_per_step:
                break
        if not kept:
            kept, skipped = skipped[:config.problems_per_step], skipped[config.problems_per_step:]
        wasted = sum(sum(part.lengths) for _, part, _ in skipped)
        problems, parts, flags = zip(*kept)
        return list(problems), concat(parts), list(flags), [row[:2] for row in skipped], wasted, drawn

    def predictions(self, metas):
        """The MetaPredictions of each problem: N lists of M."""
        size, budget = self.config.meta_group_size, self.config.max_new_tokens
        return [[parse_meta(text, budget) for text in metas.texts[i:i + size]] for i in range(0, len(metas), size)]

    def hints(self, predictions):
        """For each problem the notions to put into its prompt, or None where hints are not asked for."""
        return [common_notions(group, self.tokenizer) for group in predictions] if self.config.hints else None

    def flags(self, predictions):
        """Does gating call the group of a problem one without variance, by its M predictions?"""
        rates = [p.pass_rate / ATTEMPTS for p in predictions if p.pass_rate is not None]
        return should_skip(rates, self.config.gate_std, self.config.gate_margin)

    def judge_gate(self, flagged, correct, cut, audit):
        """Compare what gating says of N problems with their N * G graded solutions; returns figures for the log.

        A group that is all wrong because some were cut says nothing, neither for nor against.
        """
        size, looks, missed = self.config.group_size, [], 0
        for i, flag in enumerate(flagged):
            group = slice(i * size, (i + 1) * size)
            flat = len(set(correct[group])) == 1
            if flat and cut[group].any():
                continue
            looks += [flat] if flag else []
            missed += flat and not flag
        audit.add(looks, missed)
        return {f"gate/{name}": value for name, value in audit.figures().items()} if flagged else {}

    def audit_gate(self, skipped, audit):
        """Solve a random share of the skipped problems, off the books: was there really no variance? Tokens spent."""
        sample = [pair for pair in skipped if self.rng.random() < self.config.audit_fraction]
        if not sample:
            return 0
        problems, metas = zip(*sample)
        solutions, correct = self.solve(problems, hints=self.hints(self.predictions(concat(metas))))
        size = self.config.group_size
        audit.add([len(set(correct[i:i + size])) == 1 for i in range(0, len(correct), size)], 0,
                  self.config.audit_fraction)
        return sum(solutions.lengths)

    def audit_cutoff(self, problems, solutions, correct, cut, audit):
        """Continue a random share of the cut solutions, off the books: would they have been wrong? Tokens spent."""
        config = self.config
        audit.add([], missed=sum(not c and not stopped for c, stopped in zip(correct, cut.tolist())))
        sample = [row for row in cut.nonzero().flatten().tolist() if self.rng.random() < config.audit_fraction]
        if not sample:
            return 0
        begun = [solutions.completion_ids[row][solutions.mask[row]].tolist() for row in sample]
        prompts = [solutions.prompt_ids[row][solutions.prompt_mask[row]].tolist() for row in sample]
        rest = generate(self.policy, self.tokenizer, [p + b for p, b in zip(prompts, begun)],
                        [config.max_new_tokens - len(b) for b in begun], config.temperature,
                        max_tokens=config.max_tokens)
        texts = self.tokenizer.batch_decode(
            [b + ids[keep].tolist() for b, ids, keep in zip(begun, rest.completion_ids, rest.mask)],
            skip_special_tokens=True, clean_up_tokenization_spaces=False)
        wrong = [not grade(text, problems[row // config.group_size].answer) for row, text in zip(sample, texts)]
        audit.add(wrong, 0, config.audit_fraction)
        return sum(rest.lengths)


def common_notions(predictions, tokenizer, most=3):
    """The up to `most` notions that the predictions of a problem name most often, the commonest first."""
    count = Counter(notion for p in predictions for notion in dict.fromkeys(hintable(p.notions, tokenizer)))
    return [notion for notion, _ in count.most_common(most)]
