"""sandboxd's configuration file."""

import os
import subprocess

import pytest

from daemon import SANDBOXD


def sandboxd(*args, home, **env):
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), **env}
    return subprocess.run([SANDBOXD, *map(str, args)], env=environ, capture_output=True, text=True, timeout=60)


def refused(tmp_path, text):
    file = tmp_path / "c.toml"
    file.write_text(text)
    done = sandboxd("--config", file, "--state", tmp_path / "s", home=tmp_path)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize(
    "text, said",
    [
        ('[server]\nport = "x"\n', "line 2: server.port: expected an integer, got a string"),
        ("[server]\nport = 70000\n", "line 2: server.port: 70000 is not from 0 to 65535"),
        ("[server]\n\nhost = 1\n", "line 3: server.host: expected a string, got an integer"),
        ('[log]\nlevel = "loud"\n', "line 2: log.level: 'loud' is none of"),
        ('[runtime]\ntype = "kubernetes"\n', "line 2: runtime.type: 'kubernetes' is not built into"),
        ("[server\n", "line 1: ']' is missing"),
        ('[images]\n"x" = 5\n', "line 2: images.x: expected a string, got an integer"),
        ('[images]\n"x" = "nowhere"\n', "line 2: images.x: "),
        ('[server]\nhost = "0.0.0.0"\n', "without an API key"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, said):
    assert said in refused(tmp_path, text)


def test_a_file_that_was_named_must_be_there(tmp_path):
    for arguments, env in ((["--config", "/no/such"], {}), ([], {"SANDBOX_CONFIG_PATH": "/no/such"})):
        done = sandboxd(*arguments, home=tmp_path, **env)
        assert done.returncode != 0 and "'/no/such'" in done.stderr


def test_settings_take_effect_unknown_ones_are_warned_of_and_flags_win(tmp_path, start_sandboxd):
    file = tmp_path / "c.toml"
    file.write_text('[server]\nport = 1\nbogus = 2\n[log]\nlevel = "DEBUG"\n[nope]\n[server.x]\n[images]\n"mine/*" = "host"\n')
    server = start_sandboxd(args=["--config", file])
    said = server.logs()
    assert "server.bogus (line 3) is not a setting" in said
    assert "nope (line 6) is not a section" in said
    body = {"image": {"uri": "mine/x:1"}, "entrypoint": ["sleep", "1000"], "resourceLimits": {}}
    assert server.http.post("/sandboxes", json=body).status_code == 202


def test_init_config_writes_what_can_be_read(tmp_path):
    file = tmp_path / "new.toml"
    assert sandboxd("init-config", file, home=tmp_path).returncode == 0
    assert oct(file.stat().st_mode & 0o777) == "0o600"
    again = sandboxd("init-config", file, home=tmp_path)
    assert again.returncode != 0 and "--force" in again.stderr
    assert sandboxd("init-config", file, "--force", home=tmp_path).returncode == 0
    text = file.read_text()
    assert "[server]" in text and "port = 8080" in text
    # Read back, it changes nothing: what is asked for still stops at the next flag.
    done = sandboxd("--config", file, "--log-level", "nonsense", home=tmp_path)
    assert "--log-level" in done.stderr and "line" not in done.stderr
