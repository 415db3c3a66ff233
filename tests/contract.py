"""What an OpenAPI document says of an answer, held against the answer: of each request that the tests make."""

import re
from functools import cache

import jsonschema_rs
import yaml


def close(schema):
    """A field that is not written down is one too many, unless the document says otherwise."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            close(value)
    elif isinstance(schema, list):
        for value in schema:
            close(value)


class Contract:
    def __init__(self, file, prefix="/v1", apart=()):
        """apart: what is in paths of which nothing is said here."""
        self.document = yaml.safe_load(file.read_text())
        self.components = {"components": self.document["components"]}
        close(self.components)
        self.prefix, self.apart, self.validators = prefix, apart, {}
        self.paths = [
            (re.compile(re.sub(r"\{[^}]*\}", "[^/]+", path)), operations) for path, operations in self.document["paths"].items()
        ]

    def resolve(self, part):
        while isinstance(part, dict) and "$ref" in part:
            name = part["$ref"].removeprefix("#/").split("/")
            part = self.document
            for step in name:
                part = part[step]
        return part

    def operation(self, method, path):
        for pattern, operations in self.paths:
            if pattern.fullmatch(path):
                return operations.get(method.lower())
        return None

    def check(self, response):
        """An httpx response hook."""
        request = response.request
        path = request.url.raw_path.decode().split("?")[0]
        what = f"{request.method} {path}: {response.status_code}"
        path = path.removeprefix(self.prefix)
        if any(part in path for part in self.apart):
            return
        assert response.headers.get("x-request-id"), f"{what} without X-Request-ID"
        operation = self.operation(request.method, path)
        if not operation:
            assert response.status_code in (404, 405), f"{what} of an operation that is not written down"
            return
        status, responses = str(response.status_code), operation["responses"]
        told = self.resolve(responses.get(status) or responses.get(f"{status[0]}XX"))
        assert told, f"{what} is not written down"
        content = told.get("content", {})
        body = response.read()
        if not content:
            assert not body, f"{what} has a body: {body[:200]}"
            return
        kind = response.headers.get("content-type", "").split(";")[0]
        assert kind in content, f"{what} is {kind}"
        if kind != "application/json":
            return
        key = (request.method, id(operation), response.status_code)
        if key not in self.validators:
            schema = {**self.components, **content[kind]["schema"]}
            self.validators[key] = jsonschema_rs.validator_for(schema, validate_formats=True)
        wrong = [f"{error.instance_path}: {error.message}" for error in self.validators[key].iter_errors(response.json())]
        assert not wrong, f"{what}: {wrong}: {response.text[:400]}"


@cache
def contract(file, **options):
    return Contract(file, **options)
