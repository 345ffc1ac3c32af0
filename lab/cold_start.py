"""A cold start: before RL, a pretrained model learns from its own text to box answers and to predict.

RL cannot begin where every reward is 0. So, as "expert SFT, then RL", and without any data but the problems:

1. N training problems are solved after a few solved examples; what is right, in a box, is kept.
2. The model is trained on these solutions as answers to the ordinary prompts, without examples.
3. It solves the same problems by the ordinary prompts, as it will in training. Expert predictions are written
   from what happened *then* (the rates of 1 would be false of the model that 2 has changed), also where
   nothing was right, and it is trained on those.
"""

import re
import sys
from dataclasses import replace

import torch
from tqdm import tqdm

from grpo import NotFinite, imitate
from rewards import ATTEMPTS, MetaPrediction, correct_expert, format_meta, mentions, notion_reward, plain
from rollout import Group, Sampler, finished_ids, pad_rows
from tasks.grader import last_boxed
from tasks.problems import Problem
from tasks.prompts import SOLUTION, encode, example_messages, meta_messages, solution_messages

TEMPERATURE = 0.7                       # with examples; at 1.0 a small model is right more rarely
KEEP = 3                                # different solutions of a problem, so that easy ones do not prevail
NOTIONS = 3                             # of an expert prediction
BATCH, LEARNING_RATE = 12, 5e-5         # of the supervised steps
SOLUTION_EPOCHS, PREDICTION_EPOCHS = 1, 3


def cold_start(run) -> dict:
    """Train run.policy on solutions and predictions of --cold-start problems; says what came of it.

    Returns what cold_start.json holds: figures, and the texts that were trained on. Raises ValueError with
    one line if there is nothing to train on, or a gradient is not finite.
    """
    config, sampler, tokenizer = run.config, run.sampler, run.tokenizer
    torch.manual_seed(config.seed)
    problems, per_batch = run.stream.draw(config.cold_start), config.problems_per_step
    optimizer = torch.optim.AdamW(run.policy.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    report = {"with examples": {}, "with ordinary prompts": {}, "solutions": [], "predictions": []}

    def train(kind, ask, epochs):       # ask: the chat that a text answers
        rows = [(encode(tokenizer, ask(row["problem"]), config.thinking), text)
                for row in report[kind] for text in [finished_ids(run.policy, tokenizer, row["text"])]]
        imitate_all(run, optimizer, rows, epochs, f"learning from {len(rows)} {kind}")

    texts, right = [], []
    for batch in in_batches(problems, per_batch, "solving with examples"):
        with run.sampling():
            kept, *graded = solve_with_examples(sampler, batch)
        report["solutions"] += kept
        texts, right = texts + graded[0], right + graded[1]
    say(report, "with examples", texts, right)
    if not report["solutions"]:
        raise ValueError("the cold start has nothing to learn from: with examples no solution was right. Try "
                         "easier problems, a larger --max-new-tokens or a larger model")
    train("solutions", solution_messages, SOLUTION_EPOCHS)

    texts, right = [], []
    for batch in in_batches(problems, per_batch, "solving again"):
        groups = [Group(problem, [sampler.budget]) for problem in batch]
        with run.sampling():
            sampler.solve(groups, ATTEMPTS)
        report["predictions"] += [{"problem": group.problem.text, "text": format_meta(expert(group))}
                                  for group in groups]
        texts += [text for group in groups for text in group.solutions.texts]
        right += [grade for group in groups for grade in group.correct]
    say(report, "with ordinary prompts", texts, right)
    train("predictions", lambda text: meta_messages(text, sampler.budget), PREDICTION_EPOCHS)
    print(f"cold start: trained on {len(report['solutions'])} solutions and {len(report['predictions'])} "
          f"predictions, which are in {run.path / 'cold_start.json'}", flush=True)
    return report


def say(report, when, texts, right):
    """Put the shares of boxed and of right solutions into the report, and on the screen."""
    boxed, right = (sum(part) / len(texts) for part in ([last_boxed(t) is not None for t in texts], right))
    report[when] = {"boxed": boxed, "right": right}
    print(f"cold start: {when} {boxed:.0%} of {len(texts):,} solutions are boxed, {right:.0%} are right",
          flush=True)


def solve_with_examples(sampler: Sampler, problems: list[Problem]) -> tuple[list, list, list]:
    """Solve each problem ATTEMPTS times after solved examples: (solutions to keep, all texts, their grades).

    A kept solution, {"problem": ..., "text": ...}, ended by itself and is right, in a box; of a problem at
    most KEEP different ones are kept.
    """
    chats = [example_messages(problem.text, sampler.tokenizer.chat_template is None)
             for problem in problems for _ in range(ATTEMPTS)]
    rollouts = replace(sampler, temperature=TEMPERATURE).complete(chats, [sampler.budget] * len(chats))
    texts, kept, right = list(map(up_to_answer, rollouts.texts)), [], []
    for i, problem in enumerate(problems):
        rows = range(i * ATTEMPTS, (i + 1) * ATTEMPTS)
        right += [sampler.grade(texts[row], problem) for row in rows]
        whole = [texts[row] for row in rows
                 if right[row] and (rollouts.finished[row] or len(texts[row]) < len(rollouts.texts[row]))]
        kept += [{"problem": problem.text, "text": text} for text in [*dict.fromkeys(whole)][:KEEP]]
    return kept, texts, right


def up_to_answer(text: str) -> str:
    """`text` up to the end of the paragraph with its first box: a base model goes on with other problems."""
    box = text.find("\\boxed{")
    return text if box < 0 else text[:box] + text[box:].partition("\n\n")[0]


def expert(group: Group) -> MetaPrediction:
    """The prediction that would have been true of a solved group: its rate, its length, and its notions.

    Notions are words of right solutions that earn the notion reward, as counts or as shares, and that neither
    the problem nor the instruction mentions: the NOTIONS that are in most right solutions.
    """
    texts, correct = group.solutions.texts, group.correct
    right = [text for text, c in zip(texts, correct) if c]
    words = dict.fromkeys(word for text in right for word in re.findall(r"[^\W\d_]{3,}", text.casefold()))
    asked = f"{group.problem.text}\n\n{SOLUTION}"
    useful = [word for word in words
              if any(notion_reward([word], asked, texts, correct, rule) for rule in ("count", "rate"))]
    useful.sort(key=lambda word: -sum(mentions(plain(text), plain(word)) for text in right))
    notions = tuple(useful[:NOTIONS])
    reasoning = f"<meta>It takes {', '.join(notions) or 'no special concept'}.</meta>\n"
    return correct_expert([MetaPrediction(notions, reasoning=reasoning)], [1.0], group.solutions.lengths,
                          correct)


def imitate_all(run, optimizer, examples, epochs, description):
    """`epochs` passes over examples, (prompt ids, completion ids), in random batches of BATCH."""
    order = [examples[i] for _ in range(epochs) for i in torch.randperm(len(examples)).tolist()]
    for batch in in_batches(order, BATCH, description):
        prompts, completions = zip(*batch)
        rows = (*pad_rows(prompts, left=True, device=run.device), *pad_rows(completions, device=run.device))
        try:
            imitate(run.policy, optimizer, rows, 1, run.config.micro_batch_tokens, run.dtype)
        except NotFinite as error:
            raise ValueError(f"cold start: {error}. Try another --seed, or --no-bf16") from None


def in_batches(rows, size, description):
    """Batches of `size` rows, with a bar that moves after each."""
    with tqdm(total=len(rows), desc=description, file=sys.stdout, dynamic_ncols=True, leave=False) as bar:
        for start in range(0, len(rows), size):
            yield rows[start:start + size]
            bar.update(len(rows[start:start + size]))
