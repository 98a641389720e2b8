"""What gathers the figures of an evaluation, batch by batch."""


class Meter:
    """Figures of a stream of batches, in float64."""

    def update(self, outputs, y, real):
        """Takes up a batch: the network's outputs and the targets, arrays or structures of them; real (B,) bool, False
        for padding.
        """
        raise NotImplementedError

    def result(self):
        """{figure: number}."""
        raise NotImplementedError

    def since(self, memory):
        """{figure: number} of what differs from the evaluation before, of the same pictures in the same order.

        memory: a dictionary of what JSON has, {} at first, in which it left what it is to be compared by, and in which
        this one does. It is kept in the run's checkpoint.
        """
        return {}
