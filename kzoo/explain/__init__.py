"""What a transformer looks at, and what its first layers have learned: numbers in NumPy, and pictures of them."""

from kzoo.explain.drawings import draw_attention, draw_filters, draw_objects, draw_points, draw_positions
from kzoo.explain.numbers import attention, patch_filters, position_similarity, rollout

__all__ = [
    "attention",
    "draw_attention",
    "draw_filters",
    "draw_objects",
    "draw_points",
    "draw_positions",
    "patch_filters",
    "position_similarity",
    "rollout",
]
