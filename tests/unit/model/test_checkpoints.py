"""Weight files as training code leaves them: what loads, what is named, and how their images are prepared."""

import pytest

from clipaudit.config import ModelConfig
from clipaudit.errors import UsageError


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global open_clip, torch, load_file, save_file, load_model, CONFIG, WEIGHTS, unpack

    import open_clip
    import torch
    from safetensors.torch import load_file, save_file

    from clipaudit.model.bundled import CONFIG, WEIGHTS, unpack
    from clipaudit.model.loading import load_model


@pytest.fixture(scope="module")
def weights(_imports):
    return {name: value.float() for name, value in load_file(str(unpack() / WEIGHTS)).items()}


def model_directory(folder, weights, name="open_clip_pytorch_model.bin", **config):
    """An open_clip directory of the demo model's architecture with these weights."""
    folder.mkdir()
    text = (unpack() / CONFIG).read_text()
    for key, value in config.items():
        text = text.replace(f'"{key}": 64', f'"{key}": {value}')
    (folder / CONFIG).write_text(text)
    if name.endswith(".bin"):
        torch.save(weights, folder / name)
    else:
        save_file(weights, folder / name)
    return str(folder)


def loaded(path):
    return load_model(ModelConfig(name=path, device="cpu"))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod.", "model._orig_mod."])
def test_prefixes_of_training_code_are_taken_off(tmp_path, weights, prefix):
    state = {"epoch": 3, "state_dict": {prefix + name: value for name, value in weights.items()}}
    assert loaded(model_directory(tmp_path / "m", state)).fingerprint == load_model("demo", device="cpu").fingerprint


def test_a_checkpoint_of_the_image_encoder_alone_is_told(tmp_path, weights):
    image = {name: value for name, value in weights.items() if name.startswith("visual.")}
    with pytest.raises(UsageError, match=r"holds the image encoder alone.*; missing: .* and \d+ more$"):
        loaded(model_directory(tmp_path / "m", image))


def test_names_and_shapes_that_do_not_fit_are_named(tmp_path, weights):
    other = {name.replace("visual.proj", "visual.projection"): value for name, value in weights.items()}
    with pytest.raises(UsageError, match=r"missing: visual\.proj; unexpected: visual\.projection$"):
        loaded(model_directory(tmp_path / "names", other))
    smaller = {**weights, "visual.proj": weights["visual.proj"][:, :5].clone()}
    with pytest.raises(UsageError, match=r"visual\.proj is \[128, 5\], the model's is \[128, 128\]"):
        loaded(model_directory(tmp_path / "sizes", smaller))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_the_users_mistake(tmp_path, weights, number):
    changed = {**weights, "visual.proj": weights["visual.proj"].clone()}
    changed["visual.proj"].view(-1)[0] = number
    with pytest.raises(UsageError, match=r"not finite numbers, in visual\.proj"):
        loaded(model_directory(tmp_path / "m", changed, WEIGHTS))


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_weights_load_at_another_image_size(tmp_path, weights, half):
    halves = {name: value.to(getattr(torch, half)) for name, value in weights.items()}
    model = loaded(model_directory(tmp_path / "m", halves, WEIGHTS, image_size=96))
    assert model.model.visual.image_size in (96, (96, 96))
    assert all(value.dtype == torch.float32 for value in model.model.state_dict().values() if value.is_floating_point())


# -- how images are prepared for a checkpoint file ---------------------------------------------------------------------


@pytest.fixture
def file_of(monkeypatch, tmp_path):
    """A checkpoint file that open_clip's loader of weights leaves alone: only the preparation is looked at."""
    monkeypatch.setattr("open_clip.factory.load_checkpoint", lambda *given, **options: {})
    monkeypatch.setattr("clipaudit.model.loading.not_finite", lambda model: iter(()))
    monkeypatch.setattr("clipaudit.model.loading._weights_digest", lambda *given: "0")
    real = open_clip.factory.get_model_config

    def small(name):
        config = real(name)
        if config:
            config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = 1
        return config

    monkeypatch.setattr("open_clip.factory.get_model_config", small)
    path = tmp_path / "weights.pt"
    path.write_bytes(b"x")
    return str(path)


def preparation(name, path, **options):
    settings = load_model(ModelConfig(name=name, pretrained=path, device="cpu", **options)).description["preprocess"]
    return settings["mean"], settings["std"], settings["resize_mode"], settings["interpolation"]


HALF, OPENAI = [0.5] * 3, ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


def test_a_checkpoint_file_is_prepared_as_all_published_weights_of_its_name(file_of):
    assert preparation("ViT-S-32", file_of) == (*OPENAI, "shortest", "bicubic")
    assert preparation("ViT-B-32", file_of) == (*OPENAI, "shortest", "bicubic")


def test_siglip_files_are_squashed_and_centred(file_of):
    from clipaudit.model.preprocessing import chosen

    config = ModelConfig(name="ViT-B-16-SigLIP", pretrained=file_of)
    half = (0.5, 0.5, 0.5)
    assert chosen("ViT-B-16-SigLIP", file_of, config) == {
        "mean": half, "std": half, "resize_mode": "squash", "interpolation": "bicubic"
    }  # fmt: skip


def test_where_published_weights_differ_the_user_is_asked(file_of):
    with pytest.raises(UsageError, match=r"ViT-L-14 are prepared in different ways .*give --image-mean --image-std$"):
        preparation("ViT-L-14", file_of)
    with pytest.raises(UsageError, match=r"give --image-std$"):
        preparation("ViT-L-14", file_of, image_mean=(0.5, 0.5, 0.5))
    half = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
    assert preparation("ViT-L-14", file_of, **half) == (HALF, HALF, "shortest", "bicubic")


def test_the_options_win_and_join_the_runs_identity(tmp_path):
    from clipaudit.config import JobConfig

    given = {"image_mean": (0.1, 0.2, 0.3), "image_resize": "squash"}
    config = ModelConfig(name="demo", device="cpu", **given)
    assert load_model(config).description["preprocess"]["mean"] == [0.1, 0.2, 0.3]
    assert load_model(config).fingerprint != load_model("demo", device="cpu").fingerprint
    plain = JobConfig(shards=("a.tar",), out=str(tmp_path), model=ModelConfig(name="demo")).identity()
    stored = JobConfig(shards=("a.tar",), out=str(tmp_path), model=config).identity()
    assert not [name for name in plain if name.startswith("image_")], "runs of before resume"
    assert ModelConfig.of_run(stored, device="cpu") == config
