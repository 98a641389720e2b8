"""How the official files name the weights of CSWins."""

from kzoo.models.layouts import Layout

_BLOCK = "stage{i}.{j}"
LAYOUTS = {
    "official": Layout(
        style="torch",
        layers={
            "patch_embed/conv": "stage1_conv_embed.0",
            "patch_embed/norm": "stage1_conv_embed.2",
            "merge{i}/{rest}": "merge{i}.{rest}",
            "stage{i}_blocks_{j}/attn/get_v_{k}": f"{_BLOCK}.attns.{{k}}.get_v",
            "stage{i}_blocks_{j}/attn/{rest}": f"{_BLOCK}.{{rest}}",
            "stage{i}_blocks_{j}/{rest}": f"{_BLOCK}.{{rest}}",
            "norm": "norm",
            "head": "head",
        },
    )
}
