"""The one exception a user of the library meets, and how its text is built."""


class LightningFwdError(ValueError):
    """Something the user gave cannot be used. The text says what, where, why, and how to mend it.

    Args:
        what: what is wrong, naming the offending thing (a module path, a file, an option).
        why: the reason, in one sentence.
        mend: what the user can do about it.
    """

    def __init__(self, what: str, why: str = "", mend: str = ""):
        self.what, self.why, self.mend = what, why, mend
        super().__init__("".join([what, f"\n  why:  {why}" if why else "", f"\n  mend: {mend}" if mend else ""]))

    def __reduce__(self):  # worker processes hand errors back by pickling them
        return type(self), (self.what, self.why, self.mend)


class CaptureError(LightningFwdError):
    """A model could not be captured as one torch.fx graph with one tensor in and one tensor out."""


class ExampleError(CaptureError):
    """The example input is not one that the model takes."""


class RewriteError(LightningFwdError):
    """A learning rule cannot be applied to this model."""


class StepError(LightningFwdError):
    """A training step received something that its learning rule cannot use."""


class NoInputError(StepError):
    """No input is found in a batch."""
