r"""Expert cloning: imitate the policy's own best predictions, corrected by what really happened.

Reinforcement learning of predictions is slow to find a number that no rollout says, and has nothing to learn from
once all rollouts say the same. So from each problem's meta rollouts the one with the best notion reward is taken,
its pass rate and its length are replaced by the true ones, and the policy is trained on the text by plain
next-token prediction (MASA, arXiv 2510.03259, v1). A text that is imitated perfectly earns full length and
difficulty reward: it is written by `format_meta`, the inverse of the parser.
"""

from dataclasses import replace

from rewards import ATTEMPTS, format_meta


def correct_expert(predictions, notion_rewards, lengths, correct, least=0.2):
    """The corrected best prediction of a problem, a MetaPrediction, or None.

    predictions: M MetaPredictions, notion_rewards: theirs. lengths, correct: tokens and grades of the G solutions.
    None if no notion reward is at least `least`, or if no solution is right.
    """
    best = max(range(len(predictions)), key=lambda i: notion_rewards[i])
    right = [length for length, c in zip(lengths, correct) if c]
    if notion_rewards[best] < least or not right:
        return None
    return replace(predictions[best], pass_rate=round(ATTEMPTS * len(right) / len(correct)),
                   solution_length=round(sum(right) / len(right)))


def expert_ids(tokenizer, prediction):
    """The token ids of an expert's completion, with the EOS that ends it."""
    return [*tokenizer(format_meta(prediction), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
