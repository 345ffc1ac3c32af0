"""Several processes, one for each card: `torchrun --nproc-per-node 2 --shutdown-timeout 3600 masa.py ...`.

Every process holds the whole policy and learns from the whole batch; only the two expensive parts are shared out.
Each samples some of the rows and hands them to the others, and each computes the gradients of some of the rows,
which are added up. All else (grading, gating, the optimiser) everyone does alike, from the same numbers, so that no
decision has to be passed on. The process of rank 0 is the one that prints and writes.
"""

import os
import sys
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist

import rollout


def start(device):
    """Join the processes that torchrun started, if it did; returns the torch.device of this one.

    Raises ValueError if the device is neither a card nor the CPU.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        return device
    if device.type not in ("cuda", "cpu"):
        raise ValueError(f"several processes need --device cuda or cpu, not {device.type}")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))    # rank 0 may write long
    if rank():
        sys.stdout = open(os.devnull, "w")
    return device


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world():
    return dist.get_world_size() if dist.is_initialized() else 1


def wait():
    """Until every process is here."""
    if world() > 1:
        dist.barrier()


def share(rows):
    """The part of a list that is this process's to work on."""
    return rows[rank()::world()]


def add(numbers):
    """A list of numbers, each added up over the processes."""
    if world() == 1:
        return numbers
    everyone = [None] * world()
    dist.all_gather_object(everyone, numbers)
    return [sum(column) for column in zip(*everyone)]


def add_gradients(policy):
    """Give every parameter the sum of its gradients over the processes; none, if no process has any."""
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    if world() == 1 or not any(add([any(parameter.grad is not None for parameter in parameters)])):
        return
    for parameter in parameters:
        if parameter.grad is None:              # this process had no rows
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)


def same_weights(model):
    """Give every process the weights of rank 0."""
    for tensor in model.state_dict().values() if world() > 1 else ():
        dist.broadcast(tensor, 0)


def generate(model, tokenizer, prompts, *arguments, **named):
    """`rollout.generate`, of which each process samples a share of the rows; everyone gets all rows, in order.

    The processes draw different random numbers, and go on with the same ones afterwards.
    """
    if world() == 1:
        return rollout.generate(model, tokenizer, prompts, *arguments, **named)
    budgets, *arguments = arguments
    budgets = [budgets] * len(prompts) if isinstance(budgets, int) else budgets
    mine, part = share(range(len(prompts))), None
    seed = int(torch.randint(2**40, ()))
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed + rank())
        if mine:
            part = rollout.generate(model, tokenizer, [prompts[row] for row in mine], [budgets[row] for row in mine],
                                    *arguments, **named)
            part = moved(part, "cpu")
    parts = [None] * world()
    dist.all_gather_object(parts, part)
    order = [row for first in range(world()) for row in range(len(prompts))[first::world()]]
    places = sorted(range(len(prompts)), key=order.__getitem__)
    return moved(rollout.concat([part for part in parts if part]).select(places), model.device)


def moved(rollouts, device):
    """Rollouts on another device."""
    return replace(rollouts, **{name: value.to(device) for name, value in vars(rollouts).items()
                                if torch.is_tensor(value)})
