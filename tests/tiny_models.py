"""Tiny random language models of transformers, the oracle of `longstate.pretrained`, saved as it saves them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "eos_token_id": None, "pad_token_id": 0}
HEADS = {"num_heads": 4, "head_dim": 8}
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2}
JAMBA = {"num_hidden_layers": 4, "intermediate_size": 24, "attn_layer_period": 4, "attn_layer_offset": 2, **ATTENTION}
ROPE = {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5}
MIXED = ["linear_attention", "full_attention"]
BAMBA = {"intermediate_size": 24, "mamba_d_state": 4, "mamba_n_heads": 4, "rope_parameters": ROPE, **ATTENTION}
GRANITE = {"intermediate_size": 24, "shared_intermediate_size": 20, "mamba_d_state": 4, "mamba_n_heads": 4, **ATTENTION}
GRANITE |= {"embedding_multiplier": 3, "logits_scaling": 6.0, "residual_multiplier": 0.3, "attention_multiplier": 0.5}
NEMOTRON = {"head_dim": 8, "intermediate_size": 24, "ssm_state_size": 4, "mamba_num_heads": 6, "mamba_head_dim": 4}
TIED = {"tie_word_embeddings": True}
BIASES = {"mlp_bias": True, "use_bias": True}
NEMOTRON |= {"n_groups": 2, **ATTENTION}
EXPERTS = {"n_routed_experts": 5, "moe_intermediate_size": 12, "moe_shared_expert_intermediate_size": 14}
EXPERTS |= {"routed_scaling_factor": 2.5}
FALCON_H1 = {"intermediate_size": 24, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_state": 4, "mamba_n_groups": 2}
FALCON_H1 |= {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}, **ATTENTION}
MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "lm_head_multiplier": 0.4,
    "key_multiplier": 0.7,
    "mlp_multipliers": [0.8, 0.3],
}
MULTIPLIERS |= {"attention_in_multiplier": 1.3, "attention_out_multiplier": 0.9, "ssm_in_multiplier": 1.2}
MULTIPLIERS |= {"ssm_out_multiplier": 0.6, "ssm_multipliers": [0.7, 0.6, 1.4, 0.9, 0.5]}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("Mamba", {"state_size": 4}),
    "mamba, all biases": ("Mamba", {"state_size": 3, "use_bias": True, "use_conv_bias": False, "conv_kernel": 2}),
    "mamba, own head": ("Mamba", {"tie_word_embeddings": False, "expand": 1, "time_step_rank": 3}),
    "mamba, narrow sum": ("Mamba", {"residual_in_fp32": False, "layer_norm_epsilon": 1e-3}),
    "falcon_mamba": ("FalconMamba", {"state_size": 4, "tie_word_embeddings": False, "mixer_rms_eps": 1e-2}),
    "falcon_mamba, tied": ("FalconMamba", {"use_bias": True, "time_step_rank": 2}),
    "mamba2": ("Mamba2", {"state_size": 6, "n_groups": 1, "chunk_size": 4, **HEADS}),
    "mamba2, groups": ("Mamba2", {"state_size": 5, "n_groups": 2, "tie_word_embeddings": True, **HEADS}),
    "mamba2, limits": ("Mamba2", {"n_groups": 4, "time_step_limit": (0.01, 0.05), "use_bias": True, **HEADS}),
    "jamba": ("Jamba", {"mamba_d_state": 4, "num_experts": 4, **JAMBA}),
    "jamba, dense": ("Jamba", {"mamba_d_state": 4, "num_experts": 1, "mamba_proj_bias": True, **JAMBA}),
    "jamba, one expert": ("Jamba", {"num_experts": 3, "num_experts_per_tok": 1, "mamba_dt_rank": 2, **JAMBA}),
    "bamba": ("Bamba", {**BAMBA, "mamba_n_groups": 2, "attn_layer_indices": [1]}),
    "bamba, biases": ("Bamba", {**BAMBA, "attn_layer_indices": [0], "attention_bias": True, "mlp_bias": True}),
    "granite": ("GraniteMoeHybrid", {**GRANITE, "num_local_experts": 3, "layer_types": MIXED}),
    "granite, dense": ("GraniteMoeHybrid", {**GRANITE, "num_local_experts": 0, **TIED, "layer_types": MIXED[::-1]}),
    "granite, rotary": ("GraniteMoeHybrid", {**GRANITE, "position_embedding_type": "rope", "layer_types": MIXED}),
    "nemotron_h": ("NemotronH", {**NEMOTRON, "layers_block_type": [*MIXED, "mlp", MIXED[0]]}),
    "nemotron_h, biases": (
        "NemotronH",
        {**NEMOTRON, "layers_block_type": [*MIXED, "mlp"], "mlp_bias": True, "use_bias": True},
    ),
    "nemotron_h, experts": (
        "NemotronH",
        {**NEMOTRON, **EXPERTS, "layers_block_type": [*MIXED, "moe", "mlp"], "num_experts_per_tok": 3},
    ),
    "nemotron_h, latent experts": (
        "NemotronH",
        {**NEMOTRON, **EXPERTS, "layers_block_type": ["moe", *MIXED, "moe"], "moe_latent_size": 8}
        | {"norm_topk_prob": False},
    ),
    "falcon_h1": ("FalconH1", {**FALCON_H1, **MULTIPLIERS}),
    "falcon_h1, biases": (
        "FalconH1",
        {**FALCON_H1, **MULTIPLIERS, "mamba_rms_norm": True, "mlp_bias": True, "attention_bias": True}
        | {"mamba_proj_bias": True, "projectors_bias": True, "mamba_d_ssm": 24, "head_dim": 6},
    ),
    "falcon_h1, plain": ("FalconH1", {**FALCON_H1, **TIED, "mamba_rms_norm": True, "mamba_norm_before_gate": False}),
    "jamba, tied": ("Jamba", {"num_experts": 2, "tie_word_embeddings": True, "mamba_conv_bias": False, **JAMBA}),
}
"""Name, class and options."""


def make(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model of transformers with wide random weights, so that small activations hide no error."""
    import transformers

    kind, options = CASES[name]
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **options})
    torch.manual_seed(len(name))
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for own, parameter in model.named_parameters():
            if parameter.dim() < 2 or own.endswith("A_log"):
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.normal_(std=0.25 if "embed" not in own else 1.0)
        for own, buffer in model.named_buffers():
            if own.endswith("e_score_correction_bias"):
                buffer.normal_(std=0.3)
    return model.to(dtype)


def save(name: str, folder: Path, **options: Any) -> Any:
    """Make a model, save it, and give it back."""
    model = make(name)
    model.save_pretrained(folder, **options)
    return model


def ids(rows: int = 2, length: int = 19) -> Tensor:
    return torch.randint(1, SMALL["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(length))


def logits(model: Any, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """What transformers computes in one shot."""
    with torch.no_grad():
        return model(tokens, attention_mask=mask, use_cache=False).logits
