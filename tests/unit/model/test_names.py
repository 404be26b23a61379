"""Which model a name means, in open_clip's spelling and in others', and what is said offline."""

import socket

import pytest

from clipaudit.config import ModelConfig
from clipaudit.errors import UnknownModel, UsageError


@pytest.fixture(scope="module", autouse=True)
def _imports():
    """Imported when the first of these tests runs, so that collecting tests loads nothing heavy."""
    global names, load_model, resolve

    from clipaudit.model import names
    from clipaudit.model.loading import load_model
    from clipaudit.model.names import resolve


@pytest.mark.parametrize(
    ("name", "pretrained", "expected"),
    [
        ("ViT-B-32", "openai", ("ViT-B-32", "openai", None)),
        ("ViT-B/32", "openai", ("ViT-B-32", "openai", None)),
        ("vit-b-32", "openai", ("ViT-B-32", "openai", None)),
        ("ViT-L/14@336px", "openai", ("ViT-L-14-336", "openai", None)),
        ("openai/clip-vit-base-patch32", None, ("ViT-B-32", "openai", None)),
        ("openai/clip-vit-large-patch14-336", None, ("ViT-L-14-336", "openai", None)),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", None, ("ViT-B-32", "laion2b_s34b_b79k", None)),
        ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", None, ("ViT-H-14", "laion2b_s32b_b79k", None)),
        ("ViT-B/32", "random-seed-3", ("ViT-B-32", None, 3)),
        ("openai/clip-vit-base-patch16", "random-seed-1", ("ViT-B-16", None, 1)),
        ("hf-hub:some/body", None, ("hf-hub:some/body", None, None)),
    ],
)
def test_spellings_of_one_model(name, pretrained, expected):
    assert resolve(ModelConfig(name=name, pretrained=pretrained)) == expected


@pytest.mark.parametrize(
    ("name", "pretrained", "error", "words"),
    [
        ("ViT-B-23", None, UnknownModel, "did you mean ViT-B-32"),
        ("some/body", None, UnknownModel, "hf-hub:some/body"),
        ("weights.safetensors", None, UnknownModel, "--pretrained weights.safetensors"),
        ("ViT-B/32", None, UsageError, "--model ViT-B-32 needs --pretrained"),
        ("ViT-B-32", "laion", UnknownModel, "neither a file nor a weight tag"),
        ("hf-hub:some/body", "openai", UsageError, "leave it out"),
    ],
)
def test_what_is_no_model_names_the_right_spelling(name, pretrained, error, words):
    with pytest.raises(error, match=words):
        resolve(ModelConfig(name=name, pretrained=pretrained))


def test_a_weight_file_of_a_model_directory_names_the_directory(tmp_path):
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(UnknownModel, match=f"--model {tmp_path}$"):
        resolve(ModelConfig(name=str(tmp_path / "open_clip_model.safetensors")))


@pytest.mark.parametrize(("name", "pretrained"), [("hf-hub:some/body", None), ("ViT-B-32", "openai")])
def test_without_a_network_one_sentence_says_so_at_once(monkeypatch, tmp_path, name, pretrained):
    asked = []

    def refuse(address, timeout):
        asked.append(address)
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(names, "_proxied", lambda scheme: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"cannot be downloaded: huggingface\.co cannot be reached"):
        load_model(ModelConfig(name=name, pretrained=pretrained, device="cpu"))
    assert asked == [("huggingface.co", 443)], "asked once, no retries"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        load_model(ModelConfig(name=name, pretrained=pretrained, device="cpu"))
    assert len(asked) == 1
