"""A stream that fails where nobody expects it; in a module of its own for workers to import."""

from train.data.stream import Sample, Stream


class FailingStream(Stream):
    def sample(self, index: int, position: int) -> Sample:
        if index < 3:
            return super().sample(index, position)
        raise ZeroDivisionError("nobody expected this")
