"""Update rules that Keras lacks or computes otherwise than the papers and torch: SGD with momentum, LARS, LAMB.

Each takes the gradient after clipping; `lr` is the rate of this step and this weight. Only weights that decay
(matrices, no norms, biases or tables) have their step adapted by the layer-wise rules, as in the papers' own runs.
"""

from keras import ops

from kzoo.keras_private import Rule


def _norm(x):
    return ops.sqrt(ops.sum(ops.square(x)))


def _ratio(above, below):
    """above / below, or 1 where either is 0: a fresh zero weight must still be able to move."""
    known = ops.logical_and(above > 0, below > 0)
    return ops.where(known, above / ops.where(known, below, 1.0), 1.0)


class Sgd(Rule):
    """Momentum that remembers gradients, not steps: a change of the rate takes effect at once, as in torch (Keras' own
    remembers steps).
    """

    def __init__(self, momentum=0.9, nesterov=False, **kwargs):
        super().__init__(**kwargs)
        self.momentum, self.nesterov = float(momentum), nesterov

    def build(self, variables):
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient, variable, learning_rate):
        lr = ops.cast(learning_rate, variable.dtype)
        gradient = self.adapted(ops.cast(gradient, variable.dtype), variable)
        velocity = self._velocities[self.index_of(variable)]
        moving = velocity * self.momentum + gradient
        self.assign(velocity, moving)
        self.assign_sub(variable, lr * (gradient + self.momentum * moving if self.nesterov else moving))

    def adapted(self, gradient, variable):
        """What the momentum takes up of this gradient; all of it."""
        return gradient


class Lars(Sgd):
    """LARS, https://arxiv.org/abs/1708.03888: the gradient of each weight is brought to a fixed share of the weight's
    own norm.

    The decay `l2` is part of the gradient, so that the share bounds both.
    """

    def __init__(self, l2=0.0, trust=1e-3, **kwargs):
        super().__init__(**kwargs)
        self.l2, self.trust = l2, trust

    def adapted(self, gradient, variable):
        if not self.decays(variable):
            return gradient
        size, steepness = _norm(variable), _norm(gradient)
        known = ops.logical_and(size > 0, steepness > 0)
        ratio = ops.where(known, self.trust * size / (steepness + self.l2 * size + 1e-8), 1.0)
        return (gradient + self.l2 * variable) * ratio


class Lamb(Rule):
    """LAMB, https://arxiv.org/abs/1904.00962: Adam's direction, steps as long as the rate times the weight.

    The decay `l2` is part of the direction whose norm is taken (Keras' Lamb decays apart from it).
    """

    def __init__(self, l2=0.0, beta_1=0.9, beta_2=0.999, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.l2, self.beta_1, self.beta_2, self.epsilon = l2, beta_1, beta_2, epsilon

    def build(self, variables):
        super().build(variables)
        self._means, self._squares = self.add_optimizer_variables(variables, ["mean", "square"])

    def update_step(self, gradient, variable, learning_rate):
        lr, gradient = ops.cast(learning_rate, variable.dtype), ops.cast(gradient, variable.dtype)
        index, step = self.index_of(variable), ops.cast(self.iterations + 1, variable.dtype)
        mean = self._means[index] * self.beta_1 + gradient * (1 - self.beta_1)
        square = self._squares[index] * self.beta_2 + ops.square(gradient) * (1 - self.beta_2)
        self.assign(self._means[index], mean)
        self.assign(self._squares[index], square)
        corrected = ops.sqrt(square / (1 - ops.power(ops.cast(self.beta_2, variable.dtype), step)))
        direction = mean / (1 - ops.power(ops.cast(self.beta_1, variable.dtype), step)) / (corrected + self.epsilon)
        if self.decays(variable):
            direction = direction + self.l2 * variable
            direction = direction * _ratio(_norm(variable), _norm(direction))
        self.assign_sub(variable, lr * direction)
