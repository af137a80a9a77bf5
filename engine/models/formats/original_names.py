"""Names of a UNet's modules in the original layout (CompVis' and Stability's), which single files,
kohya's LoRAs and Fooocus' patches use.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

_OUTER: Mapping[str, str] = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET: Mapping[str, str] = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def original_names(modules: Collection[str], layers: int) -> dict[str, str]:
    """The original layout's name of each of diffusers' ``modules`` that has one.

    Args:
        modules: dotted names of a ``UNet2DConditionModel``'s modules.
        layers: its ``layers_per_block``.
    """
    attending = {name.rsplit(".", 2)[0] for name in modules if name.endswith(".attentions.0")}
    named = {name: _original(name, layers, attending) for name in modules}
    return {name: original for name, original in named.items() if original}


def _original(module: str, layers: int, attending: Collection[str]) -> str:
    """Empty where it has none."""
    if module in _OUTER:
        return _OUTER[module]
    parts = module.split(".")
    if parts[0] == "mid_block" and len(parts) > 3:
        number = 2 * int(parts[2]) if parts[1] == "resnets" else 1
        return f"middle_block.{number}.{_inner(parts[1], parts[3:])}"
    if len(parts) < 5 or parts[0] not in {"down_blocks", "up_blocks"}:
        return ""
    side, block, kind, layer, *inner = parts
    down = side == "down_blocks"
    if kind in {"downsamplers", "upsamplers"}:
        name = "0.op" if down else f"{2 if f'up_blocks.{block}' in attending else 1}.conv"
        number = layers
    else:
        name = f"{0 if kind == 'resnets' else 1}.{_inner(kind, inner)}"
        number = int(layer)
    # The first of the input blocks is the convolution before them.
    number += int(block) * (layers + 1) + down
    return f"{'input' if down else 'output'}_blocks.{number}.{name}"


def _inner(kind: str, inner: list[str]) -> str:
    if kind == "resnets":
        return _RESNET.get(inner[0], inner[0])
    return ".".join(inner)
