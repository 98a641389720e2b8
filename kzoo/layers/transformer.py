"""The pre-norm transformer block and its parts (https://arxiv.org/abs/2010.11929), and pooling by attention.

Softmax and norms compute in float32 under mixed precision; token counts are static, so that no export has to compute
shapes.
"""

import math

import keras
from keras import ops

from kzoo.layers.base import Remat, ZooLayer


def gelu(x):
    """The exact (erf) GELU of any-shaped `x`. Keras' own becomes an `Erfc` node, which no ONNX runtime knows."""
    return 0.5 * x * (1.0 + ops.erf(x * (1.0 / math.sqrt(2.0))))


def gelu_tanh(x):
    """The tanh approximation of GELU, at most 5e-4 from the exact one; what JAX's `nn.gelu` computes unless told
    otherwise.
    """
    return ops.gelu(x, approximate=True)


def quick_gelu(x):
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with."""
    return x * ops.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu": gelu, "gelu_tanh": gelu_tanh, "quick_gelu": quick_gelu}


def dense(units, policy, name, use_bias=True, bias_stddev=None, kernel_scale=1.0):
    """Dense with the original ViT's init: Xavier-uniform kernel (`kernel_scale` corrects the fans of a fused
    kernel).
    """
    bias = keras.initializers.RandomNormal(stddev=bias_stddev) if bias_stddev else "zeros"
    kernel = keras.initializers.VarianceScaling(kernel_scale, "fan_avg", "uniform")
    return keras.layers.Dense(
        units, use_bias=use_bias, kernel_initializer=kernel, bias_initializer=bias, dtype=policy, name=name
    )


def attention_weights(q, k, bias=None):
    """softmax(q k^T / sqrt(head_dim) + bias) over the keys: (B, heads, Q, head_dim), (B, heads, N, head_dim) -> (B,
    heads, Q, N).
    """
    scores = ops.cast(ops.matmul(q * q.shape[-1] ** -0.5, ops.transpose(k, (0, 1, 3, 2))), "float32")
    return ops.cast(ops.softmax(scores if bias is None else scores + ops.cast(bias, "float32")), q.dtype)


@keras.saving.register_keras_serializable(package="kzoo")
class Attention(ZooLayer):
    """Multi-head self-attention: (B, N, D) -> (B, N, out_dim). One fused projection, columns q | k | v, each heads x
    head_dim.

    head_dim None is D / heads, out_dim None D. qk_norm normalises every query and key over its head_dim channels
    (https://arxiv.org/abs/2302.05442).
    """

    def __init__(
        self,
        dim,
        num_heads,
        head_dim=None,
        qkv_bias=True,
        qk_norm=False,
        attn_drop_rate=0.0,
        proj_drop_rate=0.0,
        norm_eps=1e-6,
        out_dim=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads, self.head_dim = num_heads, head_dim or dim // num_heads
        policy, inner = self.dtype_policy, num_heads * self.head_dim
        # The columns of three enter the average of the fans: this scale gives q, k and v the limits they would have
        # apart.
        scale = (dim + 3 * inner) / (dim + inner)
        self.qkv = dense(3 * inner, policy, "qkv", use_bias=qkv_bias, kernel_scale=scale)
        norms = ("q_norm", "k_norm") if qk_norm else ()
        self.norms = [keras.layers.LayerNormalization(epsilon=norm_eps, dtype=policy, name=name) for name in norms]
        self.attn_drop = keras.layers.Dropout(attn_drop_rate, dtype=policy, name="attn_drop")
        self.proj = dense(out_dim or dim, policy, "proj")
        self.proj_drop = keras.layers.Dropout(proj_drop_rate, dtype=policy, name="proj_drop")

    def build(self, input_shape):
        batch, tokens, _ = input_shape
        self.qkv.build(input_shape)
        for norm in self.norms:
            norm.build((batch, self.num_heads, tokens, self.head_dim))
        self.proj.build((batch, tokens, self.num_heads * self.head_dim))

    def queries_keys_values(self, x):
        """(B, N, D) -> three of (B, heads, N, head_dim)."""
        # Projections see all tokens of the batch as rows of one matrix: the plain product is the fast one on CPU.
        qkv = ops.reshape(
            self.qkv(ops.reshape(x, (-1, x.shape[2]))), (-1, x.shape[1], 3, self.num_heads, self.head_dim)
        )
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)
        if self.norms:
            q, k = (norm(part) for norm, part in zip(self.norms, (q, k), strict=True))
        return q, k, v

    def _weights(self, q, k, training):
        """(B, heads, N, head_dim) twice -> what multiplies the values, (B, heads, N, N)."""
        return attention_weights(q, k)

    def projected(self, x, training):
        """The heads' results (B, N, heads, head_dim) joined and projected: (B, N, out_dim)."""
        tokens = x.shape[1]
        x = self.proj(ops.reshape(x, (-1, self.num_heads * self.head_dim)))
        return ops.reshape(self.proj_drop(x, training=training), (-1, tokens, x.shape[-1]))

    def attend(self, x, training=None):
        """(output (B, N, out_dim), weights (B, heads, N, N)): what each query (row) takes from each key; rows sum to 1,
        before dropout.
        """
        q, k, v = self.queries_keys_values(x)
        weights = self._weights(q, k, training)
        return self.projected(self.taken(weights, v, training), training), weights

    def taken(self, weights, v, training, drop=None):
        """What the weights (B, heads, N, N), some of them dropped (by `drop`, else attn_drop), take of the values (B,
        heads, N, head_dim): (B, N, heads, head_dim).
        """
        weights = (drop or self.attn_drop)(weights, training=training)
        return ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3))

    def call(self, x, training=None):
        if not _fuses_attention(self.compute_dtype) or (training and self.attn_drop.rate):
            return self.attend(x, training)[0]
        q, k, v = (ops.transpose(part, (0, 2, 1, 3)) for part in self.queries_keys_values(x))
        return self.projected(ops.dot_product_attention(q, k, v), training)

    def macs(self, input_shape):
        """Multiply-accumulates of the two products between tokens (the projections count themselves)."""
        return 2 * input_shape[1] ** 2 * self.num_heads * self.head_dim


def _fuses_attention(dtype):
    """Whether to ask the backend for attention that never writes the weights out: flash attention takes 16 bits,
    TensorFlow has none.

    `keras.config.disable_flash_attention()` turns it off. In float32, where it would not be flash, the plain products
    are as fast.
    """
    return (
        dtype != "float32"
        and keras.backend.backend() != "tensorflow"
        and keras.config.is_flash_attention_enabled() is not False
    )


@keras.saving.register_keras_serializable(package="kzoo")
class Mlp(ZooLayer):
    """Dense, activation (a key of ACTIVATIONS), Dense on the last axis: (..., D) -> (..., D), `hidden_dim` between;
    dropout after both.
    """

    def __init__(self, dim, hidden_dim, act="gelu", drop_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.act = act
        self.fc1 = dense(hidden_dim, policy, "fc1", bias_stddev=1e-6)
        self.fc2 = dense(dim, policy, "fc2", bias_stddev=1e-6)
        self.drop1 = keras.layers.Dropout(drop_rate, dtype=policy, name="drop1")
        self.drop2 = keras.layers.Dropout(drop_rate, dtype=policy, name="drop2")

    def build(self, input_shape):
        self.fc1.build(input_shape)
        self.fc2.build((*input_shape[:-1], self.fc1.units))

    def call(self, x, training=None):
        shape = (-1, *ops.shape(x)[1:])  # numbers, but for a map whose sides are open
        x = ACTIVATIONS[self.act](self.fc1(ops.reshape(x, (-1, x.shape[-1]))))
        return ops.reshape(self.drop2(self.fc2(self.drop1(x, training=training)), training=training), shape)


@keras.saving.register_keras_serializable(package="kzoo")
class LayerScale(ZooLayer):
    """Multiplies every channel by a learned factor that starts at `init_value` (https://arxiv.org/abs/2103.17239)."""

    def __init__(self, init_value, **kwargs):
        super().__init__(**kwargs)
        self.init_value = init_value

    def build(self, input_shape):
        self.gamma = self.add_weight(
            input_shape[-1:], initializer=keras.initializers.Constant(self.init_value), name="gamma"
        )

    def call(self, x):
        return x * ops.cast(self.gamma, x.dtype)


@keras.saving.register_keras_serializable(package="kzoo")
class DropPath(ZooLayer):
    """Stochastic depth: in training, zeroes a sample's whole branch with probability `rate`, the rest scaled to keep
    the mean.

    https://arxiv.org/abs/1603.09382, per sample as timm does it.
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator(seed) if rate > 0 else None
        self.build_at_once()

    def call(self, x, training=None):
        if not training or self.seed_generator is None:
            return x
        keep = 1.0 - self.rate
        shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        kept = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator) < keep
        return x * ops.cast(kept, x.dtype) / keep


@keras.saving.register_keras_serializable(package="kzoo")
class TransformerBlock(Remat):
    """x + Attention(LN(x)), then x + Mlp(LN(x)): (B, N, D) -> (B, N, D).

    init_values: LayerScale on both branches, starting there; None: none. remat: as `Remat` has it.
    """

    def __init__(
        self,
        dim,
        num_heads,
        head_dim=None,
        mlp_ratio=4.0,
        qkv_bias=True,
        qk_norm=False,
        init_values=None,
        act="gelu",
        proj_drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.0,
        norm_eps=1e-6,
        remat=False,
        **kwargs,
    ):
        super().__init__(remat, **kwargs)
        policy = self.dtype_policy
        self.norm1 = keras.layers.LayerNormalization(epsilon=norm_eps, dtype=policy, name="norm1")
        self.attn = self.make_attention(
            dim,
            num_heads,
            head_dim=head_dim,
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=proj_drop_rate,
            norm_eps=norm_eps,
            dtype=policy,
            name="attn",
        )
        self.drop_path1 = DropPath(drop_path_rate, dtype=policy, name="drop_path1")
        self.norm2 = keras.layers.LayerNormalization(epsilon=norm_eps, dtype=policy, name="norm2")
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act, proj_drop_rate, dtype=policy, name="mlp")
        self.drop_path2 = DropPath(drop_path_rate, dtype=policy, name="drop_path2")
        scales = ("ls1", "ls2") if init_values is not None else ()
        self.scales = [LayerScale(init_values, dtype=policy, name=name) for name in scales]

    def build(self, input_shape):
        for part in (self.norm1, self.attn, *self.scales[:1], self.norm2, self.mlp, *self.scales[1:]):
            part.build(input_shape)

    def compute_output_shape(self, input_shape):
        return input_shape  # told, not traced: models are built several times faster

    def make_attention(self, dim, num_heads, **kwargs):
        """The layer that mixes the tokens, from Attention's arguments; for subclasses that mix them in another way."""
        return Attention(dim, num_heads, **kwargs)

    def mixed(self, x, training):
        """What the first branch makes of its normalised input."""
        return self.attn(x, training=training)

    def attend(self, x):
        """(B, N, D) -> the attention's weights (B, heads, N, N), outside of training."""
        return self.attn.attend(self.norm1(x), training=False)[1]

    def compute(self, x, training):
        scale1, scale2 = self.scales or (lambda y: y, lambda y: y)
        x = x + self.drop_path1(scale1(self.mixed(self.norm1(x), training)), training=training)
        return x + self.drop_path2(scale2(self.mlp(self.norm2(x), training=training)), training=training)


@keras.saving.register_keras_serializable(package="kzoo")
class AttentionPool(ZooLayer):
    """One learned query attends to all tokens, then x + Mlp(LN(x)): (B, N, D) -> (B, D).

    The "MAP" head of "Scaling Vision Transformers" (https://arxiv.org/abs/2106.04560) and SigLIP. D must be divisible
    by num_heads.
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
        """Multiply-accumulates of the two products between the query and the tokens (the projections count
        themselves).
        """
        return 2 * input_shape[1] * self.num_heads * self.head_dim
