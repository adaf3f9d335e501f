"""Every layer and model that the laws are run on. A new layer is a new line here."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from longstate.layers import (
    DSS,
    EMA,
    GSS,
    H3,
    LRU,
    LSSL,
    S4,
    S4D,
    S4ND,
    S5,
    Attention,
    Bidirectional,
    BidirectionalMamba,
    BidirectionalResidual,
    BidirectionalS5,
    BlockStateTransformer,
    FeedForward,
    GridLayer,
    HippoMemory,
    Hyena,
    LinOSS,
    LongConv,
    Mamba,
    Mamba2,
    Mamba3,
    MixtureOfExperts,
    ParallelHybrid,
    Residual,
    SelectiveScan2d,
    SequenceLayer,
    TwoSided,
)
from longstate.models import (
    AttentionConfig,
    Backbone,
    BackboneConfig,
    BidirectionalClassifierConfig,
    ClassifierConfig,
    FeedForwardConfig,
    H3Config,
    HyenaConfig,
    InputStatistics,
    LanguageModel,
    LanguageModelConfig,
    LayerConfig,
    Mamba2Config,
    MambaConfig,
    MixtureOfExpertsConfig,
    ModelConfig,
    RegressorConfig,
    S4Config,
    S4DConfig,
    StepRegressorConfig,
    TaggerConfig,
    TargetStatistics,
    build,
)
from longstate.theory import RULES

D_MODEL, D_STATE = 4, 8


@dataclass(frozen=True)
class Entry:
    """How to make a layer, and how wide its inputs are. `programs`: export and compile it too, which takes seconds."""

    name: str
    build: Callable[[], SequenceLayer | GridLayer]
    d_input: int = D_MODEL
    programs: bool = False
    vocabulary: int = 0

    def make_input(self, batch: int, length: int) -> Tensor:
        if self.vocabulary:
            return torch.randint(self.vocabulary, (batch, length))
        return torch.randn(batch, length, self.d_input, dtype=torch.float64)

    def __str__(self) -> str:
        return self.name


def _lti(cls: type[S4] | type[S4D], programs: bool = False, **options: object) -> Entry:
    written = ", ".join(str(value) for value in options.values())
    return Entry(f"{cls.__name__}({written})", lambda: cls(D_MODEL, D_STATE, **options), programs=programs)


def _all_rules(cls: type[S4] | type[S4D], inits: tuple[str, ...]) -> list[Entry]:
    """Every init with every rule, and along them the other options in turn, so that all pairs of choices meet."""
    channels, tied, outputs = cycle((1, 2, 3, 1)), cycle((None, 1, 2)), cycle(("glu", "linear"))
    return [
        _lti(cls, init=init, rule=rule, channels=next(channels), n_ssm=next(tied), output=next(outputs))
        for init in inits
        for rule in RULES
    ]


def _s4d(**options: object) -> S4D:
    return S4D(D_MODEL, D_STATE, **options)


def _growing_dss() -> DSS:
    layer = DSS(D_MODEL, D_STATE, form="softmax", l_max=40, n_ssm=None)
    torch.nn.init.uniform_(layer.A_real, -1.0, 9.0)
    return layer


def _hyena(filter_length: int, **options: object) -> Hyena:
    return Hyena(D_MODEL, filter_length=filter_length, filter_order=5, **options)


_FREQUENCY = {"init": "double_exponential", "smooth": "frequency", "smooth_width": 3, "kernel_dropout": 0.2}

CAUSAL_LAYERS = [
    _lti(S4D, programs=True),
    _lti(S4, programs=True),
    _lti(S4D, init="real", rule="bilinear", channels=2, n_ssm=1, output="linear"),
    _lti(S4D, init="inv", rule="dirac", output="none"),
    _lti(S4D, init="legs", n_ssm=2, dropout=0.2),
    _lti(S4, init="fourier", rule="zoh", channels=2, n_ssm=2, output="linear"),
    _lti(S4, b_clip=2.0, output="none"),
    Entry("Mamba", lambda: Mamba(D_MODEL, 3), programs=True),
    Entry("Mamba(weighted, bias)", lambda: Mamba(D_MODEL, 2, dt_rank=2, bias=True, inner_norm="weighted")),
    Entry("Mamba(fixed, d_conv=2)", lambda: Mamba(D_MODEL, 2, d_conv=2, conv_bias=False, inner_norm="fixed")),
    Entry("Mamba2", lambda: Mamba2(D_MODEL, 3, head_dim=4), programs=True),
    Entry("Mamba2(groups, limits)", lambda: Mamba2(D_MODEL, 3, head_dim=2, n_groups=2, dt_floor=0.01, dt_ceiling=0.05)),
    Entry("Mamba2(d_ssm)", lambda: Mamba2(D_MODEL, 2, head_dim=2, d_ssm=4, D_per_channel=True, gate="norm_first")),
    Entry("Mamba2(none)", lambda: Mamba2(D_MODEL, 2, head_dim=2, gate="none", conv_bias=False, bias=True)),
    Entry("Mamba2(d_inner)", lambda: Mamba2(D_MODEL, 2, d_inner=6, head_dim=2, n_groups=3)),
    Entry("Mamba3", lambda: Mamba3(D_MODEL, 4, head_dim=4), programs=True),
    Entry("Mamba3(rank, halves)", lambda: Mamba3(D_MODEL, 4, head_dim=2, rank=3, n_groups=2, pairs="halves")),
    Entry(
        "Mamba3(softplus, norm)",
        lambda: Mamba3(D_MODEL, 4, head_dim=4, rope_fraction=1.0, A_activation="softplus", output_norm=True),
    ),
    Entry("Attention", lambda: Attention(D_MODEL, 2), programs=True),
    Entry("Attention(rotary, grouped)", lambda: Attention(D_MODEL, 4, n_kv_heads=2, head_dim=2, rotary_base=100.0)),
    Entry("Attention(window)", lambda: Attention(D_MODEL, 2, window=5, rotary_base=100.0, bias=True), programs=True),
    Entry(
        "Attention(conv, part rotary)",
        lambda: Attention(
            D_MODEL, 2, n_kv_heads=1, head_dim=4, rotary_base=100.0, rotary_dim=2, d_conv=3, scale=0.3, bias=True
        ),
        programs=True,
    ),
    Entry("Attention(window=2)", lambda: Attention(D_MODEL, 1, window=2)),
    Entry("ParallelHybrid", lambda: ParallelHybrid(D_MODEL, 2, d_state=3, ssm_head_dim=4), programs=True),
    Entry(
        "ParallelHybrid(window, norm)",
        lambda: ParallelHybrid(
            D_MODEL,
            4,
            n_kv_heads=2,
            head_dim=2,
            window=5,
            rotary_base=100.0,
            bias=True,
            d_state=2,
            d_conv=3,
            d_inner=6,
            ssm_head_dim=2,
            n_groups=3,
            dt_floor=0.01,
            gate="norm_first",
            conv_bias=False,
            ssm_bias=True,
        ),
    ),
    Entry("BlockState", lambda: BlockStateTransformer(D_MODEL, 5, n_heads=2, d_state=D_STATE), programs=True),
    Entry(
        "BlockState(multi_head)",
        lambda: BlockStateTransformer(
            D_MODEL, 4, variant="multi_head", n_heads=2, head_dim=2, layer="s4", d_state=6, rotary_base=100.0, bias=True
        ),
    ),
    Entry(
        "BlockState(multi_filter)",
        lambda: BlockStateTransformer(
            D_MODEL, 3, variant="multi_filter", n_heads=1, n_filters=2, d_state=4, n_ssm=1, rotary_base=None
        ),
        programs=True,
    ),
    Entry("BlockState(window=1)", lambda: BlockStateTransformer(D_MODEL, 1, variant="multi_filter", n_heads=2)),
    Entry("FeedForward", lambda: FeedForward(D_MODEL, dropout=0.2), programs=True),
    Entry("FeedForward(swiglu)", lambda: FeedForward(D_MODEL, 6, activation="swiglu", bias=False)),
    Entry("FeedForward(relu2)", lambda: FeedForward(D_MODEL, activation="relu2")),
    Entry("MixtureOfExperts", lambda: MixtureOfExperts(D_MODEL, 6, n_experts=4), programs=True),
    Entry("MixtureOfExperts(shared)", lambda: MixtureOfExperts(D_MODEL, 6, n_experts=3, d_shared=5), programs=True),
    Entry(
        "MixtureOfExperts(sigmoid, latent)",
        lambda: MixtureOfExperts(
            D_MODEL, 5, n_experts=4, activation="relu2", normalise=True, scores="sigmoid", scale=2.5, d_latent=3
        ),
        programs=True,
    ),
    Entry("MixtureOfExperts(normalised)", lambda: MixtureOfExperts(D_MODEL, n_experts=3, top_k=1, activation="gelu")),
    Entry("DSS", lambda: DSS(D_MODEL, D_STATE), programs=True),
    Entry("DSS(lin, glu)", lambda: DSS(D_MODEL, 5, init="lin", channels=2, n_ssm=None, separate_dt=True, output="glu")),
    Entry("DSS(random, none)", lambda: DSS(D_MODEL, D_STATE, init="random", n_ssm=2, dropout=0.2, output="none")),
    Entry("DSS(softmax)", lambda: DSS(D_MODEL, D_STATE, form="softmax", l_max=32), programs=True),
    Entry("DSS(softmax, short)", lambda: DSS(D_MODEL, 3, form="softmax", l_max=7, init="random", separate_dt=True)),
    Entry("DSS(softmax, growing)", _growing_dss),
    Entry("LSSL", lambda: LSSL(D_MODEL, D_STATE), programs=True),
    Entry("LSSL(legt, untied)", lambda: LSSL(D_MODEL, 5, measure="legt", alpha=0.3, n_ssm=None, channels=2)),
    Entry("LSSL(lagt, zoh)", lambda: LSSL(D_MODEL, 6, measure="lagt", rule="zoh", n_ssm=2, output="none")),
    Entry("LSSL(fixed)", lambda: LSSL(D_MODEL, D_STATE, trainable=False, dropout=0.2, output="glu"), programs=True),
    Entry("LSSL(fixed, fourier)", lambda: LSSL(D_MODEL, 6, measure="fourier", alpha=1.0, trainable=False)),
    Entry("GSS", lambda: GSS(D_MODEL, d_ssm=3, d_state=D_STATE), programs=True),
    Entry("GSS(narrow gate)", lambda: GSS(D_MODEL, d_inner=2, d_ssm=6, d_state=3)),
    Entry("Residual(GSS)", lambda: Residual(GSS(D_MODEL, d_ssm=4, d_state=5))),
    Entry("S5", lambda: S5(D_MODEL, D_STATE), programs=True),
    Entry("S5(blocks, bilinear, none)", lambda: S5(D_MODEL, D_STATE, blocks=2, rule="bilinear", output="none")),
    Entry("S5(all modes, dirac, gelu)", lambda: S5(D_MODEL, 6, rule="dirac", conj_sym=False, output="gelu")),
    Entry("S5(complex, half_glu2)", lambda: S5(D_MODEL, D_STATE, c_init="complex_normal", output="half_glu2")),
    Entry("S5(clipped, full_glu)", lambda: S5(D_MODEL, D_STATE, clip_eigs=True, dropout=0.2, output="full_glu")),
    Entry("HippoMemory", lambda: HippoMemory(D_MODEL, D_STATE), programs=True),
    Entry("HippoMemory(bilinear)", lambda: HippoMemory(D_MODEL, 5, rule="bilinear")),
    Entry("HippoMemory(backward_euler)", lambda: HippoMemory(D_MODEL, D_STATE, rule="backward_euler")),
    Entry("HippoMemory(euler)", lambda: HippoMemory(D_MODEL, 3, rule="euler")),
    Entry("HippoMemory(legt)", lambda: HippoMemory(D_MODEL, D_STATE, measure="legt", window=9), programs=True),
    Entry("HippoMemory(lmu, bilinear)", lambda: HippoMemory(D_MODEL, 5, measure="lmu", window=6.5, rule="bilinear")),
    Entry("HippoMemory(fading legs)", lambda: HippoMemory(D_MODEL, 4, window=3.0)),
    Entry("HippoMemory(glagt)", lambda: HippoMemory(D_MODEL, 4, measure="glagt", window=5, alpha=0.3, beta=0.5)),
    Entry(
        "HippoMemory(fourier, euler)", lambda: HippoMemory(1, 4, measure="fourier2", window=90, rule="euler"), d_input=1
    ),
    Entry("LRU", lambda: LRU(D_MODEL, D_STATE), programs=True),
    Entry("LRU(ring, none)", lambda: LRU(D_MODEL, 3, r_min=0.9, r_max=0.99, max_phase=0.5, output="none")),
    Entry("LinOSS(im)", lambda: LinOSS(D_MODEL, D_STATE), programs=True),
    Entry("LinOSS(imex)", lambda: LinOSS(D_MODEL, 3, rule="imex", output="linear")),
    Entry("LinOSS(damped)", lambda: LinOSS(D_MODEL, 5, rule="damped", output="none", dropout=0.2)),
    Entry("EMA", lambda: EMA(D_MODEL, D_STATE), programs=True),
    Entry("EMA(no residual)", lambda: EMA(D_MODEL, 3, residual=False, dropout=0.2, output="linear")),
    Entry("H3", lambda: H3(D_MODEL, D_STATE), programs=True),
    Entry("H3(heads, zoh, tied)", lambda: H3(6, D_STATE, head_dim=2, rule="zoh", n_ssm=1), d_input=6),
    Entry("H3(one head, real)", lambda: H3(D_MODEL, 3, head_dim=4, init="real"), programs=True),
    Entry("H3(d_state=30)", lambda: H3(D_MODEL, 30, init="inv")),
    Entry("Hyena", lambda: _hyena(filter_length=7), programs=True),
    Entry("Hyena(order=3)", lambda: _hyena(filter_length=40, order=3, shift=0.05, emb_dim=5, num_inner_mlps=1)),
    Entry("Hyena(order=4)", lambda: _hyena(filter_length=12, order=4, short_width=4, dropout=0.2, frequency=10.0)),
    Entry("Hyena(no windows)", lambda: _hyena(filter_length=1, short_width=1)),
    Entry("LongConv", lambda: LongConv(D_MODEL, filter_length=7)),
    Entry("LongConv(time)", lambda: LongConv(D_MODEL, filter_length=40, smooth="time", channels=2, squash=0.0)),
    Entry("LongConv(frequency)", lambda: LongConv(D_MODEL, filter_length=9, **_FREQUENCY), programs=True),
    Entry("S4D(1, 2)", lambda: S4D(1, 2, dt_min=0.5, dt_max=2.0), d_input=1),
    Entry("Residual(layer)", lambda: Residual(_s4d())),
    Entry("Residual(rms)", lambda: Residual(_s4d(), norm="rms", dropout=0.2, scale=0.3)),
    Entry("Residual(Residual)", lambda: Residual(Residual(_s4d(init="real")), norm="batch")),
]

COMBINATIONS = [
    *_all_rules(S4D, ("lin", "inv", "legs", "random", "real")),
    *_all_rules(S4, ("legs", "legt", "lagt", "fourier")),
    _lti(S4D, init="inv2", b_init="unit_cw"),
    _lti(S4D, init="quad", b_init="unit_ccw"),
    _lti(S4D, init="diag", b_init="random", n_ssm=2),
    _lti(S4D, init="real", b_init="alternating", real_random=True),
    *[_lti(S4, init=init) for init in ("legsd", "tlagt", "glagt", "fourier_decay", "fourier2", "foud")],
    *[_lti(S4, init=init, rule="zoh") for init in ("hippo", "diag", "all")],
]
"""More of the same layers, for the laws about numbers only."""

BIDIRECTIONAL_LAYERS = [
    Entry("BidirectionalMamba", lambda: BidirectionalMamba(D_MODEL, 3), programs=True),
    Entry("Bidirectional", lambda: Bidirectional(_s4d(), _s4d(channels=2)), programs=True),
    Entry("Bidirectional(strict)", lambda: Bidirectional(_s4d(), S4(D_MODEL, D_STATE), strict=True)),
    Entry("TwoSided", lambda: TwoSided(_s4d(output="none"), _s4d(output="none", init="real")), programs=True),
    Entry("BidirectionalS5", lambda: BidirectionalS5(D_MODEL, D_STATE), programs=True),
    Entry("BidirectionalS5(euler)", lambda: BidirectionalS5(D_MODEL, 6, rule="euler", conj_sym=False, output="gelu")),
    Entry("BidirectionalResidual(batch)", lambda: BidirectionalResidual(Bidirectional(_s4d(), _s4d()), norm="batch")),
]

GRID_LAYERS = [
    Entry("S4ND", lambda: S4ND(D_MODEL, 4), programs=True),
    Entry("S4ND(s4, rank)", lambda: S4ND(3, 4, layer="s4", rank=2, bandlimit=0.3, output="linear")),
    Entry("S4ND(1)", lambda: S4ND(3, 4, dim=1, n_ssm=1, rule="bilinear", dropout=0.2)),
    Entry("S4ND(3)", lambda: S4ND(2, 4, dim=3, bidirectional=(False, True, True), output="none"), programs=True),
    Entry("S4ND(real)", lambda: S4ND(3, 3, init="real", bidirectional=False, rank=2)),
    Entry("SelectiveScan2d", lambda: SelectiveScan2d(D_MODEL, 2, expand=1.0, conv_bias=False), programs=True),
    Entry("SelectiveScan2d(none)", lambda: SelectiveScan2d(3, 1, gate="none", dt_rank=2, norm="none", dropout=0.2)),
    Entry("SelectiveScan2d(linear)", lambda: SelectiveScan2d(2, 1, expand=1.5, d_conv=1, gate="linear", bias=True)),
]
"""Layers over grids, for the laws of `check_grid_layer`."""

_CLASSES = ("rest", "walk")
_RAW = InputStatistics(shift=(0.1, -2.0, 0.0), scale=(2.0, 0.5, 1.0))
_UNITS = TargetStatistics(shift=(20.0,), scale=(3.0,))


def _stack(layer: LayerConfig, norm: str = "layer", dropout: float = 0.1, n_layers: int = 2) -> BackboneConfig:
    return BackboneConfig(d_model=D_MODEL, n_layers=n_layers, layer=layer, norm=norm, dropout=dropout)


def _model(name: str, config: ModelConfig, programs: bool = False) -> Entry:
    return Entry(name, lambda: build(config), d_input=3, programs=programs)


_S4D, _S4 = S4DConfig(d_state=D_STATE), S4Config(d_state=D_STATE)


def _language_model(name: str, pattern: tuple[LayerConfig, ...], programs: bool = False, **options: Any) -> Entry:
    backbone = BackboneConfig(d_model=D_MODEL, n_layers=1, pattern=pattern, norm="rms", dropout=0.1)
    config = LanguageModelConfig(vocabulary_size=7, backbone=backbone, tokenizer="tokenizer.json", **options)
    return Entry(name, lambda: LanguageModel(config), programs=programs, vocabulary=7)


MODELS = [
    _model(
        "classifier(mean)",
        ClassifierConfig(d_input=3, classes=_CLASSES, backbone=_stack(_S4D, n_layers=1), statistics=_RAW),
        programs=True,
    ),
    _model(
        "classifier(last, batch)",
        ClassifierConfig(d_input=3, classes=_CLASSES, backbone=_stack(_S4, "batch", dropout=0.0), pooling="last"),
    ),
    _model("tagger(rms)", TaggerConfig(d_input=3, classes=_CLASSES, backbone=_stack(_S4, "rms"), statistics=_RAW)),
    _model(
        "regressor(batch)",
        RegressorConfig(
            d_input=3, targets=("age",), backbone=_stack(_S4D, "batch", dropout=0.0), target_statistics=_UNITS
        ),
    ),
    _model(
        "step_regressor",
        StepRegressorConfig(d_input=3, targets=("level", "slope"), backbone=_stack(_S4D), statistics=_RAW),
        programs=True,
    ),
    _model(
        "bidirectional_classifier(mean)",
        BidirectionalClassifierConfig(d_input=3, classes=_CLASSES, backbone=_stack(_S4D), statistics=_RAW),
    ),
    _model(
        "bidirectional_classifier(last, batch)",
        BidirectionalClassifierConfig(
            d_input=3, classes=_CLASSES, backbone=_stack(_S4, "batch", dropout=0.0), pooling="last"
        ),
    ),
    Entry("Backbone", lambda: Backbone(_stack(_S4D, "rms"))),
    _language_model("language_model", (MambaConfig(d_state=2),), programs=True),
    _language_model(
        "language_model(hybrid)",
        (
            Mamba2Config(d_state=2, head_dim=4),
            MixtureOfExpertsConfig(d_inner=4, n_experts=3),
            AttentionConfig(n_heads=2, n_kv_heads=1, rotary_base=100.0),
            FeedForwardConfig(activation="swiglu", d_inner=6),
        ),
        tie_head=False,
        vocabulary_multiple=8,
        embedding_scale=2.0,
        logit_scale=0.25,
    ),
    _language_model(
        "language_model(convolutions)", (H3Config(d_state=4), HyenaConfig(filter_length=7, filter_order=4))
    ),
]

ALL = [*CAUSAL_LAYERS, *BIDIRECTIONAL_LAYERS, *MODELS]
