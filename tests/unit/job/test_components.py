"""What `--components` stores: every component's columns, sizes in the plan, and runs that were begun before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clipaudit.config import ExecutionConfig, FieldsConfig, JobConfig, ModelConfig, StoreConfig
from clipaudit.errors import UsageError
from clipaudit.run.directory import RunDirectory
from clipaudit.run.reader import Run
from clipaudit.schema import RESIDUAL_MEANS, mlp_column, self_attention_column
from tests.make_shards import write_photos

pytestmark = pytest.mark.full


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global torch, Decomposer, LocalPool, Plan, Reporter, ShardWorker, load_model, make_manifest, run_job, expand
    global PublishedAllocation, ZeroShot, mean_ablation, replacement_means, stream_logits, published_allocation

    import torch

    from clipaudit.heads.ablation import ZeroShot, mean_ablation, replacement_means, stream_logits
    from clipaudit.heads.allocation import PublishedAllocation
    from clipaudit.job.driver import Plan, Reporter, make_manifest, run_job
    from clipaudit.job.engine_local import LocalPool
    from clipaudit.job.worker import ShardWorker
    from clipaudit.model import Decomposer
    from clipaudit.model.loading import load_model
    from clipaudit.shards.listing import expand
    from tests.published import published_allocation


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    directory = tmp_path_factory.mktemp("components")
    for number in range(2):
        write_photos(directory / f"s-{number}.tar", 12, prefix=f"p{number}")
    return str(directory / "s-*.tar")


def job(shards, out, model, components=True):
    return JobConfig(
        shards=(shards,),
        out=str(out),
        model=ModelConfig(name=model),
        fields=FieldsConfig(label="cls"),
        store=StoreConfig(layers="all", components=components),
        execution=ExecutionConfig(engine="local"),
    )


@pytest.fixture(scope="module")
def run(shards, tiny_model, tmp_path_factory):
    config = job(shards, tmp_path_factory.mktemp("run") / "run", tiny_model)
    run_job(config, LocalPool(config))
    return Run(config.out)


def test_every_layer_has_one_joint_vector_of_self_attention(run):
    names = [self_attention_column(layer) for layer in range(4)]
    assert set(names) <= set(run.spec.components)
    assert run.spec.vectors[names[0]] == run.spec.embed_dim
    assert run.spec.vectors[RESIDUAL_MEANS] == 4 * (2 + 2) + 1
    values = run.vectors(names, dtype=np.float32)
    assert all(np.abs(vectors.values).max() > 1e-4 for vectors in values.values())
    # moments are those of every other component, and of no residual means
    assert run.moments().mean(names[0]) == pytest.approx(values[names[0]].values.mean(axis=0), abs=1e-3)
    assert RESIDUAL_MEANS not in run.moments().lengths


def test_the_plan_counts_what_components_cost(shards, tmp_path, tiny_model):
    plans = {}

    class Plans(Reporter):
        def plan(self, plan: Plan) -> None:
            plans[plan.facts.table.residual_means > 0] = plan

    for components in (False, True):
        config = job(shards, tmp_path / f"run-{components}", tiny_model, components)
        run_job(config, LocalPool(config), Plans())
    spec, more = plans[False].facts.table, plans[True].facts.table
    assert spec.components == ()
    # float16: attention, MLP and self-attention of four layers, and 17 means
    assert plans[True].bytes_per_image - plans[False].bytes_per_image == 2 * (3 * 4 * spec.embed_dim + 17)
    assert more.heads == spec.heads


def test_the_published_ablation_from_a_stored_run(run, tiny_model, shards):
    """The published script's rows on the run's own images, to the rounding of stored numbers."""
    published = PublishedAllocation.of(run)
    loaded = load_model(ModelConfig(name=tiny_model))
    images = pixels(run, loaded, shards)
    attentions, mlps = (values.double().numpy() for values in published_allocation(loaded.model.visual, images))
    cls_attn = attentions[:, :, 0].sum(axis=2)
    whole = run.embedding(dtype=np.float64).values
    expected = {
        "mlps": whole - (mlps - mlps.mean(axis=0)).sum(axis=1),
        "self-attention": whole - (cls_attn - cls_attn.mean(axis=0)).sum(axis=1),
    }
    columns = {
        "mlps": ["initial", *(mlp_column(layer) for layer in range(4))],
        "self-attention": [self_attention_column(layer) for layer in range(4)],
    }
    axes = np.eye(run.spec.embed_dim, dtype=np.float32)
    asked = ZeroShot(classes=axes, class_of=dict.fromkeys(run.label_counts(), 0), published=published)
    for row, names in columns.items():
        means = replacement_means(run, names, published=published)
        batches = list(stream_logits(run, asked, mean_ablation(run, names, means, published)))
        ablated = np.concatenate([batch.base - batch.removed.sum(axis=0) for batch in batches])
        assert np.abs(ablated - expected[row]).max() < 3e-4, row
        assert np.abs(expected[row] - whole).max() > 3e-3, row


def pixels(run, loaded, shards):
    """The run's images as its model saw them, in the order of its rows."""
    import io
    import tarfile

    from PIL import Image

    images = []
    for shard in run.manifest.shards:
        with tarfile.open(shard.url) as tar:
            members = [member for member in tar if member.name.endswith((".jpg", ".png"))]
            images += [loaded.transform(Image.open(io.BytesIO(tar.extractfile(member).read()))) for member in members]
    return torch.stack(images)


def test_a_run_that_was_begun_without_self_attention_goes_on_without(shards, tmp_path, tiny_model):
    config = job(shards, tmp_path / "old", tiny_model)
    worker = ShardWorker(config)
    whole = tuple(name for name in worker.facts.table.components if not name.startswith("self_attention"))
    facts = replace(worker.facts, table=replace(worker.facts.table, components=whole, residual_means=0))
    RunDirectory(config.out).create_or_resume(make_manifest(config, facts, tuple(expand(config.shards))))
    status = run_job(config, LocalPool(config))
    assert status.committed == status.shards == 2
    run = Run(config.out)
    assert run.spec.components == whole
    assert np.isfinite(run.vectors(mlp_column(0)).values).all()
    with pytest.raises(UsageError, match=r"--allocation published: .* was made before residual means were stored"):
        PublishedAllocation.of(run)
