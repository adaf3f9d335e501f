"""Text from tokens up to a string that ends it."""

from collections.abc import Sequence

from longstate.models import TextStream


class StopStream(TextStream):
    r"""A decoder that ends at the first of some strings, and holds back what may be the beginning of one.

    Args:
        stream: The decoder of the tokenizer.
        stop: The strings; none for a decoder that never ends by itself.

    Example:
        >>> from longstate.inference import StopStream
        >>> from longstate.models import ByteTokenizer
        >>> stream = StopStream(ByteTokenizer().stream(), ["\n\n"])
        >>> [stream.push(token) for token in b"a\nb\n\nc"], stream.stopped
        (['a', '', '\nb', '', '', ''], True)
    """

    def __init__(self, stream: TextStream, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._stream = stream
        self._stop = tuple(stop)
        self._held = ""

    def push(self, token: int) -> str:
        """The text that is sure to be said; empty after the end."""
        return "" if self.stopped else self._say(self._stream.push(token))

    def finish(self) -> str:
        """What was held back, if no string ended the text."""
        if self.stopped:
            return ""
        text = self._say(self._stream.finish())
        held, self._held = self._held, ""
        return text if self.stopped else text + held

    def _say(self, text: str) -> str:
        text = self._held + text
        places = [place for place in map(text.find, self._stop) if place >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)]
        sure = len(text) - max((_beginning(text, string) for string in self._stop), default=0)
        self._held = text[sure:]
        return text[:sure]


def _beginning(text: str, string: str) -> int:
    """How many of the last characters of a text are the first ones of a string."""
    longest = min(len(text), len(string) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(string[:size])), 0)
