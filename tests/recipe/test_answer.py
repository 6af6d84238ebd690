from kezuri.core.goal import Goal
from kezuri.core.measurement import Measurement
from kezuri.recipe.answer import answer


def rows(model, share, packed=1.0):
    return [
        Measurement("accuracy", 0.9, "fraction", conditions={"model": model, "split": "validation"}),
        Measurement("params", 1000 * share, "count", conditions={"model": model}),
        Measurement("macs", 5000 * share, "count", conditions={"model": model}),
        Measurement("size", 4000 * share, "bytes", conditions={"model": model, "format": "onnx"}),
        Measurement("size", 3600 * packed, "bytes", conditions={"model": model, "format": "onnx.xz"}),
        Measurement("latency", 2 * share, "ms", conditions={"model": model, "threads": 1}),
    ]


def test_what_a_loop_missed_of_its_budget_is_missed():
    found = [*rows("dense", 1.0), *rows("final", 0.5)]
    met = answer(Goal(), found, {"kind": "budget", "why": "round 2 meets the budget", "missed": []})
    assert met["met"] and met["stop"] == "budget" and "50.0% of the parameters" in met["text"]
    missed = answer(Goal(params=0.4), found, {"kind": "rounds", "why": "…", "missed": ["latency"]})
    assert not missed["met"] and len(missed["missed"]) == 2 and missed["missed"][1] == "latency"
    assert answer(Goal(), found, {"kind": "floor", "why": "…"})["met"]  # of a step without a budget


def test_zeros_are_told_where_weights_are_masked():
    said = {"model": "final", "of": "weights"}
    found = [*rows("dense", 1.0), *rows("final", 1.0)]
    assert "zero" not in answer(Goal(), found, {})["text"]
    masked = [*found, Measurement("sparsity", 0.961, "fraction", conditions=said)]
    assert answer(Goal(), masked, {})["text"].startswith("96.1% of the weights zero, 1.0× smaller when")
    cut = [*rows("dense", 1.0), *rows("final", 0.5, packed=0.2), masked[-1]]
    assert answer(Goal(), cut, {})["text"].startswith("96.1% of the weights zero, 50.0% of the parameters")
