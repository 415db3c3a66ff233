"""What the tests of code cells share: contexts, cells, and things that cells wait at."""

import os
import select

from daemon import events


class Context:
    """A context, or with id None the default one of the language."""

    def __init__(self, agent, id=None, language="python"):
        self.agent, self.id, self.language = agent, id, language

    def stream(self, code, **fields):
        context = {"language": self.language, **({"id": self.id} if self.id else {})}
        return self.agent.stream("POST", "/code", json={"code": code, "context": context, **fields})

    def run(self, code, **fields):
        with self.stream(code, **fields) as response:
            return Cell([event for event in events(response) if event["type"] != "ping"])

    def value(self, code):
        """The text of the cell's one result."""
        cell = self.run(code)
        assert cell.error is None, cell.error
        assert len(cell.results) == 1, cell.events
        return cell.results[0]["text"]

    def info(self):
        answer = self.agent.http.get(f"/code/contexts/{self.id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def interrupt(self):
        answer = self.agent.http.delete("/code", params={"id": self.id})
        assert answer.status_code == 200, answer.text

    def delete(self):
        answer = self.agent.http.delete(f"/code/contexts/{self.id}")
        assert answer.status_code == 200, answer.text


class Cell:
    """The events of one cell; their order is checked here for all tests."""

    def __init__(self, seen):
        self.events = seen
        kinds = [event["type"] for event in seen]
        assert kinds[0] == "init" and kinds[-1] in ("execution_complete", "error"), kinds
        assert sum(kind in ("init", "execution_complete", "error") for kind in kinds) == 2, kinds
        assert kinds.count("execution_count") <= 1
        if "result" in kinds:
            assert kinds.index("execution_count") < kinds.index("result")
        self.out = [event["text"] for event in seen if event["type"] == "stdout"]
        self.err = [event["text"] for event in seen if event["type"] == "stderr"]
        self.results = [event["results"] for event in seen if event["type"] == "result"]
        self.error = seen[-1].get("error")
        self.reason = seen[-1]["end"]["reason"]

    @property
    def count(self):
        return next(event["execution_count"] for event in self.events if event["type"] == "execution_count")

    @property
    def order(self):
        """Outputs and results as they came."""
        shown = []
        for event in self.events:
            if event["type"] in ("stdout", "stderr"):
                shown.append((event["type"], event["text"]))
            elif event["type"] == "result":
                shown.append(("result", event["results"]["text"]))
        return shown


def create(agent, language="python", **fields):
    answer = agent.http.post("/code/context", json={"language": language, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.json()["language"] == language
    return Context(agent, answer.json()["id"], language)


def wait_for_end(fd, timeout_s=30):
    """Until nobody holds the other end of the pipe or FIFO."""
    assert select.select([fd], [], [], timeout_s)[0], "it is still held"
    assert os.read(fd, 1) == b""


def hold(tmp_path, name="held"):
    """A FIFO and its reading end: a process that has it open is alive."""
    path = tmp_path / name
    os.mkfifo(path)
    return path, os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def gate(tmp_path):
    """A FIFO that a cell waits at by reading it; opening it for writing waits for the cell and lets it go."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def release(path):
    with open(path, "w"):
        pass


def stop(context, code):
    """Runs code, which shows something and then goes on for ever, and interrupts it; the last event."""
    with context.stream(code) as response:
        stream = events(response)
        for event in stream:
            if event["type"] in ("stdout", "stderr", "result"):
                break
        context.interrupt()
        return [event for event in stream][-1]


def fork(context):
    """The copy, or the answer that refuses one."""
    answer = context.agent.http.post(f"/code/contexts/{context.id}/fork")
    return Context(context.agent, answer.json()["id"], context.language) if answer.status_code == 200 else answer
