"""Problems made by reasoning-gym: fresh ones for each split, options, grades that only compare."""

import subprocess
import sys
import time
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from conftest import ROOT, SMALL, logged, save_chat_model, train

import eval as evaluation
from lab.flags import Config
from lab.metrics import summarise
from lab.results import read_results
from lab.run import read_problems
from rollout import generate
from tasks.benchmarks import load_sets, separate
from tasks.problems import load_problems
from tasks.reasoning import TASKS

SUMS = "reasoning-gym:chain_sum,min_terms=2,max_terms=3,max_digits=2"
HOSTILE = ["1e999999999", "9" * 5000, "9" * 9999, "[" * 9000, '{"a":' * 1500, "0x" + "f" * 9000, "nan", "inf",
           "__import__('os').mkdir('pwned')", "9**9**9**9", "(" * 5000 + ")" * 5000, "a" * 20_000, "\0",
           "\ud800", "×".join(["9" * 4000] * 2), "A=1," * 2000, "1:99999:9e9", ""]


def box(answer):
    return f"so \\boxed{{{answer}}}"


# --- With a stand-in for the package ----------------------------------------------------------------------

@dataclass
class Settings:
    low: int = 0
    seed: int = 0
    size: int = 500


class Made:
    """A task whose answer is its place, as a word that its own scoring halves, or cannot bear."""

    def __init__(self, seed, size, low=0):
        assert low < 5, "low must be below 5"
        self.low = low

    def __getitem__(self, place):
        return {"question": f"Which place is {self.low + place // 2}?", "answer": f"place {place // 2}",
                "metadata": {"difficulty": {"digits": (1, 2)}, "digits": 1 + place // 6}}

    def score_answer(self, answer, entry):
        return {entry["answer"]: 1.0, "half": 0.5, "much": 2.0}[answer]


@pytest.fixture
def stand_in(monkeypatch):
    module = SimpleNamespace(create_dataset=lambda name, **options: Made(**options),
                             factory=SimpleNamespace(DATASETS={"ab": (Made, Settings)}))
    monkeypatch.setitem(sys.modules, "reasoning_gym", module)


def test_problems_of_a_task(stand_in):
    problems = load_problems("reasoning-gym:ab,low=1,size=4")
    assert [p.text for p in problems] == [f"Which place is {i}?" for i in (1, 2, 3, 4)]         # each once
    assert [p.level for p in problems] == ["digits 1"] * 3 + ["digits 2"]
    assert len(load_problems("reasoning-gym:ab,size=9", limit=2)) == 2


def test_a_score_of_one_is_right_and_an_error_is_wrong(stand_in):
    problem = load_problems("reasoning-gym:ab")[0]
    right = ["place 0", " place 0 ", "\\text{place 0}", "much"]
    assert [problem.score(box(answer)) for answer in right] == [True] * 4
    assert not any(problem.score(box(answer)) for answer in ["place 1", "half", "unknown", "", "x" * 99_999])
    assert not problem.score("place 0") and not problem.score("")


@pytest.mark.parametrize("source, said", [
    ("reasoning-gym:ab,hight=3", "has no option 'hight' with a value; it has low, size"),
    ("reasoning-gym:ab,low", "has no option 'low' with a value"),
    ("reasoning-gym:ab,seed=3", "has no option 'seed'"),
    ("reasoning-gym:ab,low=7", "cannot be made: low must be below 5"),
    ("reasoning-gym:ab,size=many", "size must be a number, as 500, not many"),
    ("reasoning-gym:countdown", "none of the tasks whose answers can be graded safely: ab, acre,"),
    ("reasoning-gym:", "none of the tasks")])
def test_a_mistake_is_one_line(stand_in, source, said):
    with pytest.raises(ValueError) as error:
        load_problems(source)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_without_the_package_a_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ValueError, match="pip install reasoning-gym$"):
        load_problems(SUMS)
    with pytest.raises(ValueError, match="pip install reasoning-gym$"):
        load_sets(f"toy,{SUMS}", limit=2)


def test_options_stay_with_their_task_where_commas_separate_sets():
    assert separate(f"toy, {SUMS} ,math500=copy.parquet,reasoning-gym:gcd,reasoning-gym:ab,size=3,x.csv") == [
        "toy", SUMS, "math500=copy.parquet", "reasoning-gym:gcd", "reasoning-gym:ab,size=3", "x.csv"]
    assert separate('reasoning-gym:ab,signs=["+","-"],size=3,toy') == [
        'reasoning-gym:ab,signs=["+","-"],size=3', "toy"]
    with pytest.raises(ValueError, match="names a set twice"):
        load_sets("reasoning-gym:gcd,reasoning-gym:gcd")


def test_the_folder_of_a_run_names_task_and_options():
    output = "runs/toy-chain_sum-min_terms-2-max_terms-3-max_digits-2-masa-0"
    assert Config.parse(["--data", SUMS]).output == output


# --- With the package -------------------------------------------------------------------------------------

@pytest.fixture
def gym():
    return pytest.importorskip("reasoning_gym")


def test_held_out_problems_are_fresh_and_have_the_same_levels(gym):
    config = Config.parse(["--data", SUMS, "--eval-problems", "40"])
    training, held_out = read_problems(config)
    assert len(held_out) == 40 and not {p.key for p in training} & {p.key for p in held_out}
    assert {p.level for p in training} == {f"num_terms {terms} num_digits {digits}"
                                           for terms in (2, 3) for digits in (1, 2)}
    assert {p.level for p in held_out} <= {p.level for p in training}
    again = read_problems(config)
    assert ([p.text for p in training], [p.text for p in held_out]) == tuple([p.text for p in part]
                                                                            for part in again)


def test_the_same_problems_in_every_process(gym):
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom tasks.problems import *\n"
            "from tasks.reasoning import TASKS\n"
            "for task in sorted(TASKS): print(fingerprint(load_problems('reasoning-gym:' + task, limit=2)))")
    said = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                           env={"PYTHONHASHSEED": seed}).stdout for seed in "12"}
    assert len(said) == 1 and said.pop().count("2 problems") == len(TASKS)


def test_a_number_is_right_and_a_formula_that_equals_it_is_not(gym):
    problem = load_problems(SUMS, limit=1)[0]
    gold = int(problem.answer)
    for answer in (gold, f"{gold}.0", f"\\text{{{gold}}}", f"${gold}$", f" {gold} "):
        assert problem.score(box(answer)), answer
    question = problem.text.split(": ")[1].removesuffix(" =")           # it must not answer itself
    for answer in (question, f"{gold} + 0", gold + 1, f"{gold}5", ""):
        assert not problem.score(box(answer)), answer


@pytest.mark.parametrize("task", sorted(TASKS))
def test_gold_answers_are_right_and_hostile_ones_wrong_at_once(gym, task, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for problem in load_problems(f"reasoning-gym:{task}", limit=3):
        assert problem.score(box(problem.answer))
        started = time.process_time()
        assert not any(problem.score(box(answer)) for answer in HOSTILE)
        assert time.process_time() - started < 2
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out


def test_a_run_and_an_evaluation_on_words(gym, tmp_path, monkeypatch):
    """A policy that answers True and False in turn is half right."""
    def scripted(*arguments):
        rollouts = generate(*arguments)
        rollouts.texts = [box(i % 2 == 0) for i in range(len(rollouts.texts))]
        return rollouts
    monkeypatch.setattr("rollout.generate", scripted)
    model, budgets = save_chat_model(tmp_path / "model"), ["--max-new-tokens", 12, "--max-meta-tokens", 9]
    common = ["--model", model, "--data", "reasoning-gym:course_schedule,size=9,max_num_courses=5"]
    train(*common, *SMALL, *budgets, "--max-prompt-tokens", 1000, "--steps", 1, "--output", tmp_path / "run")
    assert logged(tmp_path / "run")[0]["reward"] == 0.5
    limits = ["--limit", 2, "--samples", 2, "--metas", 0, "--output", tmp_path / "out.json"]
    evaluation.main([str(argument) for argument in [*common, *budgets, *limits]])
    (name, records), = read_results(tmp_path / "out.json").items()
    assert name == "course_schedule,size=9,max_num_courses=5" and summarise(records)["accuracy"] == 0.5
