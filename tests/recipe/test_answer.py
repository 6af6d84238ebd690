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
    assert answer(Goal(), masked, {})["text"].startswith("96.1% of the weights zero, 1.00× smaller when")
    cut = [*rows("dense", 1.0), *rows("final", 0.5, packed=0.2), masked[-1]]
    assert answer(Goal(), cut, {})["text"].startswith("96.1% of the weights zero, 50.0% of the parameters")


def accuracy(model, split, value, samples):
    said = {"model": model, "split": split}
    return Measurement("accuracy", value, "fraction", samples=samples, conditions=said)


def on(validation, test=None, share=0.5):
    """A run whose model loses so much on each part."""
    rest = [row for model in ("dense", "final") for row in rows(model, share if model == "final" else 1.0)]
    found = [row for row in rest if row.metric != "accuracy"]
    for split, lost, samples in (("validation", validation, 50), ("test", test, 450)):
        if lost is not None:
            found.append(accuracy("dense", split, 0.9, samples))
            found.append(accuracy("final", split, 0.9 - lost, samples))
    return found


def test_what_the_test_images_do_not_confirm_is_said():
    said = answer(Goal(), on(0.0, 0.0489), {})
    assert said["met"] and said["confirmed"] is False
    assert said["floor"] == (
        "kept on the 50 validation images it chose by (+0.00); on the 450 test images −4.89 points"
    )
    assert answer(Goal(), on(0.0, 0.01), {})["confirmed"] is True
    assert answer(Goal(accuracy=0.88), on(0.0, 0.0489), {})["confirmed"] is False
    lost = answer(Goal(), on(0.02, 0.0), {})
    assert not lost["met"] and lost["floor"].startswith("missed on the 50 validation images")


def test_without_test_images_nothing_confirms_it():
    said = answer(Goal(), on(0.0), {})
    assert said["confirmed"] is None and said["floor"].endswith("there are no test images to confirm it")


def test_a_goal_that_holds_no_accuracy_has_no_floor_to_tell_of():
    said = answer(Goal(accuracy=-0.99), on(0.3, 0.3), {})
    assert said["met"] and said["confirmed"] is None and said["floor"] == ""
    assert said["question"] == "smallest model with any accuracy"


def test_what_did_not_change_is_not_told_and_what_got_worse_is_told_so():
    same = [*rows("dense", 1.0), *rows("final", 1.0)]
    text = answer(Goal(), same, {})["text"]
    assert text == "File as large, as fast on one thread at 90.00% validation accuracy (+0.00 points)"
    slower = [m for m in on(0.0, 0.0, share=0.5) if m.metric != "latency"]
    for model, ms in (("dense", 2.0), ("final", 3.0)):
        slower.append(Measurement("latency", ms, "ms", conditions={"model": model, "threads": 1}))
    assert "file 2.0× smaller, 1.5× slower on one thread" in answer(Goal(), slower, {})["text"]
