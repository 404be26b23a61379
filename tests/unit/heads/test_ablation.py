"""Ablation from stored rows: against the decomposer, against plain sums in the joint space, streamed or not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from clipaudit.config import ModelConfig
from clipaudit.errors import UsageError
from clipaudit.heads import ablation
from clipaudit.heads.ablation import (
    Means,
    Replacement,
    ZeroShot,
    component_columns,
    layer_heads,
    mean_ablation,
    replacement_means,
    span_reconstruction,
    stream_logits,
)
from clipaudit.heads.column_sets import as_set, random_sets
from clipaudit.heads.textspan import textspan
from clipaudit.heads.zeroshot import score, score_sets
from clipaudit.run.basis import write_basis
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.run.rows import Rows, stream_rows
from clipaudit.schema import TableSpec, attention_column, head_label, mlp_column
from tests.make_runs import SPEC, make_manifest, make_run, make_samples, write_attempt

HEADS = SPEC.heads
PLACE = "attributes.place"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Random numbers: 2 shards of 47 ok rows, labels 0 to 2, places land and water, four heads and an MLP term."""
    return Run(make_run(str(tmp_path_factory.mktemp("ablation") / "run")))


def whole(run, columns=("embedding", *HEADS, "mlp_L01")):
    return {name: run.vectors(name, dtype=np.float32).values for name in columns}


def zeros(run, columns):
    return Means(
        values={name: np.zeros(run.spec.vectors[name]) for name in columns},
        source="zero",
        model=run.manifest.model["fingerprint"],
    )


def ablate(embedding, vectors, replacements):
    """The formula itself: z - sum (y - mean y) M."""
    for replacement in replacements:
        lost = vectors[replacement.column] - replacement.mean
        embedding = embedding - (lost if replacement.matrix is None else lost @ replacement.matrix)
    return embedding


def streamed(run, replacements):
    """Ablated embeddings as streamed logits have them, the directions of the joint space being the classes."""
    axes = np.eye(SPEC.embed_dim, dtype=np.float32)
    batches = list(stream_logits(run, question(classes=axes), replacements))
    return np.concatenate([batch.base - batch.removed.sum(axis=0) for batch in batches])


def unit_classes(count=3, dim=SPEC.embed_dim, seed=5):
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def question(**changes):
    return ZeroShot(**{"classes": unit_classes(), "class_of": {row: row for row in range(3)}, **changes})


# -- the decomposer's own sums -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decomposed(tiny_model, tmp_path_factory):
    """A run of the tiny model with components, and what the decomposer says of the same images."""
    import torch

    from clipaudit.model import Decomposer
    from clipaudit.model.loading import load_model

    loaded = load_model(ModelConfig(name=tiny_model))
    decomposer = Decomposer(loaded.model, terms=True)
    out = decomposer(torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    layers, heads = out.heads.shape[1:3]
    vectors = {"embedding": out.embedding.numpy()}
    for layer, head in itertools.product(range(layers), range(heads)):
        vectors[head_label(layer, head)] = out.heads[:, layer, head].numpy()
    vectors |= {attention_column(layer): out.attention[:, layer].numpy() for layer in range(layers)}
    vectors |= {mlp_column(layer): out.mlp[:, layer].numpy() for layer in range(layers)}
    spec = TableSpec(
        heads=tuple(name for name in vectors if "H" in name),
        head_dim=out.heads.shape[3],
        embed_dim=out.embedding.shape[1],
        components=tuple(name for name in vectors if "_" in name),
    )
    run_dir = RunDirectory(str(tmp_path_factory.mktemp("decomposed") / "run"))
    manifest = make_manifest(spec, 1)
    run_dir.create_or_resume(manifest)
    write_basis(run_dir, decomposer.readout.arrays(np.float32), {})
    scalars = {name: getattr(out, name).numpy() for name in ("scale", "norm", "remainder")}
    samples = make_samples(40, label=lambda _: None)
    for sample in samples:
        sample.attributes, sample.caption = {}, None
    assert run_dir.commit(write_attempt(run_dir, manifest.shards[0], spec, samples, vectors, scalars))
    return Run(run_dir), vectors, out


def test_ablating_every_head_leaves_the_decomposers_other_parts(decomposed):
    run, vectors, out = decomposed
    nothing = mean_ablation(run, run.head_labels, zeros(run, run.head_labels))
    rest = (out.embedding - out.parts["heads"]).numpy()
    others = sum(part for name, part in out.parts.items() if name != "heads").numpy()
    assert np.abs(ablate(vectors["embedding"], vectors, nothing) - rest).max() < 1e-6
    assert np.abs(ablate(vectors["embedding"], vectors, nothing) - others).max() < 1e-6
    stored = whole(run, ("embedding", *run.head_labels))  # float16
    assert np.abs(ablate(stored["embedding"], stored, nothing) - rest).max() < 4e-3
    means = replacement_means(run, run.head_labels)
    ablated = ablate(vectors["embedding"], vectors, mean_ablation(run, run.head_labels, means))
    assert np.abs(ablated - (rest + out.parts["heads"].mean(dim=0).numpy())).max() < 2e-4


def test_mlps_and_attention_layers_as_components(decomposed):
    run, vectors, out = decomposed
    mlps, attention = component_columns(run, "mlp"), component_columns(run, "attention")
    assert mlps == tuple(mlp_column(layer) for layer in range(4))
    ablated = ablate(vectors["embedding"], vectors, mean_ablation(run, mlps, replacement_means(run, mlps)))
    expected = out.embedding - out.parts["mlp"] + out.parts["mlp"].mean(dim=0)
    assert np.abs(ablated - expected.numpy()).max() < 2e-4
    everything = mean_ablation(run, (*mlps, *attention), zeros(run, (*mlps, *attention)))
    expected = out.parts["initial"] + out.parts["norm_bias"]
    assert np.abs(ablate(vectors["embedding"], vectors, everything) - expected.numpy()).max() < 1e-6


# -- sums, identities --------------------------------------------------------------------------------------------------


def test_equals_the_sum_in_the_joint_space(run):
    chosen = ("L00H01", "L01H00", "mlp_L01")
    stored, basis = whole(run), run.basis()
    expected = stored["embedding"].astype(np.float64)
    for name in chosen:
        away = stored[name].astype(np.float64) - stored[name].mean(axis=0, dtype=np.float64)
        expected = expected - (away @ basis.Q(name) if name in HEADS else away)
    replacements = mean_ablation(run, chosen, replacement_means(run, chosen))
    assert np.abs(streamed(run, replacements) - expected).max() < 1e-6


def test_replacing_nothing_changes_nothing_bit_for_bit(run):
    stored = whole(run)
    assert streamed(run, ()).tobytes() == stored["embedding"].tobytes()
    columns = [*HEADS, "mlp_L01"]
    replacements = mean_ablation(run, columns, replacement_means(run, columns))
    plain = score(stream_logits(run, question(attribute=PLACE), ()), np.zeros((1, 0), bool))[0]
    none = score(stream_logits(run, question(attribute=PLACE), replacements), np.zeros(5, bool))[0]
    assert (plain.confusion == none.confusion).all()
    assert plain.groups == none.groups


def spans_of(run, criterion="explained", steps=10):
    moments = run.moments()
    rng = np.random.default_rng(3)
    return {head: textspan(moments.covariance(head), rng.standard_normal((30, 4)), steps, criterion) for head in HEADS}


def test_reconstruction_goes_from_mean_ablation_to_nothing_lost(run):
    stored, spans, means = whole(run), spans_of(run), replacement_means(run, HEADS)
    full = span_reconstruction(run, spans, means)
    assert np.abs(ablate(stored["embedding"], stored, full) - stored["embedding"]).max() < 1e-6
    none = ablate(stored["embedding"], stored, span_reconstruction(run, spans, means, 0))
    assert np.abs(none - ablate(stored["embedding"], stored, mean_ablation(run, HEADS, means))).max() < 1e-6
    two = ablate(stored["embedding"], stored, span_reconstruction(run, spans, means, 2))
    basis, expected = run.basis(), stored["embedding"].astype(np.float64)
    for head in HEADS:
        seen = spans[head].reconstruct(stored[head], means.values[head], 2)
        expected = expected + (seen - stored[head]) @ basis.Q(head)
    assert np.abs(two - expected).max() < 1e-6


# -- means -------------------------------------------------------------------------------------------------------------


def test_means_come_from_moments_rows_or_balanced_classes(run):
    columns, stored, labels = ["L01H01", "mlp_L01"], whole(run), run.labels()
    places = run.heads("L01H01", [PLACE])[PLACE]
    for name in columns:
        values = stored[name].astype(np.float64)
        by_label = np.mean([values[labels == label].mean(axis=0) for label in range(3)], axis=0)
        assert np.allclose(replacement_means(run, columns).values[name], values.mean(axis=0), atol=1e-12)
        assert np.allclose(replacement_means(run, columns, balanced=True).values[name], by_label, atol=1e-12)
        on_land = replacement_means(run, columns, Rows(where=(f"{PLACE} = land",))).values[name]
        assert np.allclose(on_land, values[places == "land"].mean(axis=0), atol=1e-12)
        one_shard = replacement_means(run, columns, Rows(shards=(1,))).values[name]
        assert np.allclose(one_shard, values[47:].mean(axis=0), atol=1e-12)
    source = replacement_means(run, columns, Rows(shards=(1,), where=(f"{PLACE} = land",)), balanced=True).source
    assert source.endswith("run, 1 shards, attributes.place = land, every label with equal weight")


def test_means_of_another_run(run, tmp_path):
    other = Run(make_run(str(tmp_path / "other"), shards=3))
    means = replacement_means(other, HEADS)
    replaced = mean_ablation(run, HEADS, means)
    assert all((r.mean == other.moments().mean(r.column)).all() for r in replaced)
    foreign = Means(values=means.values, source=means.source, model="other weights")
    with pytest.raises(UsageError, match="are of another model"):
        mean_ablation(run, HEADS, foreign)
    with pytest.raises(UsageError, match=r"no mean of mlp_L01"):
        mean_ablation(run, ["mlp_L01"], means)


# -- streams -----------------------------------------------------------------------------------------------------------


def test_streamed_logits_are_those_of_all_rows_at_once(run, monkeypatch):
    columns, stored = [*HEADS, "mlp_L01"], whole(run)
    replacements = mean_ablation(run, columns, replacement_means(run, columns))
    asked = question(attribute=PLACE)
    sets = np.array(list(itertools.product([False, True], repeat=5)))
    once = score_sets(stream_logits(run, asked, replacements), sets)
    for row, chosen in enumerate(sets):
        kept = [r for r, wanted in zip(replacements, chosen, strict=True) if wanted]
        answers = (ablate(stored["embedding"], stored, kept) @ asked.classes.T).argmax(axis=1)
        right = np.bincount(run.labels()[answers == run.labels()], minlength=3)
        assert once.class_right[row].tolist() == right.tolist()
    assert len(list(stream_logits(run, asked, replacements))) == 2
    monkeypatch.setattr(ablation, "_BATCH_BYTES", 4 * 3 * 6 * 7)  # 7 rows
    pieces = list(stream_logits(run, asked, replacements))
    assert max(len(batch.base) for batch in pieces) <= 7
    again = score_sets(pieces, sets)
    assert (again.class_right == once.class_right).all()
    assert (again.group_right == once.group_right).all()


def test_only_asked_for_rows_are_scored(run):
    labels, places = run.labels(), run.heads("L01H01", [PLACE])[PLACE]
    rows = Rows(shards=(0,), where=(f"{PLACE} = water",))
    some = score(stream_logits(run, question(rows=rows), ()), np.zeros((1, 0)))[0]
    assert some.accuracy.total == int((places[:47] == "water").sum())
    assert some.groups == {}
    grouped = score(stream_logits(run, question(attribute=PLACE), ()), np.zeros((1, 0)))[0]
    assert {group: p.total for group, p in grouped.groups.items()} == {
        (label, place): int(((labels == label) & (places == place)).sum())
        for label in range(3)
        for place in ("land", "water")
    }


def test_rows_that_failed_are_left_out(run):
    batches = list(stream_rows(run, ["L00H00"], ["key", PLACE, "label"], size=10))
    assert max(map(len, batches)) <= 10
    values = np.concatenate([batch.vectors["L00H00"] for batch in batches])
    assert (values == run.heads("L00H00", dtype=np.float32).values).all()
    keys = np.concatenate([batch.columns["key"] for batch in batches])
    assert keys.tolist() == run.heads("L00H00")["key"].tolist()


# -- sets --------------------------------------------------------------------------------------------------------------


def test_random_sets_take_as_many_heads_of_each_layer():
    columns = [head_label(layer, head) for layer in range(3) for head in range(6)] + ["mlp_L02", "mlp_L01"]
    chosen = ["L00H01", "L02H00", "L02H03", "L02H05", "mlp_L01"]
    sets = random_sets(columns, chosen, 3000, seed=1)
    assert (sets[:, :6].sum(axis=1) == 1).all()
    assert (sets[:, 6:12].sum(axis=1) == 0).all()
    assert (sets[:, 12:18].sum(axis=1) == 3).all()
    assert (sets[:, 18:] == [False, True]).all()
    assert np.abs(sets[:, :6].mean(axis=0) - 1 / 6).max() < 0.04
    assert np.abs(sets[:, 12:18].mean(axis=0) - 1 / 2).max() < 0.05
    assert (sets == as_set(columns, chosen)).all(axis=1).any()
    assert (random_sets(columns, chosen, 3000, seed=1) == sets).all()
    assert (random_sets(columns, chosen, 3000, seed=2) != sets).any()
    with pytest.raises(UsageError, match="L09H00 is not among"):
        random_sets(columns, ["L09H00"])


def test_layers_heads(run):
    assert layer_heads(run, [1]) == ("L01H00", "L01H01")
    with pytest.raises(UsageError, match="L05H00"):
        layer_heads(run, [1, 5])


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_mistakes_end_as_one_sentence(run):
    means = replacement_means(run, [*HEADS, "mlp_L01"])
    cases = [
        (lambda: mean_ablation(run, ["L07H00"], means), "stores no head 'L07H00'"),
        (lambda: mean_ablation(run, ["mlp_L00"], means), "only mlp_L01, not mlp_L00: audit with --components"),
        (lambda: component_columns(run, "attention"), "audit with --components"),
        (lambda: mean_ablation(run, ["L00H00", "L00H00"], means), "replaced twice"),
        (lambda: list(stream_rows(run, [], ["attributes.species"])), "no attribute 'species': it has place"),
        (lambda: list(stream_rows(run, [], ["colour"])), "no column 'colour'"),
        (lambda: list(stream_logits(run, question(class_of={0: 0}), ())), "of label [12], which has no class"),
        (lambda: replacement_means(run, HEADS, Rows(where=(f"{PLACE} = moon",))), "no rows to take means of"),
        (lambda: replacement_means(run, HEADS, Rows(shards=(9,))), "shard 9"),
    ]
    for action, message in cases:
        with pytest.raises(UsageError, match=message):
            action()


def test_a_head_and_its_layer_overlap(decomposed):
    run = decomposed[0]
    columns = ["L02H01", "attention_L02"]
    with pytest.raises(UsageError, match="L02H01 is part of attention_L02"):
        mean_ablation(run, columns, zeros(run, columns))
    assert len(mean_ablation(run, ["L02H01", "attention_L01"], zeros(run, ["L02H01", "attention_L01"]))) == 2


def test_runs_without_labels_have_no_accuracy(decomposed):
    with pytest.raises(UsageError, match="has no labels"):
        list(stream_logits(decomposed[0], question(classes=unit_classes(dim=24)), ()))
    with pytest.raises(UsageError, match="cannot be balanced"):
        replacement_means(decomposed[0], ["L00H00"], balanced=True)


def test_a_direction_can_be_replaced_alone(run):
    """What later stages need: any matrix makes a replacement, here one direction of a head at half dose."""
    stored, means, Q = whole(run), replacement_means(run, HEADS), run.basis().Q("L01H00").astype(np.float64)
    u = np.array([0.6, 0.8, 0.0, 0.0])
    half = Replacement(column="L01H00", mean=means.values["L01H00"], matrix=0.5 * np.outer(u, u) @ Q)
    away = (stored["L01H00"] - means.values["L01H00"]) @ u
    expected = stored["embedding"] - 0.5 * np.outer(away, u @ Q)
    assert np.abs(ablate(stored["embedding"], stored, [half]) - expected).max() < 1e-6
