"""How well does a policy solve, and how well does it know how well it solves?

`evaluate` samples n solutions and m meta predictions for each problem and keeps everything in records, one per
problem; `summarise` turns records into figures.
"""

import sys

import numpy as np
from tqdm import tqdm

from grader import grade
from rewards import ATTEMPTS, meta_rewards, parse_meta
from rollout import encode, generate, meta_messages, solution_messages


def evaluate(model, tokenizer, problems, samples=8, metas=8, budget=96, meta_budget=32, temperature=1.0, top_p=1.0,
             thinking=False, max_tokens=65_536, description="evaluation"):
    """Sample `samples` solutions and `metas` meta predictions for each Problem; returns a record for each.

    budget, meta_budget: tokens. max_tokens: how many tokens are generated at once. A record is a dict that JSON
    can hold: id, level, problem, answer; completions: dicts of text, length (tokens), finished, correct;
    predictions: dicts of text, length, notions, pass_rate, solution_length, rewards.
    """
    records = []
    per_batch = max(1, max_tokens // ((samples + metas) * (budget + 128)))
    bar = tqdm(total=len(problems), desc=description, unit="problem", file=sys.stdout, dynamic_ncols=True, leave=False)
    for start in range(0, len(problems), per_batch):
        batch = problems[start:start + per_batch]
        prompts = [encode(tokenizer, solution_messages(p.text), thinking) for p in batch for _ in range(samples)]
        solutions = generate(model, tokenizer, prompts, budget, temperature, top_p, max_tokens)
        prompts = [encode(tokenizer, meta_messages(p.text, budget), thinking) for p in batch for _ in range(metas)]
        predicted = generate(model, tokenizer, prompts, meta_budget, temperature, top_p, max_tokens) if metas else None
        for i, problem in enumerate(batch):
            rows = range(i * samples, (i + 1) * samples)
            completions = [{"text": solutions.texts[row], "length": solutions.lengths[row],
                            "finished": bool(solutions.finished[row]),
                            "correct": grade(solutions.texts[row], problem.answer)} for row in rows]
            texts, lengths, correct = ([c[key] for c in completions] for key in ("text", "length", "correct"))
            predictions = []
            for row in range(i * metas, (i + 1) * metas):
                p = parse_meta(predicted.texts[row])
                predictions.append({
                    "text": predicted.texts[row], "length": predicted.lengths[row], "notions": p.notions,
                    "pass_rate": p.pass_rate, "solution_length": p.solution_length,
                    "rewards": meta_rewards(p, problem.text, texts, lengths, correct)})
            records.append({"id": problem.id, "level": problem.level, "problem": problem.text,
                            "answer": problem.answer, "completions": completions, "predictions": predictions})
            bar.update()
    bar.close()
    return records


def awareness(records):
    """Predicted against actual, per problem: two lists of pairs, for the pass rate and for the length.

    Predicted is the mean of the valid predictions. The actual length is the mean of the correct solutions, which
    is what the reward is about; problems without a correct solution have none.
    """
    rates, lengths = [], []
    for record in records:
        correct = [c["correct"] for c in record["completions"]]
        rate = [p["pass_rate"] / ATTEMPTS for p in record["predictions"] if p["pass_rate"] is not None]
        length = [p["solution_length"] for p in record["predictions"] if p["solution_length"] is not None]
        right = [c["length"] for c in record["completions"] if c["correct"]]
        if rate:
            rates.append((float(np.mean(rate)), float(np.mean(correct))))
        if length and right:
            lengths.append((float(np.mean(length)), float(np.mean(right))))
    return rates, lengths


def correlation(pairs):
    """Pearson's r of a list of pairs; None where it is not defined, as when every prediction is the same."""
    if len(pairs) < 2 or min(np.std(pairs, axis=0)) < 1e-9:
        return None
    return float(np.corrcoef(np.transpose(pairs))[0, 1])


def summarise(records):
    """The figures of an evaluation: names as in metrics.jsonl, plain numbers or None."""
    completions = [c for record in records for c in record["completions"]]
    predictions = [p for record in records for p in record["predictions"]]
    summary = {"accuracy": float(np.mean([c["correct"] for c in completions]))}
    for level in dict.fromkeys(record["level"] for record in records):
        summary[f"accuracy/{level or 'all'}"] = float(np.mean(
            [c["correct"] for record in records if record["level"] == level for c in record["completions"]]))
    rates = [np.mean([c["correct"] for c in record["completions"]]) for record in records]
    summary |= {
        "completions/mean_length": float(np.mean([c["length"] for c in completions])),
        "completions/clipped_ratio": float(np.mean([not c["finished"] for c in completions])),
        "frac_always_right": float(np.mean(np.equal(rates, 1))), "frac_never_right": float(np.mean(np.equal(rates, 0)))}
    if predictions:
        pass_rates, lengths = awareness(records)
        for name in ("length", "difficulty", "notion"):
            summary[f"meta/reward/{name}"] = float(np.mean([p["rewards"][name] for p in predictions]))
        summary["meta/reward"] = sum(summary[f"meta/reward/{n}"] for n in ("length", "difficulty", "notion")) / 3
        summary["meta/completions/mean_length"] = float(np.mean([p["length"] for p in predictions]))
        summary["meta/correlation/pass_rate"] = correlation(pass_rates)
        summary["meta/correlation/length"] = correlation(lengths)
    return summary
