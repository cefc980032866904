"""`deploy_target`: what a target cannot run leaves the space before the search, for a reason that is printed."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnas.deploy.ir import Op
from bnas.deploy.pruning import prune, refusals
from bnas.deploy.targets import TARGETS, nothing
from bnas.errors import BnasError
from bnas.genotype import Genotype
from bnas.space import NetSpec
from search_spaces import make_space, space_of
from tests.jobs.tiny_chain import bnas, content, write_images, write_job

Shapes = Mapping[str, tuple[int, ...]]
SIZE = {"cells": 3, "channels": 4, "groups": 4, "shuffle_groups": 2}
SPEC = NetSpec((1, 8, 8), 3, "bats", {}, SIZE)


def undilated(op: Op, shapes: Shapes) -> str | None:
    """A target without dilated convolutions and without 5x5 kernels."""
    if op.kind != "binary_conv2d":
        return None
    if op.attributes["dilation"] != [1, 1]:
        return "it has no dilated convolutions"
    return "its kernels end at 3x3" if shapes["weight"][1] > 3 else None


def without(*kinds: str) -> Any:
    return lambda op, shapes: f"it has no {op.kind}" if op.kind in kinds else None


def test_choices_that_are_refused_leave_the_space_and_no_others() -> None:
    whole = make_space("bats", {"nodes": 1})
    smaller, refused = prune(whole, SPEC, "undilated", undilated)
    kept = ("group_conv_3x3", "identity", "max_pool_3x3", "avg_pool_3x3", "zero")
    assert [d.choices for d in smaller.decisions] == [kept] * 4
    assert {(r.decision, r.choice) for r in refused} == {
        (d.name, c) for d in whole.decisions for c in d.choices if c not in kept
    }
    reasons = {r.choice: r.reason for r in refused if r.decision == "normal.edge_0_2"}
    assert reasons["dil_group_conv_3x3"].endswith("(binary_conv2d): it has no dilated convolutions")
    assert reasons["group_conv_5x5"].endswith("(binary_conv2d): its kernels end at 3x3")
    rng = np.random.default_rng(0)
    genotype = smaller.mutate(smaller.random(rng), rng)
    assert space_of(Genotype.from_json(genotype.to_json())).count() == whole.count()
    assert not refusals(smaller.build(genotype, SPEC), undilated)
    assert set(smaller.supernet(SPEC).cells[0].edges["edge_0_2"]) == set(kept)  # type: ignore[union-attr, index, arg-type]


def test_a_target_that_runs_everything_changes_nothing() -> None:
    whole = make_space("bats", {"nodes": 1})
    assert prune(whole, SPEC, "reference", nothing) == (whole, [])


@pytest.mark.parametrize("form", ["c", "onnx"])
def test_an_export_refuses_the_kinds_that_it_does_not_write(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    emitters = importlib.import_module(f"bnas.deploy.{form}.emit").EMITTERS
    whole = make_space("bats", {"nodes": 1})
    assert prune(whole, SPEC, form, TARGETS[form]) == (whole, [])
    fewer = {kind: emitter for kind, emitter in emitters.items() if kind != "max_pool2d"}
    monkeypatch.setattr(f"bnas.deploy.{form}.emit.EMITTERS", fewer)
    smaller, refused = prune(whole, SPEC, form, TARGETS[form])
    assert {entry.choice for entry in refused} == {"max_pool_3x3"}
    assert "max_pool_3x3" not in smaller.decisions[0].choices


def test_only_edges_where_the_operation_occurs_lose_it() -> None:
    """An identity at stride 2 is two convolutions of stride 2; at stride 1 it is nothing."""

    def no_strides(op: Op, shapes: Shapes) -> str | None:
        strided = op.kind == "binary_conv2d" and op.attributes["stride"] != [1, 1] and shapes["weight"][1] == 1
        return "its 1x1 have no stride" if strided and ".edges." in op.name else None

    _, refused = prune(make_space("bats", {"nodes": 1}), SPEC, "no-strides", no_strides)
    assert {(r.decision, r.choice) for r in refused} == {(f"reduction.edge_{i}_2", "identity") for i in (0, 1)}


def test_opened_positions_are_pruned_too() -> None:
    space = make_space("bats", {"nodes": 1, "open": ["activation"]})
    target = without("hardtanh")
    smaller, _ = prune(space, SPEC, "few", target)
    assert smaller.decision("normal.node_2.activation").choices == ("none", "relu", "prelu", "rprelu")
    assert smaller.decision("normal.edge_0_2").choices == space.decision("normal.edge_0_2").choices


def test_a_decision_may_be_left_with_one_choice() -> None:
    spec = NetSpec((1, 8, 8), 3, "bats", {}, {"channels": 4, "stem": "imagenet"})
    space = make_space("group_mobilenet", {"layers": [2, 4], "groups": [1, 2, 4], "group_channels": 1, "channels": 4})
    smaller, _ = prune(
        space,
        spec,
        "dense",
        lambda op, shapes: (
            "it has no groups" if op.attributes.get("groups", 1) > 1 and op.kind != "threshold" else None
        ),
    )
    assert [d.choices for d in smaller.decisions] == [("1",), ("1",)]
    assert smaller.count() == 1


def test_nothing_left_says_why() -> None:
    space = make_space("bats", {"nodes": 1})
    with pytest.raises(
        BnasError, match=r"bats has no network that target bare runs; .*'stem.body.0' \(conv2d\): it has no"
    ):
        prune(space, SPEC, "bare", without("conv2d"))
    real = NetSpec((1, 8, 8), 3, "real", {}, SIZE)
    with pytest.raises(BnasError, match="its activations are real-valued: retrain with a scheme that binarizes them"):
        prune(space, real, "reference", nothing)


def test_a_job_prints_what_goes_and_searches_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TARGETS._entries, "undilated", undilated)  # type: ignore[attr-defined]
    values = {**content(write_images(tmp_path / "images.npz")), "deploy_target": "undilated"}
    job = write_job(tmp_path / "job.yaml", values)
    said = bnas(capsys, "search", job, "--run", tmp_path / "run")
    assert said.code == 0, said.err
    assert "deploy_target undilated: choices left out: 12; 256 of 2.4e+03 architectures are left" in " ".join(
        said.out.split()
    )
    assert "dil_group_conv_3x3 of normal.edge_0_2 and 3 more decisions: it has no dilated convolutions" in said.out
    found = Genotype.from_json((tmp_path / "run" / "genotype.json").read_text())
    assert not any("dil" in choice or "5x5" in choice for _, choice in found.choices)
    assert bnas(capsys, "retrain", tmp_path / "run").code == 0


def test_an_unknown_target_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = write_job(tmp_path / "job.yaml", {"deploy_target": "referense"})
    said = bnas(capsys, "search", job, "--run", tmp_path / "run")
    assert said.code == 2
    assert "deploy_target: no deploy target named 'referense'" in said.err
    assert "Did you mean 'reference'" in said.err
