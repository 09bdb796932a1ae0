"""Architectures of ``transformers`` with small random configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

VOCABULARY, LENGTH = 100, 16

Inputs = dict[str, torch.Tensor]


def tokens(rows: int = 2, length: int = LENGTH) -> Inputs:
    return {"input_ids": torch.randint(5, VOCABULARY, (rows, length))}


def pair(rows: int = 2) -> Inputs:
    """What encoder–decoders read."""
    decoder = torch.randint(5, VOCABULARY, (rows, LENGTH // 2))
    return {**tokens(rows), "decoder_input_ids": decoder}


def pixels(size: int = 32, rows: int = 2) -> Inputs:
    return {"pixel_values": torch.randn(rows, 3, size, size)}


def waves(samples: int = 1600, rows: int = 2) -> Inputs:
    return {"input_values": torch.randn(rows, samples)}


@dataclass(frozen=True)
class Architecture:
    """``options`` of the configuration class ``name + Config``; ``inputs`` makes a batch."""

    kind: str
    name: str
    options: Mapping[str, Any]
    inputs: Callable[[], Inputs]
    model: str = ""  # the model class, if not name + "Model"

    def build(self) -> tuple[nn.Module, Inputs]:
        """The model in eval mode, which returns one tensor, and its inputs."""
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, f"{self.name}Config")(**self.options)
        config._attn_implementation = "eager"
        if hasattr(config, "use_cache"):
            config.use_cache = False
        model = getattr(transformers, self.model or f"{self.name}Model")(config)
        return First(model.eval()), self.inputs()


class First(nn.Module):
    """A model that returns the first tensor of its output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        found = self.model(**inputs)
        for key in ("logits", "last_hidden_state", "logits_per_image", "pred_masks"):
            if getattr(found, key, None) is not None:
                return getattr(found, key)
        return found[0]


#: hidden sizes under the names that most encoders give them
ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
DECODER = {**ENCODER, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**DECODER, "num_key_value_heads": 2}
SEQ2SEQ = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
AUDIO = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 4, 2),
    "conv_kernel": (10, 8, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 20,
    "apply_spec_augment": False,
}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32]}


def _text() -> list[Architecture]:
    def encoder(name: str, **more: Any) -> Architecture:
        return Architecture("text", name, {**ENCODER, **more}, tokens)

    def decoder(name: str, model: str = "", **more: Any) -> Architecture:
        return Architecture(
            kind="text", name=name, options={**GROUPED, **more}, inputs=tokens, model=model
        )

    def seq2seq(name: str, **more: Any) -> Architecture:
        return Architecture("text", name, {**SEQ2SEQ, **more}, pair)

    return [
        encoder("Bert"),
        encoder("Roberta"),
        encoder("XLMRoberta"),
        encoder("Electra", embedding_size=16),
        encoder("Albert", embedding_size=16),
        encoder("MPNet"),
        encoder("DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"]),
        encoder("ConvBert", embedding_size=16),
        encoder(
            "SqueezeBert",
            embedding_size=32,
            q_groups=2,
            k_groups=2,
            v_groups=2,
            post_attention_groups=1,
            intermediate_groups=2,
            output_groups=2,
        ),
        encoder("MobileBert", embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16),
        encoder("RoFormer", embedding_size=32),
        encoder("Nystromformer", num_landmarks=4, segment_means_seq_len=16),
        encoder("FNet"),
        encoder(
            "ModernBert",
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
        ),
        Architecture(
            "text",
            "DistilBert",
            {
                "vocab_size": VOCABULARY,
                "dim": 32,
                "n_layers": 2,
                "n_heads": 4,
                "hidden_dim": 64,
                "max_position_embeddings": 64,
            },
            tokens,
        ),
        Architecture(
            "text",
            "XLNet",
            {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
            tokens,
        ),
        Architecture(
            kind="text",
            name="GPT2",
            options={
                "vocab_size": VOCABULARY,
                "n_embd": 32,
                "n_layer": 2,
                "n_head": 4,
                "n_positions": 64,
            },
            inputs=tokens,
            model="GPT2LMHeadModel",
        ),
        Architecture(
            "text",
            "GPTNeo",
            {
                "vocab_size": VOCABULARY,
                "hidden_size": 32,
                "num_layers": 2,
                "num_heads": 4,
                "max_position_embeddings": 64,
                "attention_types": [[["global", "local"], 1]],
                "window_size": 8,
            },
            tokens,
        ),
        Architecture(
            "text",
            "GPTJ",
            {
                "vocab_size": VOCABULARY,
                "n_embd": 32,
                "n_layer": 2,
                "n_head": 4,
                "n_positions": 64,
                "rotary_dim": 4,
            },
            tokens,
        ),
        Architecture(
            "text",
            "Bloom",
            {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
            tokens,
        ),
        Architecture("text", "OPT", {**DECODER, "ffn_dim": 64, "word_embed_proj_dim": 32}, tokens),
        Architecture("text", "GPTNeoX", DECODER, tokens),
        Architecture("text", "Falcon", DECODER, tokens),
        Architecture(
            "text",
            "Mpt",
            {
                "vocab_size": VOCABULARY,
                "d_model": 32,
                "n_layers": 2,
                "n_heads": 4,
                "max_seq_len": 64,
            },
            tokens,
        ),
        decoder("Llama", "LlamaForCausalLM"),
        decoder("Mistral"),
        decoder("Qwen2"),
        decoder("Qwen3", head_dim=8),
        decoder("Gemma", head_dim=8),
        decoder("Gemma2", head_dim=8, query_pre_attn_scalar=8),
        decoder("Phi"),
        decoder("Phi3"),
        decoder("StableLm"),
        decoder("Olmo"),
        decoder("Cohere"),
        decoder("Starcoder2"),
        decoder("Mixtral", num_local_experts=2),
        Architecture(
            "text",
            "Mamba",
            {
                "vocab_size": VOCABULARY,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "state_size": 4,
                "pad_token_id": 0,
            },
            tokens,
        ),
        Architecture(
            "text",
            "T5",
            {
                "vocab_size": VOCABULARY,
                "d_model": 32,
                "d_kv": 8,
                "d_ff": 64,
                "num_layers": 2,
                "num_heads": 4,
                "pad_token_id": 0,
                "decoder_start_token_id": 0,
            },
            pair,
        ),
        seq2seq("Bart"),
        seq2seq("MBart"),
        seq2seq("Pegasus"),
        seq2seq("Marian"),
        seq2seq("BlenderbotSmall"),
    ]


def _vision() -> list[Architecture]:
    def vision(name: str, inputs: Callable[[], Inputs] = pixels, **more: Any) -> Architecture:
        return Architecture("vision", name, {**VISION, **more}, inputs)

    def stages(name: str, **more: Any) -> Architecture:
        return Architecture("vision", name, {**STAGES, **more}, pixels)

    wide = {
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 4],
        "window_size": 4,
        "image_size": 32,
        "patch_size": 4,
    }
    return [
        vision("ViT"),
        vision("DeiT"),
        vision("Beit"),
        vision("Dinov2"),
        vision("ViTMSN"),
        vision("Data2VecVision"),
        vision(
            "Yolos", image_size=[32, 32], num_detection_tokens=4, use_mid_position_embeddings=False
        ),
        Architecture("vision", "Swin", wide, pixels),
        Architecture("vision", "Swinv2", wide, pixels),
        Architecture(
            "vision",
            "FocalNet",
            {
                "image_size": 32,
                "patch_size": 4,
                "embed_dim": 16,
                "depths": [1, 1],
                "hidden_sizes": [16, 32],
                "focal_levels": [1, 1],
                "focal_windows": [3, 3],
            },
            pixels,
        ),
        stages("ConvNext"),
        stages("ConvNextV2"),
        stages("ResNet", embedding_size=8, layer_type="basic"),
        stages("RegNet", embedding_size=8, groups_width=4),
        stages("PoolFormer", num_encoder_blocks=4),
        Architecture(
            kind="vision",
            name="Segformer",
            options={**STAGES, "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 16},
            inputs=pixels,
            model="SegformerForSemanticSegmentation",
        ),
        Architecture(
            "vision",
            "Pvt",
            {**STAGES, "image_size": 32, "num_attention_heads": [1, 2, 2, 4]},
            pixels,
        ),
        Architecture(
            "vision",
            "MobileNetV1",
            {"depth_multiplier": 0.25, "image_size": 32, "min_depth": 8},
            pixels,
        ),
        Architecture("vision", "MobileNetV2", {"depth_multiplier": 0.25, "image_size": 32}, pixels),
        Architecture(
            "vision",
            "EfficientNet",
            {
                "width_coefficient": 0.25,
                "depth_coefficient": 0.25,
                "image_size": 32,
                "hidden_dim": 320,
            },
            pixels,
        ),
        Architecture(
            "vision",
            "MobileViT",
            {
                "image_size": 64,
                "hidden_sizes": [16, 24, 32],
                "neck_hidden_sizes": [8, 16, 16, 16, 24, 32, 64],
                "num_attention_heads": 2,
            },
            lambda: pixels(64),
        ),
        Architecture(
            "vision",
            "Cvt",
            {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 4], "depth": [1, 1, 10]},
            pixels,
        ),
        Architecture(
            "vision",
            "Levit",
            {
                "hidden_sizes": [16, 32, 32],
                "num_attention_heads": [2, 4, 4],
                "depths": [1, 1, 1],
                "key_dim": [8, 8, 8],
                "image_size": 64,
            },
            lambda: pixels(64),
        ),
        Architecture(
            kind="vision",
            name="DPT",
            options={
                **VISION,
                "num_hidden_layers": 4,
                "backbone_out_indices": [0, 1, 2, 3],
                "neck_hidden_sizes": [8, 8, 16, 16],
                "fusion_hidden_size": 16,
                "reassemble_factors": [4, 2, 1, 0.5],
            },
            inputs=pixels,
            model="DPTForDepthEstimation",
        ),
    ]


def _audio() -> list[Architecture]:
    def audio(name: str, **more: Any) -> Architecture:
        return Architecture("audio", name, {**AUDIO, **more}, waves)

    return [
        audio("Wav2Vec2"),
        audio("Hubert"),
        audio("WavLM"),
        audio("UniSpeech"),
        audio("SEW", squeeze_factor=2),
        audio("Data2VecAudio", conv_pos_kernel_size=3),
        Architecture(
            "audio",
            "Whisper",
            {**SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 20},
            lambda: {
                "input_features": torch.randn(2, 8, 40),
                "decoder_input_ids": torch.randint(5, VOCABULARY, (2, 8)),
            },
        ),
        Architecture(
            "audio",
            "AST",
            {
                **{k: v for k, v in VISION.items() if k != "image_size"},
                "max_length": 32,
                "num_mel_bins": 16,
                "frequency_stride": 8,
                "time_stride": 8,
            },
            lambda: {"input_values": torch.randn(2, 32, 16)},
        ),
        Architecture(
            "audio",
            "Speech2Text",
            {
                **SEQ2SEQ,
                "input_feat_per_channel": 8,
                "max_source_positions": 64,
                "max_target_positions": 64,
                "conv_channels": 16,
            },
            lambda: {
                "input_features": torch.randn(2, 32, 8),
                "decoder_input_ids": torch.randint(5, VOCABULARY, (2, 8)),
            },
        ),
    ]


def _mixed() -> list[Architecture]:
    def both() -> Inputs:
        return {**tokens(), **pixels()}

    def towers(name: str, **more: Any) -> Architecture:
        options = {
            "text_config": {
                **ENCODER,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "pad_token_id": 0,
                "projection_dim": 16,
            },
            "vision_config": {**VISION, "projection_dim": 16},
            "projection_dim": 16,
            **more,
        }
        return Architecture("mixed", name, options, both)

    boxes = torch.tensor([[10, 10, 60, 60]]).repeat(2, LENGTH, 1)
    return [
        towers("CLIP"),
        towers("Siglip"),
        towers("AltCLIP"),
        Architecture(
            "mixed",
            "Vilt",
            {**ENCODER, **VISION, "max_image_length": -1},
            lambda: {**both(), "pixel_mask": torch.ones(2, 32, 32, dtype=torch.long)},
        ),
        Architecture("mixed", "LayoutLM", ENCODER, lambda: {**tokens(), "bbox": boxes}),
        Architecture("mixed", "Git", {**DECODER, "vision_config": VISION}, both),
    ]


ARCHITECTURES = [*_text(), *_vision(), *_audio(), *_mixed()]
