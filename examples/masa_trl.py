r"""MASA inside TRL's GRPOTrainer, for models that outgrow one card: accelerate, FSDP, DeepSpeed and vLLM come with it.

    pip install trl==1.16.0                                                  (what this was tried with)
    python examples/masa_trl.py --max_steps 20 --use_cpu                     the toy model, on a laptop
    accelerate launch examples/masa_trl.py --model Qwen/Qwen3-1.7B --data my_problems.jsonl --bf16 True \
        --learning_rate 1e-6 --max_completion_length 3072 --per_device_train_batch_size 16 --steps_per_generation 16

Every problem is two rows of the data, one for each path, and a group of TRL is G rollouts of a row: advantages are
within the path without further ado. The reward of a meta rollout reads the solutions of the same problem, so the two
rows have to be in the same batch of the same process: the rows are in order, TRL does not shuffle them, and the
batch of a process holds whole pairs (`main` sees to it). Tried on CPUs only, with one process and with two. Further flags are those of trl.GRPOConfig.
"""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tasks.problems import load_problems
from tasks.grader import grade
from rewards import meta_rewards, parse_meta
from rollout import meta_messages, solution_messages


def paired_rows(problems, budget, seed=0):
    """Two rows for each Problem, first of the solution path, then of the meta path; problems shuffled by `seed`."""
    problems = random.Random(seed).sample(problems, len(problems))
    return [{"prompt": solution_messages(problem.text) if path == "solution" else meta_messages(problem.text, budget),
             "path": path, "id": problem.id, "text": problem.text, "answer": problem.answer, "budget": budget}
            for problem in problems for path in ("solution", "meta")]


def solution_reward(completions, path, answer, **_):
    """A reward function of TRL: 1.0 or 0.0 for solutions, None for meta rollouts; lists over the rollouts of a batch."""
    return [float(grade(completion[0]["content"], gold)) if kind == "solution" else None
            for completion, kind, gold in zip(completions, path, answer)]


def meta_reward(completions, completion_ids, path, id, text, answer, budget, **_):
    """A reward function of TRL: the mean of the three rewards for meta rollouts, None for solutions.

    Lists over the rollouts of a batch, in any order. Raises ValueError if a meta rollout is without solutions.
    """
    texts, rewards = [completion[0]["content"] for completion in completions], []
    correct = solution_reward(completions, path, answer)
    for row, kind in enumerate(path):
        if kind == "solution":
            rewards.append(None)
            continue
        group = [i for i, other in enumerate(id) if other == id[row] and path[i] == "solution"]
        if not group:
            raise ValueError(f"no solution of problem {id[row]} is in the batch of its predictions")
        terms = meta_rewards(parse_meta(texts[row], budget[row]), text[row], [texts[i] for i in group],
                             [len(completion_ids[i]) for i in group], [bool(correct[i]) for i in group])
        rewards.append(sum(terms.values()) / len(terms))
    return rewards


def main():
    from dataclasses import dataclass

    from datasets import Dataset
    from transformers import HfArgumentParser
    from trl import GRPOConfig, GRPOTrainer

    from lab.policy import load_policy

    @dataclass
    class Script:
        model: str = "toy"
        data: str = "toy"

    parser = HfArgumentParser([Script, GRPOConfig])
    parser.set_defaults(output_dir="runs/trl", num_generations=8, max_completion_length=96, temperature=1.0,
                        per_device_train_batch_size=256, learning_rate=4e-4, loss_type="dapo", epsilon_high=0.28,
                        shuffle_dataset=False, chat_template_kwargs={"enable_thinking": False}, report_to=[],
                        logging_steps=1, save_strategy="no")                # the values of the toy world
    script, config = parser.parse_args_into_dataclasses()
    size = config.per_device_train_batch_size * config.steps_per_generation
    if config.shuffle_dataset or size % (2 * config.num_generations):
        sys.exit("The rows of a problem must stay together: no --shuffle_dataset, and --per_device_train_batch_size times "
                 "--steps_per_generation a multiple of twice --num_generations")
    model, tokenizer = load_policy(script.model)
    rows = Dataset.from_list(paired_rows(load_problems(script.data), config.max_completion_length, config.seed))
    trainer = GRPOTrainer(model, [solution_reward, meta_reward], config, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
