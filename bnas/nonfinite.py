"""The signal from a training step to the engine that a number became NaN or infinite."""


class NonFiniteLoss(Exception):  # noqa: N818 (an event that the engine mends, not a message for the user)
    """`what` (such as "the loss is nan") happened at the global step `step`."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(step, what)
        self.step = step
        self.what = what

    def __str__(self) -> str:
        return f"step {self.step}: {self.what}"
