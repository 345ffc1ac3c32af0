r"""MASA inside TRL's GRPOTrainer, which brings accelerate, FSDP, DeepSpeed and vLLM: for several cards.

    pip install trl==1.16.0
    python examples/masa_trl.py --max_steps 20 --use_cpu --bf16 False               the toy model, on a laptop
    accelerate launch examples/masa_trl.py --model Qwen/Qwen3-1.7B --data some.jsonl --learning_rate 1e-6 \
        --max_completion_length 3072 --per_device_train_batch_size 16 --gradient_accumulation_steps 16

Every problem is two rows of data, one for each path. A group of TRL is G rollouts of a row, so advantages
stay within a path. The reward of a meta rollout needs the solutions of its problem in the same batch of the
same process: the two rows follow each other, TRL does not shuffle them, and `main` refuses batches that would
tear them apart. Tried on CPUs only, with one process and with two. Further flags are those of trl.GRPOConfig.
"""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from lab.policy import load_policy
from rewards import meta_rewards, parse_meta
from tasks.grader import grade
from tasks.problems import load_problems
from tasks.prompts import meta_messages, solution_messages


def paired_rows(problems, budget, seed=0):
    """Two rows for each Problem, one for each path; budget: of a solution, in tokens, as meta prompts say."""
    shuffled = random.Random(seed).sample(problems, len(problems))
    return [{"prompt": prompt, "path": path, "id": p.id, "text": p.text, "answer": p.answer, "budget": budget}
            for p in shuffled for path, prompt in (("solution", solution_messages(p.text)),
                                                   ("meta", meta_messages(p.text, budget)))]


def text_of(completion):
    """The text of a completion: TRL hands over a chat if the prompt was a chat, else a string."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def solution_reward(completions, path, text, answer, **_):
    """A reward function of TRL: 1.0 or 0.0 for each solution of a batch, None for meta rollouts."""
    return [float(grade(text_of(completion), gold, problem)) if kind == "solution" else None
            for completion, kind, problem, gold in zip(completions, path, text, answer)]


def meta_reward(completions, completion_ids, path, id, text, answer, budget, **_):
    """A reward function of TRL: the mean of the three rewards for meta rollouts, None for solutions.

    Rows may come in any order. Raises ValueError if a meta rollout is without solutions of its problem.
    """
    texts, rewards = [text_of(completion) for completion in completions], [None] * len(path)
    correct = solution_reward(completions, path, text, answer)
    for row in (row for row, kind in enumerate(path) if kind == "meta"):
        group = [i for i, other in enumerate(id) if other == id[row] and path[i] == "solution"]
        if not group:
            raise ValueError(f"no solution of problem {id[row]} is in the batch of its predictions")
        terms = meta_rewards(parse_meta(texts[row], budget[row]), text[row], [texts[i] for i in group],
                             [len(completion_ids[i]) for i in group], [bool(correct[i]) for i in group])
        rewards[row] = sum(terms.values()) / len(terms)
    return rewards


def main(arguments=None):
    """Train; returns what TRL's `train` does. `arguments` are those of sys.argv by default."""
    from datasets import Dataset
    from transformers import HfArgumentParser
    from trl import GRPOConfig, GRPOTrainer

    parser = HfArgumentParser(GRPOConfig)
    parser.add_argument("--model", default="toy")
    parser.add_argument("--data", default="toy")
    parser.set_defaults(                                                    # the values of the toy world
        output_dir="runs/trl", num_generations=8, per_device_train_batch_size=256, max_completion_length=192,
        temperature=1.0, learning_rate=4e-4, lr_scheduler_type="constant_with_warmup", warmup_steps=5,
        loss_type="dapo", epsilon_high=0.28, shuffle_dataset=False, report_to=[], logging_steps=1,
        save_strategy="no", chat_template_kwargs={"enable_thinking": False})
    config, script = parser.parse_args_into_dataclasses(arguments)
    size = config.per_device_train_batch_size * config.steps_per_generation
    if config.shuffle_dataset or size % (2 * config.num_generations):
        sys.exit("The rows of a problem must stay together: no --shuffle_dataset, and a multiple of twice "
                 "--num_generations as --per_device_train_batch_size times --steps_per_generation")
    model, tokenizer = load_policy(script.model)
    problems = load_problems(script.data)
    if any(problem.score for problem in problems):
        sys.exit(f"{script.data} has a scoring of its own, which this example does not know")
    rows = paired_rows(problems, config.max_completion_length, config.seed)
    if tokenizer.chat_template is None:                                     # a base model reads plain text
        rows = [row | {"prompt": "".join(part["content"] + "\n\n" for part in row["prompt"])} for row in rows]
    trainer = GRPOTrainer(model, [solution_reward, meta_reward], config, Dataset.from_list(rows),
                          processing_class=tokenizer)
    trained = trainer.train()
    trainer.save_model()
    return trained


if __name__ == "__main__":
    main()
