"""The rewards that examples/masa_trl.py hands to TRL; TRL itself is no requirement."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from masa_trl import meta_reward, paired_rows, solution_reward

from tasks.problems import Problem


def batch(rows, texts, lengths, chats):
    """What TRL hands to a reward function: chats as completions of chats, else strings."""
    completions = [[{"role": "assistant", "content": text}] for text in texts] if chats else texts
    return {"completions": completions, "completion_ids": [[7] * length for length in lengths],
            **{name: [row[name] for row in rows] for name in ("path", "id", "text", "answer", "budget")}}


@pytest.mark.parametrize("chats", [True, False])
def test_each_path_gets_its_own_reward_from_its_own_problem(chats):
    first, second = (paired_rows([Problem(id, f"What is {id}?", answer)], 50)
                     for id, answer in (("a", "1"), ("b", "2")))
    rows = [first[0], first[0], second[0], second[0], first[1], second[1]]
    texts = ["by sums: \\boxed{1}", "by luck: \\boxed{3}", "by area: \\boxed{2}", "by area: \\boxed{2}",
             '{"math_notion": ["sums"], "pass_rate": 4, "solution_length": 9}',
             '{"math_notion": ["sums"], "pass_rate": 4, "solution_length": 9}']
    inputs = batch(rows, texts, [9, 20, 5, 6, 12, 12], chats)
    assert solution_reward(**inputs) == [1.0, 0.0, 1.0, 1.0, None, None]
    rewards = meta_reward(**inputs)
    assert rewards[:4] == [None] * 4
    assert rewards[4] == pytest.approx((1 + 1 + 1) / 3)             # its length, 1 of 2, useful
    assert rewards[5] == pytest.approx((0 + 0.01 ** 0.5 + 0) / 3)   # not in 5..6, half off, useless


def test_pairs_stay_together_and_a_torn_pair_is_refused():
    rows = paired_rows([Problem(str(i), f"What is {i}?", "1") for i in range(9)], 50)
    solutions, metas = rows[::2], rows[1::2]
    assert [row["id"] for row in solutions] == [row["id"] for row in metas] != [str(i) for i in range(9)]
    assert [row["path"] for row in rows] == ["solution", "meta"] * 9
    with pytest.raises(ValueError, match="no solution of problem"):
        meta_reward(**batch(metas[:1], ["{}"], [3], True))
