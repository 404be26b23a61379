"""Recognises an image tower and describes it, or refuses it with the reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeAlias

import timm.layers as timm_layers
import timm.models.eva as timm_eva
import timm.models.vision_transformer as timm_vit
import timm.models.vision_transformer_relpos as timm_relpos
import torch
from open_clip import transformer as oc
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from clipaudit.errors import UnsupportedTower

Pooling: TypeAlias = Literal["token", "average", "attention"]

# Exact types only: a subclass may compute something else, and nothing may fall through.
LINEARS = (nn.Linear, NonDynamicallyQuantizableLinear)
_NORMS = (nn.LayerNorm, oc.LayerNorm, oc.LayerNormFp32, timm_layers.LayerNorm, timm_layers.LayerNormFp32)
_SCALES = (oc.LayerScale, timm_layers.LayerScale)
_PRE_NORM = (timm_vit.Block, timm_relpos.RelPosBlock)
_POST_NORM = (timm_vit.ResPostBlock, timm_relpos.ResPostRelPosBlock, timm_eva.EvaBlockPostNorm)
_ATTENTIONS = (
    timm_layers.Attention,
    timm_layers.AttentionRope,
    timm_eva.EvaAttention,
    timm_relpos.RelPosAttention,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """One residual block: x + attention(x), then x + mlp(x). Holds the model's own modules."""

    module: nn.Module
    """The block itself; its attention is the attribute `attn`."""
    attention: nn.Module
    out: nn.Linear
    """Output projection of the attention."""
    norm: nn.Module
    """Normalises the tokens before the attention; Identity in post-norm blocks."""
    inner_norm: nn.LayerNorm | None = None
    """LayerNorm over all heads between attention and output projection (EVA-02 B and L)."""
    post_norm: nn.LayerNorm | None = None
    """LayerNorm between output projection and residual stream (EVA-02 E)."""
    gamma: nn.Parameter | None = None
    """LayerScale of the attention branch."""
    mlp: nn.Module
    """The module whose output, times `mlp_gamma`, is what the MLP branch adds to the residual stream."""
    mlp_gamma: nn.Parameter | None = None

    @property
    def scaled(self) -> bool:
        """Whether a LayerNorm inside the attention branch scales it per token."""
        return self.inner_norm is not None or self.post_norm is not None


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionPool:
    """A learned query that reads all tokens behind the last norm. Holds the model's own modules."""

    module: nn.Module
    """timm's AttentionPoolLatent or open_clip's AttentionalPooler."""
    heads: int
    out: nn.Linear
    """Output projection of its attention."""
    mlp: nn.Module | None = None
    """The module whose output is added to what the attention gives."""
    post_norm: nn.LayerNorm | None = None
    """LayerNorm behind the pool."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Tower:
    """A supported image tower: its shape, and the modules that the decomposition needs.

    >>> describe_tower(load_model("demo").model).family
    'open_clip ViT'
    """

    family: str
    layers: int
    heads: int
    head_dim: int
    width: int
    """Length d of the residual stream."""
    embed_dim: int
    """Length D of the image embedding."""
    tokens: int
    """Tokens that attention reads, prefix tokens (class, registers) included."""
    prefix_tokens: int
    grid: tuple[int, int]
    """Rows and columns of patch tokens."""
    image_size: tuple[int, int]
    """Height and width of the input in pixels."""
    pooling: Pooling
    pool_start: int
    """First pooled token: 0 for the class token, the number of skipped prefix tokens for average pooling."""
    norm_before_pool: bool
    """Whether the last LayerNorm sees every token (then average pooling weighs tokens by 1/sigma)."""
    visual: nn.Module = field(repr=False)
    """The image tower itself."""
    container: nn.Module = field(repr=False)
    """Holds the blocks under the names "0", "1", ..."""
    blocks: tuple[Block, ...] = field(repr=False)
    norm: nn.LayerNorm = field(repr=False)
    """The last LayerNorm (ln_post)."""
    head: tuple[nn.Linear | nn.Parameter, ...] = field(repr=False)
    """Linear maps behind the pool: Linear modules, or a (width, embed_dim) matrix."""
    pool: AttentionPool | None = field(default=None, repr=False)
    """The pool of a tower whose pooling is `attention`; `norm` stands before it."""

    @property
    def keeps_rows(self) -> bool:
        """Whether every pooled token's row must be kept until its weight is known at the end of the forward pass."""
        per_token = self.norm_before_pool or any(block.scaled for block in self.blocks)
        return self.pooling == "attention" or (self.pooling == "average" and per_token)

    def parameter(self) -> torch.Tensor:
        """A parameter of the tower, (width, width): tells its device and dtype."""
        return self.blocks[0].out.weight


def describe_tower(model: nn.Module) -> Tower:
    """Recognise the image tower of an open_clip model.

    Args:
        model: an open_clip model, or its `visual` tower.

    Raises:
        UnsupportedTower: the tower cannot be decomposed exactly; the message is one sentence with the reason.

    >>> tower = describe_tower(load_model("demo").model)
    >>> tower.layers, tower.heads, tower.head_dim, tower.pooling
    (6, 4, 32, 'token')
    """
    visual = getattr(model, "visual", model)
    if not isinstance(visual, nn.Module):
        _refuse(f"{type(model).__name__} has no image tower")
    if any("forward" in vars(module) for module in visual.modules()):
        _refuse("the forward method of one of its modules was replaced")
    if type(visual) is oc.VisionTransformer:
        return _describe_open_clip(visual)
    if type(visual) is TimmModel:
        return _describe_timm(visual)
    if type(visual) is ModifiedResNet:
        _refuse("ModifiedResNet is a convolutional tower, which has no sum over attention heads")
    _refuse(f"{type(visual).__module__}.{type(visual).__name__} is not a tower that clipaudit knows")


def _refuse(reason: str) -> NoReturn:
    raise UnsupportedTower(f"this image tower cannot be decomposed exactly: {reason}")


def _describe_open_clip(visual: oc.VisionTransformer) -> Tower:
    if visual.pool_type not in ("tok", "avg"):
        _refuse(f"pool_type {visual.pool_type!r} is neither class-token nor average pooling")
    if not visual.transformer.batch_first:
        _refuse("its blocks expect the sequence before the batch")
    pooling: Pooling = "token" if visual.pool_type == "tok" else "average"
    pool = None if visual.attn_pool is None else _open_clip_pool(visual)
    if type(visual.ln_pre) not in (*_NORMS, nn.Identity):
        _refuse(f"ln_pre is a {type(visual.ln_pre).__name__}, not a LayerNorm")
    blocks = tuple(_open_clip_block(block) for block in visual.transformer.resblocks)
    rows, columns = visual.grid_size
    return _tower(
        family="open_clip ViT",
        blocks=blocks,
        tokens=rows * columns + 1,
        prefix_tokens=1,
        grid=(rows, columns),
        image_size=tuple(visual.image_size),
        pooling="attention" if pool is not None else pooling,
        pool_start=int(pooling == "average" and pool is None),
        norm_before_pool=pool is not None or not visual.final_ln_after_pool,
        visual=visual,
        container=visual.transformer.resblocks,
        norm=_layer_norm(visual.ln_post, "ln_post") if pool is None else _layer_norm(visual.attn_pool.ln_k, "ln_k"),
        head=() if visual.proj is None else (visual.proj,),
        pool=pool,
    )


def _open_clip_pool(visual: oc.VisionTransformer) -> AttentionPool:
    """CoCa's pool, of whose queries the first gives the embedding."""
    pool = visual.attn_pool
    if type(pool) is not oc.AttentionalPooler or visual.attn_pool_contrastive is not None or visual.pool_type != "tok":
        _refuse("its attention pool is not one query's attention and a LayerNorm")
    attention = pool.attn
    if type(attention) is not nn.MultiheadAttention or attention.in_proj_bias is None or attention.bias_k is not None:
        _refuse("the attention of its pool is not a plain nn.MultiheadAttention")
    return AttentionPool(
        module=pool,
        heads=attention.num_heads,
        out=_linear(attention.out_proj, "the pool's out_proj"),
        post_norm=_layer_norm(visual.ln_post, "ln_post"),
    )


def _open_clip_block(block: oc.ResidualAttentionBlock) -> Block:
    if type(block) is not oc.ResidualAttentionBlock or hasattr(block, "ln_1_kv"):
        _refuse(f"{type(block).__name__} is not open_clip's standard residual block")
    attention = block.attn
    if type(attention) is not nn.MultiheadAttention or not attention.batch_first:
        _refuse(f"its attention is a {type(attention).__name__}, not a batch-first nn.MultiheadAttention")
    if not attention._qkv_same_embed_dim or attention.bias_k is not None or attention.add_zero_attn:
        _refuse("its nn.MultiheadAttention has separate inputs or extra keys")
    return Block(
        module=block,
        attention=attention,
        out=_linear(attention.out_proj, "out_proj"),
        norm=_layer_norm(block.ln_1, "ln_1"),
        gamma=_layer_scale(block.ls_1),
        mlp=block.ls_2,
    )


def _describe_timm(visual: TimmModel) -> Tower:
    trunk = visual.trunk
    kind = type(trunk)
    if kind not in (timm_vit.VisionTransformer, timm_eva.Eva, timm_relpos.VisionTransformerRelPos):
        _refuse(f"timm's {kind.__name__} is not a plain ViT: convolutions or windows stand between its attention heads")
    pool = trunk.global_pool
    attention_pool = None
    if getattr(trunk, "attn_pool", None) is not None:
        attention_pool = _timm_pool(trunk.attn_pool)
    elif pool not in ("token", "avg"):
        _refuse(f"global_pool {pool!r} is neither class-token, average nor attention pooling")
    if type(getattr(trunk, "norm_pre", nn.Identity())) not in (*_NORMS, nn.Identity):
        _refuse(f"norm_pre is a {type(trunk.norm_pre).__name__}, not a LayerNorm")
    norms = [norm for norm in (trunk.norm, trunk.fc_norm) if type(norm) is not nn.Identity]
    if len(norms) != 1:
        _refuse(f"it has {len(norms)} LayerNorms behind the last block instead of one")
    if attention_pool is not None and norms[0] is not trunk.norm:
        _refuse("its LayerNorm stands behind the attention pool")
    pooling: Pooling = "token" if pool == "token" else "average"
    if attention_pool is not None:
        pooling = "attention"
    skip = 0 if pooling != "average" or getattr(trunk, "pool_include_prefix", False) else trunk.num_prefix_tokens
    rows, columns = trunk.patch_embed.grid_size
    return _tower(
        family=f"timm {kind.__name__}",
        blocks=tuple(_timm_block(block) for block in trunk.blocks),
        tokens=rows * columns + trunk.num_prefix_tokens,
        prefix_tokens=trunk.num_prefix_tokens,
        grid=(rows, columns),
        image_size=tuple(trunk.patch_embed.img_size),
        pooling=pooling,
        pool_start=skip,
        norm_before_pool=norms[0] is trunk.norm,
        visual=visual,
        container=trunk.blocks,
        norm=_layer_norm(norms[0], "the last norm"),
        head=_timm_head(trunk.head, *visual.head),
        pool=attention_pool,
    )


def _timm_pool(pool: Any) -> AttentionPool:  # noqa: ANN401 - timm's types are unknown here
    """SigLIP's and PE-Core's pool."""
    if type(pool) is not timm_layers.AttentionPoolLatent:
        _refuse(f"its attention pool is a {type(pool).__name__}")
    if pool.latent_len != 1 or pool.pos_embed is not None or pool.pool != "token":
        _refuse("its attention pool has several queries or positions of its own")
    for norm in (pool.q_norm, pool.k_norm):
        _optional_norm(norm, "a norm in the attention pool")
    return AttentionPool(module=pool, heads=pool.num_heads, out=_linear(pool.proj, "the pool's proj"), mlp=pool.mlp)


def _timm_block(block: timm_vit.Block) -> Block:
    kind = type(block)
    if kind not in (*_PRE_NORM, *_POST_NORM, timm_eva.EvaBlock):
        _refuse(f"timm's {kind.__name__} is not a residual block that clipaudit knows")
    attention = block.attn
    if type(attention) not in _ATTENTIONS:
        _refuse(f"its attention is a {type(attention).__name__}")
    if getattr(attention, "gate", None) is not None or getattr(attention, "num_kv_groups", 1) != 1:
        _refuse("its attention is gated or shares keys between heads")
    inner = _optional_norm(getattr(attention, "norm", None), "the norm inside the attention")
    post = None
    gamma = mlp_gamma = None
    mlp = block.mlp
    if kind in _POST_NORM:
        if inner is not None:
            _refuse("its attention branch has two LayerNorms")
        post, mlp = _layer_norm(block.norm1, "norm1"), block.norm2
    elif kind is timm_eva.EvaBlock:
        gamma, mlp_gamma = block.gamma_1, block.gamma_2
    else:
        gamma, mlp = _layer_scale(block.ls1), block.ls2
    return Block(
        module=block,
        attention=attention,
        out=_linear(attention.proj, "the attention's proj"),
        norm=nn.Identity() if post is not None else block.norm1,
        inner_norm=inner,
        post_norm=post,
        gamma=gamma,
        mlp=mlp,
        mlp_gamma=mlp_gamma,
    )


def _timm_head(*modules: nn.Module) -> tuple[nn.Linear, ...]:
    linears = []
    for module in modules:
        if type(module) in LINEARS:
            linears.append(_linear(module, "head"))
        elif type(module) not in (nn.Identity, nn.Dropout):
            _refuse(f"the {type(module).__name__} behind the pool is not linear")
    return tuple(linears)


def _tower(*, blocks: tuple[Block, ...], head: tuple[nn.Linear | nn.Parameter, ...], **facts: Any) -> Tower:
    """Fill in the sizes, which must be the same in every block."""
    if not blocks:
        _refuse("it has no blocks")
    if facts.get("pool") is not None and any(block.scaled for block in blocks):
        _refuse("it pools by attention, and its blocks have LayerNorms in their attention branches")
    sizes = {(int(b.attention.num_heads), b.out.in_features, b.out.out_features) for b in blocks}  # type: ignore[arg-type]
    if len(sizes) != 1:
        _refuse("its blocks differ in size")
    heads, inner, width = sizes.pop()
    embed_dim = width if facts.get("pool") is None else facts["pool"].out.out_features
    for step in head:
        embed_dim = step.out_features if isinstance(step, nn.Linear) else step.shape[1]
    return Tower(
        blocks=blocks,
        head=head,
        layers=len(blocks),
        heads=heads,
        head_dim=inner // heads,
        width=width,
        embed_dim=embed_dim,
        **facts,
    )


def _linear(module: nn.Module, name: str) -> nn.Linear:
    if type(module) not in LINEARS:
        _refuse(f"{name} is a {type(module).__name__}, not a Linear")
    assert isinstance(module, nn.Linear)
    return module


def _layer_norm(module: nn.Module, name: str) -> nn.LayerNorm:
    if type(module) not in _NORMS:
        _refuse(f"{name} is a {type(module).__name__}, not a LayerNorm")
    assert isinstance(module, nn.LayerNorm)
    return module


def _optional_norm(module: nn.Module | None, name: str) -> nn.LayerNorm | None:
    return None if module is None or type(module) is nn.Identity else _layer_norm(module, name)


def _layer_scale(module: nn.Module) -> nn.Parameter | None:
    if type(module) is nn.Identity:
        return None
    if type(module) not in _SCALES:
        _refuse(f"its layer scale is a {type(module).__name__}")
    gamma = module.gamma
    assert isinstance(gamma, nn.Parameter)
    return gamma
