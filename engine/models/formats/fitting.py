"""Widths and depths of networks, from the shapes of their weights in LDM's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.models.layout import UNET, VAE, Shapes, Text, count


def unet_config(known: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The config of the UNet in a file.

    Args:
        known: the config of its family: what shapes do not tell (heads, kinds of embeddings). A
            list of heads says how wide one is, a number how many there are.
        shapes: of the file's tensors.
    """
    own = {name.removeprefix(UNET): each for name, each in shapes.items() if name.startswith(UNET)}
    blocks = count(own, "input_blocks.")
    downs = [i for i in range(blocks) if f"input_blocks.{i}.0.op.weight" in own]
    levels = len(downs) + 1
    layers = (blocks - levels) // levels
    firsts = [1 + level * (layers + 1) for level in range(levels)]
    widths = [own[f"input_blocks.{i}.0.in_layers.2.weight"][0] for i in firsts]
    depths = [count(own, f"input_blocks.{i}.1.transformer_blocks.") for i in firsts]
    middle = count(own, "middle_block.1.transformer_blocks.")
    texts = (shape[1] for name, shape in own.items() if name.endswith(".attn2.to_k.weight"))
    heads = known["attention_head_dim"]
    if not isinstance(heads, int):
        wide = known["block_out_channels"][0] // heads[0]
        heads = [max(1, width // wide) for width in widths]
    crossing = [depth > 0 for depth in depths]
    config = {
        **known,
        "in_channels": own["input_blocks.0.0.weight"][1],
        "out_channels": own["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "attention_head_dim": heads,
        "cross_attention_dim": next(texts, known["cross_attention_dim"]),
        "down_block_types": ["CrossAttnDownBlock2D" if x else "DownBlock2D" for x in crossing],
        "up_block_types": ["CrossAttnUpBlock2D" if x else "UpBlock2D" for x in crossing[::-1]],
        # The middle block is as deep as the last entry says, whether that level attends or not.
        "transformer_layers_per_block": [max(1, depth) for depth in depths[:-1]] + [middle],
    }
    if "label_emb.0.0.weight" in own:
        config["projection_class_embeddings_input_dim"] = own["label_emb.0.0.weight"][1]
    return config


def vae_config(known: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The config of the VAE in a file, in LDM's names or diffusers'; the arguments are those of
    :func:`unet_config`.
    """
    own = {name.removeprefix(VAE): each for name, each in shapes.items() if name.startswith(VAE)}
    own = own or dict(shapes)
    ldm = "encoder.mid.block_1.conv1.weight" in own
    down, block = ("encoder.down.", "block.") if ldm else ("encoder.down_blocks.", "resnets.")
    levels = count(own, down)
    return {
        **known,
        "block_out_channels": [
            own[f"{down}{level}.{block}0.conv1.weight"][0] for level in range(levels)
        ],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": count(own, f"{down}0.{block}"),
        "latent_channels": own["decoder.conv_in.weight"][1],
    }


def text_config(known: Mapping[str, Any], shapes: Shapes, text: Text) -> dict[str, Any]:
    """The config of a text encoder in a file, whose heads are as wide as its family's."""
    own = {
        name.removeprefix(text.prefix): each
        for name, each in shapes.items()
        if name.startswith(text.prefix)
    }
    if text.open_clip:
        words, layers, first = "token_embedding.weight", "transformer.resblocks.", "mlp.c_fc.weight"
    else:
        words, layers = "text_model.embeddings.token_embedding.weight", "text_model.encoder.layers."
        first = "mlp.fc1.weight"
    number, (vocabulary, width) = count(own, layers), own[words]
    wide = known["hidden_size"] // known["num_attention_heads"]
    config = {
        **known,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": own[f"{layers}0.{first}"][0],
        "num_hidden_layers": number - text.unused,
        "num_attention_heads": max(1, width // wide),
    }
    if "text_projection" in own:
        config["projection_dim"] = own["text_projection"][1]
    return config
