"""GET /docs: the page, and that its script reads and shows the whole document."""

import json
import os
import shutil
import subprocess

import httpx
import pytest
import yaml

from daemon import ROOT

NODE = shutil.which("node", path=f"{ROOT / 'build/venv/bin'}:{os.environ['PATH']}")
# Enough of a browser for the page: elements that collect text.
RUN = """
class Element {
  constructor(name) { this.name = name; this.parts = []; }
  set textContent(text) { this.parts = [String(text)]; }
  get textContent() { return this.parts.map((part) => part.textContent ?? part).join(" "); }
  append(...parts) { this.parts.push(...parts); }
}
const page = new Element("main");
globalThis.document = { createElement: (name) => new Element(name), getElementById: () => page };
const api = parseYaml(require("fs").readFileSync(0, "utf8"));
render(api, page);
console.log(JSON.stringify({ api, text: page.textContent }));
"""


def test_served_without_a_key(sandboxd):
    for prefix in ("", "/v1"):
        page = httpx.get(f"{sandboxd.url}{prefix}/docs")
        assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
        assert "http://" not in page.text and "https://" not in page.text  # nothing from elsewhere
        document = httpx.get(f"{sandboxd.url}{prefix}/openapi.yaml")
        assert document.text == (ROOT / "proto/lifecycle.yaml").read_text()


@pytest.mark.skipif(NODE is None, reason="there is no node to run the page's script")
def test_the_page_shows_every_operation(sandboxd, tmp_path):
    page, document = (httpx.get(f"{sandboxd.url}/{name}").text for name in ("docs", "openapi.yaml"))
    script = page.split("<script>")[1].split("</script>")[0]
    (tmp_path / "page.cjs").write_text(script.split('if (typeof document')[0] + RUN)
    ran = subprocess.run([NODE, tmp_path / "page.cjs"], input=document, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    shown = json.loads(ran.stdout)
    text = " ".join(shown["text"].split())
    assert shown["api"] == yaml.safe_load(document)  # the page reads YAML by itself
    for path in shown["api"]["paths"]:
        for method, operation in shown["api"]["paths"][path].items():
            if method != "parameters":
                assert f"{method} {path}" in text and operation["summary"] in text
    assert "undefined" not in text
    schemas = text.split(" Schemas ")[1]
    for name, schema in shown["api"]["components"]["schemas"].items():
        assert f" {name} " in f" {schemas} "
        for field in schema["properties"]:
            assert f" {field}: " in schemas or f" {field}?: " in schemas, f"{field} of {name} is not shown"


def test_every_route_is_written_down(sandboxd):
    """The table in the program and the document name the same paths."""
    table = (ROOT / "sandboxd/api/routes_lifecycle.c").read_text()
    routes = {line.split('"')[3].removesuffix("/*") for line in table.splitlines() if line.strip().startswith('ROUTE("')}
    written = {line.strip(" :") for line in (ROOT / "proto/lifecycle.yaml").read_text().splitlines() if line.startswith("  /")}
    assert routes - {"/docs", "/openapi.yaml"} == written
