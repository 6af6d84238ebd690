"""Products of activations: attention in all its forms, and whatever else multiplies two tensors."""

from collections.abc import Mapping

import numpy as np

from kezuri.model.channels import Axes, Call, Channels
from kezuri.model.coupling_rule import rule
from kezuri.model.coupling_rules.layers import contract
from kezuri.model.union_find import Ids

DOTS = "αβγδεζηθ"
"""Letters that stand for the dots of an einsum."""
SCALE = "the attention scale follows the head width"


@rule("scaled_dot_product_attention")
def attention(channels: Channels, call: Call) -> Axes:
    """Heads are joined; head widths are summed over, and set the scale unless it is given."""
    query, key, value = (call.axes(name) for name in ("query", "key", "value"))
    contract(channels, call, pairs=[(query[-1], key[-1])], factors=("query", "key"))
    if call.arguments.get("scale") is None:
        channels.suspect(query[-1], SCALE)
    contract(channels, call, pairs=[(key[-2], value[-2])], factors=("value",))
    _name_heads(channels, query[:-2], key[:-2], value[:-2])
    for dim, ids in enumerate(query[:-2]):
        for other in (key[dim], value[dim]):
            _join_groups(channels, ids, other)
    mask = call.axes("attn_mask")
    for ids, own in zip(reversed(query[:-1]), reversed(mask[:-1]), strict=False):
        if len(own) == len(ids):
            channels.join(ids, own)
    return [*query[:-1], value[-1]]


@rule("matmul", "bmm", "mm")
def product(channels: Channels, call: Call) -> Axes:
    """The last dimension of one is summed over with the last but one of the other."""
    left, right = call.axes("self"), call.axes("other") or call.axes("mat2")
    factors = ("self", "other" if call.arguments.get("other") is not None else "mat2")
    contract(channels, call, pairs=[(left[-1], right[-2] if len(right) > 1 else right[0])], factors=factors)
    for factor, rows in ((left, True), (right, False)):
        if len(factor) == 2:
            channels.use(factor[0 if rows else 1], "output")
            channels.use(factor[1 if rows else 0], "input")
    batch = _batch(channels, left[:-2], right[:-2])
    return [*batch, *(left[-2:-1] if len(left) > 1 else []), *(right[-1:] if len(right) > 1 else [])]


@rule("addmm", "baddbmm")
def product_with_shift(channels: Channels, call: Call) -> Axes:
    """As `product`, and adds a tensor."""
    names = ("mat1", "mat2") if call.name == "addmm" else ("batch1", "batch2")
    left, right = (call.axes(name) for name in names)
    contract(channels, call, pairs=[(left[-1], right[-2])], factors=names)
    if (name := call.parameter("mat2")) is not None:
        channels.set_role(name, 1, "output")
        channels.set_role(name, 0, "input")
    result = [*_batch(channels, left[:-2], right[:-2]), left[-2], right[-1]]
    for ids, own in zip(reversed(result), reversed(call.axes("self")), strict=False):
        if len(own) == len(ids):
            channels.join(ids, own)
    return result


@rule("einsum")
def summed_products(channels: Channels, call: Call) -> Axes:
    """Dimensions of one letter are one; letters that do not come out are summed over."""
    terms, arrow, result = call.arguments["equation"].replace(" ", "").partition("->")
    nodes = call.arguments["tensors"]
    tensors = [call.axes_of(node) for node in nodes]
    if not arrow:
        plain = terms.replace("...", "")
        single = sorted(letter for letter in set(plain) - {","} if plain.count(letter) == 1)
        result = ("..." if "..." in terms else "") + "".join(single)
    terms = ",".join(_spelt(term, len(axes)) for term, axes in zip(terms.split(","), tensors, strict=True))
    result = _spelt(result, len(call.shape))
    seen: dict[str, list[tuple[int, Ids]]] = {}
    for at, (term, axes) in enumerate(zip(terms.split(","), tensors, strict=True)):
        for letter, ids in zip(term, axes, strict=True):
            seen.setdefault(letter, []).append((at, ids))
    for letter, places in seen.items():
        for _, ids in places[1:]:
            channels.join(places[0][1], ids)
        if letter not in result and not any(call.vanishes(nodes[at]) for at, _ in places):
            for _, ids in places:
                channels.pin(ids, "aten.einsum sums over channels that are not zero when masked")
    for letter, places in seen.items():
        for _, ids in places:
            channels.use(ids, "output" if letter in result else "input")
    everywhere = [letter for letter in result if len(seen[letter]) == len(tensors)]
    _name_heads(channels, *([seen[letter][at][1] for letter in everywhere] for at in range(len(tensors))))
    return [_best(channels, seen, letter) for letter in result]


@rule("tensordot")
def products_over(channels: Channels, call: Call) -> Axes:
    """Sums over the named dimensions of both; the others come one tensor's after the other's."""
    left, right = call.axes("self"), call.axes("other")
    over = [
        [dim % len(axes) for dim in call.arguments[f"dims_{name}"]]
        for name, axes in (("self", left), ("other", right))
    ]
    pairs = [(left[one], right[other]) for one, other in zip(*over, strict=True)]
    contract(channels, call, pairs=pairs, factors=("self", "other"))
    name = call.parameter("other")
    for dim in range(len(right)):
        channels.set_role(name, dim, "input" if dim in over[1] else "output")
    return [
        ids
        for axes, gone in zip((left, right), over, strict=True)
        for dim, ids in enumerate(axes)
        if dim not in gone
    ]


def _spelt(term: str, dimensions: int) -> str:
    """A term of an einsum with letters for its dots, the last ones the same in every term."""
    dots = dimensions - len(term.replace("...", ""))
    return term.replace("...", DOTS[len(DOTS) - dots :])


@rule("bilinear")
def bilinear(channels: Channels, call: Call) -> Axes:
    """Every output sums over pairs of one input's and the other's channels."""
    left, right, weight = call.axes("input1"), call.axes("input2"), call.axes("weight")
    contract(channels, call, pairs=[(left[-1], weight[1])], factors=("input1", "weight"))
    contract(channels, call, pairs=[(right[-1], weight[2])], factors=("input2", "weight"))
    for ids in call.axes("bias"):
        channels.join(weight[0], ids)
    for dim, role in enumerate(("output", "input", "input")):
        channels.set_role(call.parameter("weight"), dim, role)  # type: ignore[arg-type]
    return [*left[:-1], weight[0]]


@rule("outer")
def outer(_: Channels, call: Call) -> Axes:
    """Every entry of one with every entry of the other."""
    return [call.axes("self")[0], call.axes("vec2")[0]]


def _best(channels: Channels, seen: Mapping[str, list[tuple[int, Ids]]], letter: str) -> Ids:
    """The positions of a letter; free ones before fixed ones, tagged ones before others."""
    places = [ids for _, ids in seen[letter]]
    free = [ids for ids in places if (ids >= 0).any()]
    tagged = [ids for ids in places if channels.tag(ids)]
    return (free or tagged or places)[0]


def _batch(channels: Channels, left: Axes, right: Axes) -> Axes:
    """Dimensions in front of the matrices, after broadcasting."""
    count = max(len(left), len(right))
    result: Axes = []
    _name_heads(channels, left, right)
    for at in range(-count, 0):
        one = left[at] if -at <= len(left) else None
        other = right[at] if -at <= len(right) else None
        if one is None or other is None or len(one) != len(other):
            longer = max((ids for ids in (one, other) if ids is not None), key=len)
            result.append(longer)
            continue
        channels.join(one, other)
        result.append(one if (one >= 0).any() or channels.tag(other) is None else other)
    return result


def _name_heads(channels: Channels, *batches: Axes) -> None:
    """What a view split off and a product leaves apart is the heads: of several, the innermost."""
    if channels.choices.heads != "whole" or any((ids >= 0).any() for batch in batches for ids in batch):
        return
    for batch in batches:
        tags = [tag for ids in batch if (tag := channels.tag(ids)) is not None]
        channels.wanted.update(tags[-1:])


def _join_groups(channels: Channels, heads: Ids, fewer: Ids) -> None:
    """Heads of queries with those of keys and values, of which there may be fewer (grouped queries)."""
    if len(fewer) == len(heads):
        channels.join(heads, fewer)
    elif len(fewer) > 1:
        channels.join(heads, np.repeat(fewer, len(heads) // len(fewer)))
