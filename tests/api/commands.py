"""What the tests of commands share: an open stream of a command, and what its events say."""

from contextlib import contextmanager

from daemon import events


def text(evs, kind="stdout"):
    return [event["text"] for event in evs if event["type"] == kind]


def last(evs):
    """The one terminal event, which must be the last."""
    terminal = [event for event in evs if event["type"] in ("execution_complete", "error")]
    assert len(terminal) == 1 and evs[-1] is terminal[0], evs
    return terminal[0]


class Running:
    """A command whose stream is open."""

    def __init__(self, execd, response):
        self.execd, self.events = execd, events(response)
        self.init = next(self.events)
        assert self.init["type"] == "init"
        self.id = self.init["text"]

    def line(self):
        """The next line of output."""
        for event in self.events:
            if event["type"] in ("stdout", "stderr"):
                return event["text"]
        raise AssertionError("the stream has ended")

    def rest(self):
        return [event for event in self.events if event["type"] != "ping"]


@contextmanager
def running(execd, command=None, **fields):
    body = fields if command is None else {"command": command, **fields}
    with execd.stream("POST", "/command", json=body) as response:
        yield Running(execd, response)
