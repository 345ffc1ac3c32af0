"""A cold start: before RL, a pretrained model learns from its own text to box answers and to predict.

RL cannot begin where every reward is 0. So, as "expert SFT, then RL", and without any data but the problems:

1. N training problems are solved after a few solved examples; what is right, in a box, is kept.
2. The model is trained on these solutions as answers to the ordinary prompts, without examples.
3. It solves N other problems by the ordinary prompts, and is trained on predictions that are true of these
   solutions: with examples, or of problems that it has learned by heart, pass rates are others. Problems
   without a right solution give experts, too. The solutions of 1 come once more, lest they be forgotten.
"""

import re
from collections import Counter
from dataclasses import replace

import torch

from grpo import NotFinite, imitate
from lab.flags import LORA_RATE
from lab.report import TokenCount, progress_bar
from rewards import ATTEMPTS, MetaPrediction, correct_expert, format_meta, notion_reward
from rollout import Group, Sampler, finished_ids, pad_rows
from tasks.grader import last_boxed
from tasks.prompts import SOLUTION, encode, example_messages, meta_messages, solution_messages

TEMPERATURE = 0.5       # with examples: a small model is right more often than at 1
KEEP, NOTIONS = 2, 3    # different solutions of a problem, so that easy ones do not prevail; of an expert
BATCH, LEARNING_RATE, SOLUTION_EPOCHS, PREDICTION_EPOCHS = 12, 5e-5, 2, 3           # of the supervised steps


def cold_start(run) -> dict:
    """Train run.policy on solutions and predictions of twice --cold-start problems, and say what came of it.

    Returns what cold_start.json holds: shares of boxed and of right solutions, tokens sampled (in no total
    of the run), the texts trained on. Raises ValueError with one line if no solution is right with examples,
    or a gradient is not finite.
    """
    config, sampler, report = run.config, run.sampler, {}
    torch.manual_seed(config.seed)
    optimizer = run.adamw(lr=LEARNING_RATE * (LORA_RATE if config.lora_rank else 1), weight_decay=0.0)

    def solve(how, solver):
        groups = [Group(problem, [sampler.budget]) for problem in run.stream.draw(config.cold_start)]
        for batch in in_batches(groups, config.problems_per_step, f"solving {how}", sampler):
            with run.sampling():
                solver(batch)
        texts = [text for group in groups for text in group.solutions.texts]
        boxed = sum(last_boxed(text) is not None for text in texts) / len(texts)
        right = sum(sum(group.correct) for group in groups) / len(texts)
        tokens = sum(sum(group.solutions.lengths) for group in groups)
        report[how] = {"boxed": boxed, "right": right, "tokens": tokens}
        print(f"cold start: {how} {boxed:.0%} of {len(texts):,} solutions are boxed, {right:.0%} are right",
              flush=True)
        return groups

    def examples(kind, ask, texts):             # ask: from a problem to the chat that a text of it answers
        report[kind] = [{"problem": problem.text, "text": text} for problem, text in texts]
        return [(encode(run.tokenizer, ask(problem.text), config.thinking),
                 finished_ids(run.policy, run.tokenizer, text)) for problem, text in texts]

    if run.tokenizer.chat_template is None:
        print("A base model may go on after the answer that it gives by examples, up to --max-new-tokens "
              f"(now {sampler.budget}). If that takes long, do the start alone (--steps 0) with fewer")
    groups = solve("with examples", lambda batch: solve_with_examples(sampler, batch))
    kept = [(group.problem, text) for group in groups for text in right_solutions(group)]
    if not kept:
        raise ValueError("the cold start has nothing to learn from: with examples no solution was right. Try "
                         "easier problems, a larger --max-new-tokens or a larger model")
    solutions = examples("solutions", solution_messages, kept)
    imitate_all(run, optimizer, solutions * SOLUTION_EPOCHS, "learning to solve")
    groups = solve("with ordinary prompts", lambda batch: sampler.solve(batch, ATTEMPTS))
    experts = [(group.problem, format_meta(expert(group))) for group in groups]
    predictions = examples("predictions", lambda problem: meta_messages(problem, sampler.budget), experts)
    imitate_all(run, optimizer, predictions * PREDICTION_EPOCHS + solutions, "learning to predict")
    print(f"cold start: trained on {len(kept)} solutions and {len(experts)} predictions, which are in "
          f"{run.path / 'cold_start.json'}", flush=True)
    return report


def solve_with_examples(sampler: Sampler, groups: list[Group]) -> None:
    """As `Sampler.solve`, ATTEMPTS times, after solved examples; what follows the answer is cut off."""
    chats = [example_messages(group.problem.text, sampler.tokenizer.chat_template is None)
             for group in groups for _ in range(ATTEMPTS)]
    rollouts = replace(sampler, temperature=TEMPERATURE).complete(chats, [sampler.budget] * len(chats))
    texts = [up_to_answer(text) for text in rollouts.texts]
    rollouts.finished |= torch.tensor([text != whole for text, whole in zip(texts, rollouts.texts)],
                                      device=rollouts.finished.device)
    rollouts.texts = texts
    for i, group in enumerate(groups):
        group.solutions = rollouts.select(list(range(i * ATTEMPTS, (i + 1) * ATTEMPTS)))
        group.correct = [sampler.grade(text, group.problem) for text in group.solutions.texts]


def right_solutions(group: Group) -> list[str]:
    """The KEEP most frequent solutions of a group that are right and whole: oddities are right by luck."""
    rows = zip(group.solutions.texts, group.correct, group.solutions.finished.tolist())
    count = Counter(text for text, right, finished in rows if right and finished)
    return [text for text, _ in count.most_common(KEEP)]


def up_to_answer(text: str) -> str:
    """`text` up to the end of the paragraph with its first box: a base model goes on with other problems."""
    box = text.find("\\boxed{")
    return text if box < 0 else text[:box] + text[box:].partition("\n\n")[0]


def expert(group: Group) -> MetaPrediction:
    """The prediction that would have been true of a solved group: its rate, its length, and its notions.

    Notions are up to NOTIONS words that several right solutions use (if there are fewer than two: several
    solutions), and neither the problem nor the instruction: those that earn the notion reward, by counts or
    by shares, if there are any; else the most frequent.
    """
    texts, correct, asked = group.solutions.texts, group.correct, f"{group.problem.text}\n\n{SOLUTION}"
    right = [text for text, c in zip(texts, correct) if c]
    count = Counter(word for text in (right if len(right) > 1 else texts)
                    for word in dict.fromkeys(re.findall(r"[^\W\d_]{3,}", text.casefold())))
    common = [word for word, times in count.most_common()       # a notion earns in a text of its own
              if times > 1 and notion_reward([word], asked, [word], [True])]
    useful = [word for word in common
              if any(notion_reward([word], asked, texts, correct, rule) for rule in ("count", "rate"))]
    notions = tuple((useful or common)[:NOTIONS])
    said = MetaPrediction(notions, reasoning=f"<meta>It takes {', '.join(notions) or 'no concept'}.</meta>\n")
    return correct_expert([said], [1.0], group.solutions.lengths, correct)


def imitate_all(run, optimizer, examples, description):
    """Learn from examples, (prompt ids, completion ids), in random batches of BATCH."""
    order = [examples[i] for i in torch.randperm(len(examples)).tolist()]
    for batch in in_batches(order, BATCH, description):
        prompts, completions = zip(*batch)
        rows = (*pad_rows(prompts, left=True, device=run.device), *pad_rows(completions, device=run.device))
        try:
            imitate(run.policy, optimizer, rows, 1, run.config.micro_batch_tokens, run.dtype)
        except NotFinite as error:
            raise ValueError(f"cold start: {error}. Try another --seed, or --bf16 False") from None


def in_batches(rows, size, description, sampler=None):
    """Batches of `size` rows, with a bar that moves after each, and shows what `sampler` samples."""
    with progress_bar(len(rows), description, "row", leave=False) as bar:
        if sampler:
            sampler.progress = TokenCount(bar)
        for start in range(0, len(rows), size):
            yield rows[start:start + size]
            bar.update(len(rows[start:start + size]))
