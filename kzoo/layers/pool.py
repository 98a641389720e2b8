"""From tokens to one vector by attention."""

import keras
from keras import ops

from kzoo.layers.base import ZooLayer
from kzoo.layers.transformer import Mlp, attention_weights, dense


@keras.saving.register_keras_serializable(package="kzoo")
class AttentionPool(ZooLayer):
    """One learned query attends to all tokens, then x + Mlp(LN(x)): (B, N, D) -> (B, D).

    The "MAP" head of "Scaling Vision Transformers" (https://arxiv.org/abs/2106.04560) and SigLIP. D must be divisible by num_heads.
    """

    def __init__(self, dim, num_heads, mlp_ratio=4.0, act="gelu", norm_eps=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        policy = self.dtype_policy
        self.q = dense(dim, policy, "q")
        self.kv = dense(2 * dim, policy, "kv", kernel_scale=1.5)  # the limits that k and v would have apart
        self.proj = dense(dim, policy, "proj")
        self.norm = keras.layers.LayerNormalization(epsilon=norm_eps, dtype=policy, name="norm")
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act, dtype=policy, name="mlp")

    def build(self, input_shape):
        batch, _, dim = input_shape
        normal = keras.initializers.TruncatedNormal(stddev=dim**-0.5)
        self.latent = self.add_weight((1, dim), initializer=normal, name="latent")
        self.kv.build(input_shape)
        self.q.build((1, dim))
        for part in (self.proj, self.norm, self.mlp):
            part.build((batch, dim))

    def attend(self, x):
        """(output (B, D), weights (B, heads, 1, N)): what the learned query takes from each token; they sum to 1."""
        tokens, dim = x.shape[1:]
        q = ops.reshape(self.q(ops.cast(self.latent, x.dtype)), (1, self.num_heads, 1, self.head_dim))
        kv = ops.reshape(self.kv(ops.reshape(x, (-1, dim))), (-1, tokens, 2, self.num_heads, self.head_dim))
        k, v = ops.unstack(ops.transpose(kv, (2, 0, 3, 1, 4)), 2)  # each (B, heads, N, head_dim)
        weights = attention_weights(q, k)
        x = self.proj(ops.reshape(ops.matmul(weights, v), (-1, dim)))
        return x + self.mlp(self.norm(x)), weights

    def call(self, x):
        return self.attend(x)[0]

    def macs(self, input_shape):
        """Multiply-accumulates of the two products between the query and the tokens (the projections count themselves)."""
        return 2 * input_shape[1] * self.num_heads * self.head_dim
