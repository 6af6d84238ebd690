import os
import re
import subprocess
import sys

import pytest

from kezuri.recipe.recipe import load_recipe


def test_a_new_recipe_is_one_that_runs(kezuri, tmp_path):
    code, said, _ = kezuri("new", "mein größter.yaml", "--model", "my nets.py:net", "--data", "a: b #c")
    assert code == 0 and "kezuri check 'mein größter.yaml'" in said
    recipe = load_recipe(tmp_path / "mein größter.yaml")
    assert (recipe.name, recipe.model.use, recipe.data.use) == (
        "mein-gr-ter",
        "my nets.py:net",
        "a: b #c",
    )


def test_a_file_is_not_overwritten(kezuri, recipe, recipe_text):
    assert kezuri("new", recipe)[0] == 2
    assert recipe.read_text(encoding="utf-8") == recipe_text
    assert kezuri("new", "other.yaml", "--template", "pcsa")[0] == 2


def test_lists_what_a_recipe_can_name(kezuri):
    code, said, _ = kezuri("list")
    assert code == 0 and all(name in said for name in ("resnet56", "fashion-mini", "pcas", "cosine"))
    code, _, said = kezuri("list", "modl")
    assert code == 2 and "did you mean 'model'" in said


def test_the_demo_takes_overrides(kezuri):
    code, _, said = kezuri("demo", "steps.9.epochs=1")
    assert code == 2 and "the list has the items" in said


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["new", "x.yaml", "--template", "pcsa"]])
def test_light_commands_do_not_load_torch(words, tmp_path):
    code = f"""
import sys
from kezuri.cli.main import main
sys.argv = ["kezuri", *{words!r}]
try:
    main()
except SystemExit:
    pass
sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("told", "count"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_waiting_threads_sleep_soon_unless_told_otherwise(told, count, tmp_path):
    """Asked when torch is first imported, which is when OpenMP reads it."""
    code = """
import os, sys
class Seen:
    def find_spec(self, name, *_):
        if name == "torch":
            print("before torch:", os.environ.get("GOMP_SPINCOUNT"))
            sys.meta_path.remove(self)
sys.meta_path.insert(0, Seen())
from kezuri.cli.main import main
sys.argv = ["kezuri", "list", "model"]
main()
"""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=kept | told,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"before torch: {count}\n")


def test_a_check_loads_no_compiler(recipe, tmp_path):
    """torch._dynamo and all it brings would double the time of a check."""
    code = f"""
import sys
from kezuri.cli.main import main
sys.argv = ["kezuri", "check", {str(recipe)!r}]
try:
    main()
except SystemExit as ended:
    assert ended.code == 0, ended
sys.exit("torch._dynamo" in sys.modules or "torch.nn" not in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_check_follows_the_model_when_asked_to(kezuri, recipe, recipe_text):
    assert "MACs" not in kezuri("check", recipe)[1]
    code, said, _ = kezuri("check", recipe, "--trace")
    assert code == 0 and "MACs an image" in said
    recipe.write_text(recipe_text + "    ignore: ['*']\n", encoding="utf-8")
    assert kezuri("check", recipe)[0] == 0
    code, _, said = kezuri("check", recipe, "--trace")
    assert code == 2 and "no channel of" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--payoff", -1], "steps[0].payoff: payoff is a number of seconds, 0 for none, got -1.0"),
        (["--budget", "latncy=0.5"], "did you mean 'latency'"),
        (["--budget", "macs=0.5,latency=fast"], "steps[0].budget.latency: expected a number, got 'fast'"),
        (["--budget", "macs"], "steps[0].budget.macs: expected a valid number, got None"),
    ],
)
def test_compress_says_what_is_wrong_with_its_options(kezuri, options, message):
    code, _, said = kezuri("compress", "resnet8", "--data", "fashion-mini", *options)
    assert code == 2 and message in said


def test_a_round_names_the_layers_it_cut(capsys):
    from kezuri.cli.console import ConsoleListener
    from kezuri.core.measurement import Measurement

    def rows(layers):
        return [
            Measurement("channels", 5, "count", conditions={"layer": f"conv{n}", "before": 16, "round": 1})
            for n in range(layers)
        ]

    decision = {"round": 1, "attempt": 0, "verdict": "accepted", "why": ""}
    ConsoleListener().round_done(rows(2), decision)
    assert "conv0 5/16, conv1 5/16" in capsys.readouterr().out
    ConsoleListener().round_done(rows(12), decision)
    assert "12 layers cut, 60 of their 192 channels left" in capsys.readouterr().out
    zeros = Measurement("sparsity", 0.8, "fraction", conditions={"of": "weights"})
    ConsoleListener().round_done([zeros], decision)
    assert re.search(r"zeros %.*\n.* 80\.0 ", capsys.readouterr().out)
