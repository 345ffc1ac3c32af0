"""A run of training around the algorithm: setting up, seeding, clocks, logging, evaluating, saving, stopping.

    with Run(config, evaluate) as run:
        for step in run.steps():            # a seeded step at a time; Ctrl-C ends after the step
            with run.sampling():            # the precision and the clock of generation
                ...
            run.keep(batch, metrics)        # logged, and now and then evaluated, shown and saved
"""

import random
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

import torch

from gating import Audit
from lab import report
from lab.adapter import WithoutAdapter, base_of, halve_frozen
from lab.cold_start import cold_start
from lab.folder import RunFolder, read_json
from lab.metrics import path_metrics, summarise
from lab.policy import check_name, check_size, keep_fitting, load_policy, pick_device, room, tokens_at_once
from lab.reading import Reader
from lab.results import read_results
from rollout import Sampler
from tasks.problems import ProblemStream, fingerprint, is_generated, load_problems, split
from tasks.prompts import encode, example_messages

SILENT_STEPS = 5        # in a row in which no group of solutions had variance: then a run says what to do


class Run:
    """Everything of a run but its algorithm. `evaluate(sampler, problems, n, m, ...)` gives records.

    policy, tokenizer, sampler, reference (for --beta, else None), optimizer, cloner, adamw (makes one more),
    device, dtype (of computing); stream: the order of problems; rng: random.Random, seeded anew in each step;
    gate_audit, cutoff_audit: see gating.py; reader: see lab/reading.py; experts: collected for cloning.
    """
    PARTS = ("optimizer", "cloner", "gate_audit", "cutoff_audit", "reader")         # what has a state to save

    def __init__(self, config, evaluate):
        self.config, self.evaluate, self.exit_code, self.bar = config, evaluate, 0, None
        self.device = pick_device(config.device)
        self.folder = RunFolder(config.output, asdict(config), config.resume)
        self.path, self.stop = self.folder.path, StopRequest()
        try:
            self.set_up()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.bar is not None:
            self.bar.close()
        self.stop.restore()
        self.folder.close()

    # Setting up: whatever can be wrong with flags, data or model is found here, before long work

    def set_up(self):
        config = self.config
        self.reporter = report.Reporter(config.report_to, self.path, asdict(config))
        checkpoint = self.folder.load_trainer() if config.resume else None
        source = config.model if checkpoint is None else self.folder.checkpoint
        check_name(source, config.lora_rank)
        each, needs = 16, "weights, gradients and the two moments of AdamW"
        if config.lora_rank:
            half = self.device.type == "cuda" if config.bf16 is None else config.bf16
            each, needs = 2 if half else 4, "its frozen weights"
        check_size(source, config, self.device, each, needs)
        if config.beta and config.lora_rank and base_of(config.model):
            raise ValueError(f"--beta compares with the initial policy, which is {config.model} with its "
                             "adapter: merge it first (tools/merge.py)")
        problems, held_out = read_problems(config)
        self.folder.write_once("problems.json", {"training": fingerprint(problems),
                                                 "held out": fingerprint(held_out)})
        self.policy, self.tokenizer = load_policy(source, "cpu" if config.lora_rank else self.device,
                                                  config.trust_remote_code, config.lora_rank, config.seed)
        self.reference = None
        if config.beta:
            self.reference = (WithoutAdapter(self.policy) if config.lora_rank else
                              load_policy(config.model, self.device, config.trust_remote_code)[0].eval())
        self.fit(problems, held_out)
        if checkpoint and self.held_out:
            read_results(self.path / "before.json")
        self.compute(self.device.type == "cuda")
        self.gate_audit, self.cutoff_audit, self.experts = Audit(), Audit(), []
        self.reader = Reader(config.group_size)
        self.state = {"step": 0, "position": 0, "tokens": 0, "prefilled": 0, "seconds": 0.0}
        self.broken = self.silent = 0           # steps in a row: left out, without variance
        self.told, self.evaluation_seconds = False, None        # how long it will take; of an evaluation
        self.fresh = checkpoint is None
        if checkpoint is not None:
            self.restore(checkpoint)
        self.stream = ProblemStream(self.problems, config.seed, self.state["position"])
        self.folder.rewind(self.state["step"])

    def fit(self, problems, held_out):
        """Keep the problems whose prompts fit; raises ValueError if too few are left."""
        config = self.config
        longest = room(self.policy, config.model, config.max_new_tokens, config.max_meta_tokens, config.hints)
        if config.cold_start:               # which asks with solved examples before the problem
            longest -= len(encode(self.tokenizer, example_messages("", self.tokenizer.chat_template is None)))
        if config.max_prompt_tokens > longest:
            raise ValueError(f"{config.model} has room for prompts of {longest} tokens beside the budgets"
                             f"{' and the examples' if config.cold_start else ''}: lower --max-prompt-tokens "
                             f"(now {config.max_prompt_tokens}) or --max-new-tokens")
        limits = config.max_prompt_tokens, config.max_new_tokens, config.thinking
        self.problems, self.held_out = (keep_fitting(part, self.tokenizer, *limits)
                                        for part in (problems, held_out))
        if len(self.problems) < config.problems_per_step:
            raise ValueError(f"{config.data} leaves {len(self.problems)} problems to train on, fewer than "
                             f"--problems-per-step {config.problems_per_step}; {len(self.held_out)} are "
                             "held out")
        if 2 * config.cold_start > len(self.problems):
            raise ValueError(f"--cold-start {config.cold_start} takes twice as many problems, and "
                             f"{config.data} leaves {len(self.problems)} to train on")

    def compute(self, on_card):
        """Precision, memory, optimisers and sampler."""
        config = self.config
        bf16, checkpointing = (on_card if value is None else value
                               for value in (config.bf16, config.gradient_checkpointing))
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        if config.lora_rank and bf16:
            halve_frozen(self.policy)
        self.policy.to(self.device)             # only now, since a large model may fit only when it is halved
        if checkpointing:
            self.policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # Fused, since otherwise a step on a card copies all weights for a moment.
        trained = [weights for weights in self.policy.parameters() if weights.requires_grad]
        self.adamw = partial(torch.optim.AdamW, trained, fused=on_card or None)
        self.optimizer = self.adamw(lr=config.learning_rate, weight_decay=config.weight_decay)
        # Cloning has moments of its own: in the policy's, its gradients would drown those of the rewards.
        self.cloner = self.adamw(lr=config.clone_learning_rate, weight_decay=0.0)
        self.sampler = Sampler(
            self.policy, self.tokenizer, config.max_new_tokens, config.max_meta_tokens, config.temperature,
            thinking=config.thinking, max_tokens=tokens_at_once(config.max_tokens, self.device))

    def restore(self, trainer):
        """Go on from a checkpoint; raises ValueError with one line if it does not fit."""
        try:
            for name in self.PARTS:
                getattr(self, name).load_state_dict(trainer[name])
            self.state = {name: trainer["state"][name] for name in self.state}
            self.experts = list(trainer["experts"])
            moments = self.optimizer.state.items()
            if any(moment["exp_avg"].shape != weight.shape for weight, moment in moments):
                raise ValueError("it is another model's")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ValueError(f"{self.folder.checkpoint} cannot be resumed: trainer.pt does not fit "
                             f"({error}). Remove the checkpoint to start over") from None

    def save(self):
        parts = {name: getattr(self, name).state_dict() for name in self.PARTS}
        self.folder.save(self.policy, self.tokenizer, parts | {"state": self.state, "experts": self.experts})

    # What the algorithm asks for

    @contextmanager
    def sampling(self):
        """The precision and the clock of generation."""
        started, before = time.perf_counter(), self.sampler.prefilled
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            yield
        self.generate_seconds = time.perf_counter() - started
        self.prefilled = self.sampler.prefilled - before
        if self.bar is not None:
            self.bar.set_postfix_str("updating the policy", refresh=sys.stdout.isatty())

    def update_settings(self):
        """The flags that `grpo.update` takes."""
        config = self.config
        return dict(epochs=config.inner_epochs, minibatches=config.minibatches, beta=config.beta,
                    aggregation=config.aggregation, max_tokens=config.max_new_tokens, dtype=self.dtype,
                    clip_low=config.clip_low, clip_high=config.clip_high, reference=self.reference,
                    temperature=config.temperature, micro_batch_tokens=config.micro_batch_tokens,
                    progress=report.TokenCount(self.bar, "updating the policy: "))

    def skip_update(self, batch, rows):
        """The metrics of an update that was left out, since the gradient of `rows` is not finite. Says so."""
        owners = [group for group in batch.groups for cut in group.cut if not (self.config.mask_cut and cut)]
        owners += [group for group in batch.groups for _ in group.predictions]
        names = dict.fromkeys(owners[row].problem.id for row in rows)
        self.bar.write(f"step {self.state['step']}: a gradient is not finite, that optimiser step is left "
                       f"out. It came from {', '.join(names)}", file=sys.stdout)
        self.broken += 1
        return {"grad_norm": float("nan")}

    # Around the steps

    def steps(self):
        """The numbers of the steps to take, each seeded; evaluates before the first and after the last."""
        config = self.config
        if self.held_out and self.fresh:
            if not (self.path / "before.json").exists():        # it does if the run was stopped soon after
                self.folder.write_json("before.json", self.examine("before training"))
            before = read_json(self.path / "before.json")
            report.print_table({"before": before})
            for line in report.missing_formats(summarise(before), config) if not config.cold_start else ():
                print(line)
        if config.cold_start and self.state["step"] == 0:
            self.start()
        self.stop.listen()
        self.bar = report.progress_bar(config.steps, config.algo, "step", initial=self.state["step"],
                                       leave=config.steps > 0)
        while self.state["step"] < config.steps and self.broken < 2 and not self.stop.signal:
            step, broken = self.state["step"], self.broken
            torch.manual_seed(1_000_003 * config.seed + step)   # a resumed step draws what it would have
            self.rng, self.started = random.Random(f"{config.seed} {step}"), time.perf_counter()
            self.learning_rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate
            rows = config.group_size + (config.meta_group_size if config.algo == "masa" else 0)
            known = config.algo != "masa-efficient" and not config.dynamic_sampling
            self.sampler.progress = report.TokenCount(
                self.bar, total=config.problems_per_step * rows if known else None)
            yield step
            self.broken = self.broken if self.broken > broken else 0
        self.bar.close()
        self.stop.restore()
        self.save()
        if self.broken == 2:
            raise ValueError("the gradients of two steps in a row were not finite. Try a lower "
                             "--learning-rate")
        if self.state["step"] < config.steps:
            print(f"Stopped after {self.state['step']} of {config.steps} steps. Go on with the same command "
                  "and --resume")
            self.exit_code = 128 + self.stop.signal
        else:
            self.finish()

    def start(self):
        """The cold start of a run that has no checkpoint yet, and what the held-out problems say of it."""
        if self.fresh:
            self.folder.write_json("cold_start.json", cold_start(self))
            self.state["position"] = self.stream.position
            self.save()
        if self.held_out:
            self.folder.write_json("started.json", self.examine("after the cold start"))
            report.print_table(self.evaluations())
            for line in report.missing_formats(summarise(self.evaluations()["started"]), self.config):
                print(line)

    def keep(self, batch, metrics):
        """Log a step, and evaluate, show and save where it is time to."""
        config, step, seconds = self.config, self.state["step"], time.perf_counter() - self.started
        done, last = step + 1, step + 1 == config.steps
        parts = [part for group in batch.groups for part in (group.solutions, group.metas) if part]
        tokens = sum(sum(part.lengths) for part in parts) + batch.wasted
        self.state = {"step": done, "position": self.stream.position, "tokens": self.state["tokens"] + tokens,
                      "prefilled": self.state["prefilled"] + self.prefilled,
                      "seconds": self.state["seconds"] + seconds}
        metrics |= batch.metrics | path_metrics(batch)
        if self.held_out and config.eval_every and done % config.eval_every == 0 and not last:
            figures = summarise(self.examine("held-out problems"), config.gate_std, config.gate_margin)
            metrics |= {f"eval/{name}": value for name, value in figures.items()}
        metrics |= {"learning_rate": self.learning_rate, "tokens_wasted": batch.wasted,
                    "tokens_prefilled": self.prefilled, "tokens_total": self.state["tokens"],
                    "tokens_prefilled_total": self.state["prefilled"], "tokens_per_second": tokens / seconds,
                    "seconds": seconds, "seconds/generate": self.generate_seconds,
                    "seconds_total": self.state["seconds"]}
        self.folder.append("metrics.jsonl", {"step": step} | metrics)
        self.reporter.log(metrics, step)
        self.show(batch, metrics, step)
        if config.checkpoint_every and done % config.checkpoint_every == 0 and not last:
            self.save()

    def show(self, batch, metrics, step):
        """Move the bar, show rollouts now and then, say how long it will take, and if nothing is learned."""
        config, every = self.config, self.config.show_every
        self.bar.set_postfix_str(report.step_line(metrics), refresh=False)
        self.bar.update()
        if every and step % every == 0:
            row = {"step": step} | report.one_of_each(batch)
            self.folder.append("rollouts.jsonl", row)
            report.print_rollouts(row, self.bar)
        if not self.told:
            self.told = True
            for line in self.outlook(metrics, step + 1):
                self.bar.write(line, file=sys.stdout)
        self.silent = self.silent + 1 if metrics["frac_reward_zero_std"] == 1 else 0
        if self.silent and self.silent % SILENT_STEPS == 0:
            self.bar.write(report.silence(self.silent, metrics, config), file=sys.stdout)

    def outlook(self, metrics, done):
        """What can be said after the first step, as lines: how long the others will take, what is amiss."""
        config, left = self.config, self.config.steps - done
        every = config.eval_every or config.steps
        evaluations = (config.steps - 1) // every - done // every + 1 if self.held_out else 0
        lines = [] if self.held_out else report.missing_formats(metrics, config)  # an evaluation has told it
        said = report.outlook(metrics["seconds"], left, self.evaluation_seconds, evaluations)
        return lines + [said] * (left > 0)

    def examine(self, description):
        """Records of the held-out problems, drawn with the same numbers every time."""
        torch.manual_seed(self.config.seed)
        samples, started = self.config.eval_samples, time.perf_counter()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            records = self.evaluate(self.sampler, self.held_out, samples, samples, hints=self.config.hints,
                                    description=description)
        self.evaluation_seconds = time.perf_counter() - started
        return records

    def evaluations(self):
        """The records of the evaluations until now: {"before": ..., "started": ..., "after": ...}."""
        return {when: read_json(self.path / f"{when}.json") for when in ("before", "started", "after")
                if (self.path / f"{when}.json").exists()}

    def finish(self):
        """The last evaluation, the table, and the pictures."""
        if self.held_out and self.config.steps:
            self.folder.write_json("after.json", self.examine("after training"))
            report.print_table(self.evaluations())
        evaluations = self.evaluations()
        try:
            from lab.pictures import plot_awareness, plot_curves  # matplotlib takes a second to load
            if evaluations:
                plot_awareness(evaluations, self.path / "awareness.png")
            if self.config.steps:
                plot_curves(self.folder.read("metrics.jsonl"), self.path / "curves.png",
                            f"{self.config.algo} on {self.config.model}", evaluations)
        except ImportError as error:
            print(f"No pictures: {error}. They need matplotlib")
        print(f"{self.state['step']} steps, {self.state['tokens']:,} tokens and {self.state['seconds']:.0f} "
              f"seconds of training. What came of it is in {self.path}/: metrics, pictures, and the "
              "checkpoint")


class StopRequest:
    """Notes Ctrl-C, SIGTERM and a closed terminal: the step is finished and saved. A second one quits."""

    def __init__(self):
        self.signal, self.before = 0, {}

    def listen(self):
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        self.before = {number: signal.signal(number, self.note) for number in numbers}

    def note(self, number, frame):
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        if number == signal.SIGINT:                             # after SIGHUP there is nobody to read it
            print("\nFinishing this step, then saving; press Ctrl-C again to quit at once", flush=True)

    def restore(self):
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}


def read_problems(config):
    """Problems to train on, and held-out ones: two lists."""
    held_out = config.eval_problems
    if held_out and (is_generated(config.data) or config.eval_data):
        held_out = load_problems(config.eval_data or config.data, "test", config.eval_problems)
    return split(load_problems(config.data, config.data_split), held_out)
