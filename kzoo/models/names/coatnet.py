"""How timm names the weights of CoAtNets."""

from kzoo.models.layouts import Foreign, Layout

_BLOCK = "stages.{i}.blocks.{j}"
LAYOUTS = {
    "timm": Layout(
        style="torch",
        layers={"stem/{rest}": "stem.{rest}", "stages_{i}_blocks_{j}/norm1_norm": f"{_BLOCK}.norm1.norm"}
        | {"stages_{i}_blocks_{j}/attn/rel_pos/{rest}": f"{_BLOCK}.attn.rel_pos.mlp.{{rest}}"}
        | {
            f"stages_{{i}}_blocks_{{j}}/{part}/{{rest}}": Foreign(f"{_BLOCK}.{part}.{{rest}}", pointwise=True)
            for part in ("attn", "mlp", "se", "se_early")
        }
        | {"stages_{i}_blocks_{j}/{rest}": f"{_BLOCK}.{{rest}}", "norm": "norm"}
        | {"fc_norm": "head.norm", "pre_logits": "head.pre_logits.fc", "head": "head.fc"},
        tensors={
            "stages_{i}_blocks_{j}/attn/rel_pos/table": Foreign(
                f"{_BLOCK}.attn.rel_pos.relative_position_bias_table", ndim=2
            ),
            "stages_{i}_blocks_{j}/ls{k}/gamma": f"{_BLOCK}.ls{{k}}.gamma",
        },
        ignored=r".*\.num_batches_tracked",
    )
}
