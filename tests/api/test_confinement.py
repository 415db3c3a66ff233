"""Confinement, as an attacker would see it: denied calls and their names, Landlock, profiles, defaults, recording."""

import ast
import json
import os
import platform
import shutil
import subprocess

import pytest

from code_cells import Context, create, fork
from daemon import BUILD, ROOT, events

ATTACK = str(BUILD / "api/attack")
NAMES = subprocess.run([ATTACK, "list"], capture_output=True, text=True, check=True).stdout.split()
X86 = platform.machine() == "x86_64"

# What a program must go on being able to do.
HARMLESS = ["fork", "clone3_plain", "tcp", "getpid"]
# What `default` lets pass and `strict` does not.
STRICT_ONLY = ["ptrace", "process_vm_readv", "chroot", "name_to_handle_at", "raw", "raw_high_bits", "packet"]
# The call that each is known by, when it is not its own name.
CALLS = {
    "raw": "socket", "raw_high_bits": "socket", "packet": "socket", "alg": "socket", "vsock": "socket",
    "i386_ptrace": "ptrace", "i386_io_uring_setup": "io_uring_setup", "i386_getpid": "getpid",
    "x32_ptrace": "ptrace", "x32_getpid": "getpid",
}  # fmt: skip

root_only = pytest.mark.skipif(os.getuid() != 0, reason="users and setuid programs need root")


@pytest.fixture(scope="module", autouse=True)
def possible():
    """Nothing here can be seen without filters that tell of what they deny."""
    status = open("/proc/self/status").read()
    actions = "/proc/sys/kernel/seccomp/actions_avail"
    if "Seccomp:" not in status or "user_notif" not in (open(actions).read() if os.path.exists(actions) else ""):
        pytest.skip("this kernel has no seccomp notifications")


@pytest.fixture
def landlock(execd):
    version = execd.http.get("/confinement").json()["landlock"]["version"]
    if version < 1:
        pytest.skip("this kernel has no Landlock")
    return version


def end(evs):
    assert evs[-1]["type"] in ("execution_complete", "error"), evs
    return evs[-1]["end"]


def out(evs):
    return [event["text"] for event in evs if event["type"] == "stdout"]


def denied(record):
    return {(one["syscall"], one.get("arch")): one["count"] for one in record.get("denied", [])}


def attack(execd, confinement, *names, **fields):
    """What each call came to, and the end record."""
    evs = execd.run("", argv=[ATTACK, *names], confinement=confinement, **fields)
    return dict(line.split() for line in out(evs)), end(evs)


def refused(execd, confinement, status=400, path="/command", **fields):
    body = {"command": "true", **fields, "confinement": confinement}
    answer = execd.http.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()["message"]


# ---- what is denied ------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["default", "strict"])
def test_each_attack_is_denied_and_named(execd, profile):
    allowed = HARMLESS + (STRICT_ONLY if profile == "default" else [])
    names = [name for name in NAMES if name not in allowed]
    results, record = attack(execd, profile, *names)
    told = {(one["syscall"], one.get("arch")): one for one in record["denied"]}
    for name in names:
        arch = name.split("_")[0] if name.startswith(("i386_", "x32_")) else None
        one = told.get((CALLS.get(name, name), arch))
        assert one, f"{name} is not told: {record['denied']}"
        assert results[name] == one["errno"] == ("ENOSYS" if name == "clone3" else "EPERM"), name
    assert sum(one["count"] for one in record["denied"]) == len(names)
    log = execd.logs()
    assert all(f"system call {CALLS.get(name, name)} " in log for name in names)


@pytest.mark.parametrize("profile", ["default", "strict"])
def test_what_programs_need_goes_on_working(execd, profile):
    results, record = attack(execd, profile, *HARMLESS)
    # Making threads by clone3 is not told as a denial, though it has to be done the older way.
    assert results == {"fork": "ok", "clone3_plain": "ENOSYS", "tcp": "ok", "getpid": "ok"}
    assert "denied" not in record
    script = "seq 3 | sort -r; (exit 7) & wait $!; echo $?; date >/dev/null; test -w /dev/null"
    evs = execd.run(script, confinement=profile)
    assert out(evs) == ["3", "2", "1", "7"] and end(evs)["exit_code"] == 0


def test_a_thread_of_python_under_strict(execd):
    code = "import threading, socket, subprocess; t = threading.Thread(target=print, args=[42]); t.start(); t.join(); "
    code += "print(socket.getaddrinfo('127.0.0.1', 80)[0][4][1]); print(subprocess.run(['true']).returncode)"
    evs = execd.run("", argv=["python3", "-c", code], confinement="strict")
    assert out(evs) == ["42", "80", "0"] and "denied" not in end(evs)


def test_off_denies_nothing_and_is_the_default(execd):
    for fields in ({}, {"confinement": "off"}, {"confinement": None}):
        evs = execd.run("", argv=[ATTACK, "ptrace", "keyctl"], **fields)
        results, record = dict(line.split() for line in out(evs)), end(evs)
        assert results["ptrace"] == "ok" and "denied" not in record
        seccomp = out(execd.run("grep -e ^Seccomp: -e ^NoNewPrivs: /proc/self/status", **fields))
        here = [line.split()[1] for line in open("/proc/self/status") if line.startswith(("NoNewPrivs:", "Seccomp:"))]
        assert [line.split()[1] for line in seccomp] == here


def test_every_process_of_a_command_is_confined(execd):
    script = f"{ATTACK} unshare; ({ATTACK} unshare &); setsid {ATTACK} unshare | cat"
    record = end(execd.run(script, confinement="strict"))
    assert denied(record) == {("unshare", None): 3}


def test_a_filter_is_on_top_of_what_a_program_takes_for_itself(execd):
    """What is inherited cannot be answered or opened by the program: no descriptor of it is there."""
    evs = execd.run("ls -l /proc/self/fd", confinement="strict")
    assert not [line for line in out(evs) if "seccomp" in line or "socket" in line]
    before = out(execd.run("ls /proc/self/fd", confinement="off"))
    assert out(execd.run("ls /proc/self/fd", confinement="strict")) == before


@root_only
def test_a_setuid_program_gains_nothing(execd, tmp_path):
    program = tmp_path / "id"
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)
    for parent in tmp_path.parents[:3]:
        if str(parent) != "/tmp":
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    fields = {"argv": [str(program), "-u"], "uid": 65534, "gid": 65534, "cwd": "/"}
    assert out(execd.run("", **fields)) == ["0"], "the file system of the test does not honour setuid"
    for profile in ("default", "strict"):
        assert out(execd.run("", **fields, confinement=profile)) == ["65534"]
    assert out(execd.run("", **fields, confinement={"profile": "off"})) == ["65534"]


def test_a_flood_of_denied_calls_does_not_hold_up_the_agent(execd):
    """Each is counted; meanwhile others are served."""
    argv = [ATTACK, "-n", "400", "-t", "20", "keyctl"]
    with execd.stream("POST", "/command", json={"argv": argv, "confinement": "strict"}) as response:
        stream = events(response)
        next(stream)
        for _ in range(20):
            assert execd.http.get("/ping").status_code == 200
        assert out(execd.run("echo here")) == ["here"]
        record = end(list(stream))
    assert denied(record) == {("keyctl", None): 8000}


def test_many_different_calls_are_told_within_bounds(execd):
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpid"], "action": "SCMP_ACT_ERRNO"}]}
    code = "import ctypes\nfor nr in range(1000, 1200): ctypes.CDLL(None).syscall(nr)"
    strict = end(execd.run("", argv=["python3", "-c", code], confinement="strict"))
    assert len(strict["denied"]) == 65 and strict["denied"][-1] == {"syscall": "(others)", "count": 136}
    assert strict["denied"][0] == {"syscall": "syscall_1000", "count": 1, "errno": "ENOSYS"}
    assert denied(attack(execd, {"profile": profile}, "getpid")[1])[("getpid", None)] >= 1


def test_what_a_command_leaves_behind_is_still_answered(execd, tmp_path):
    gate, told = tmp_path / "gate", tmp_path / "told"
    os.mkfifo(gate)
    os.mkfifo(told)
    script = f"setsid sh -c 'read x <{gate}; {ATTACK} unshare >{told}' >/dev/null 2>&1 &"
    assert end(execd.run(script, confinement="strict"))["exit_code"] == 0
    gate.write_text("go\n")
    assert told.read_text() == "unshare EPERM\n"


def test_a_killing_profile_names_the_call(execd):
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["keyctl"], "action": "SCMP_ACT_KILL"}]}
    _, record = attack(execd, {"profile": profile}, "getpid", "keyctl", "getpid")
    assert record["reason"] == "signalled" and record["signal"] == "SIGKILL"
    assert record["denied"] == [{"syscall": "keyctl", "count": 1, "killed": True}]
    script = f"{ATTACK} -n 1 -t 4 keyctl; echo $?"
    evs = execd.run(script, confinement={"profile": profile})
    assert out(evs) == ["137"]


def test_calls_that_a_start_needs_can_be_denied_after_it(execd):
    """The listener comes home over sendmsg, under the filter: a profile that denies it is in force all the same."""
    names = ["sendmsg", "seccomp"]
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO"}]}
    code = (
        "import ctypes, socket\n"
        "a, b = socket.socketpair()\n"
        "try: a.sendmsg([b'x'])\nexcept PermissionError: print('sendmsg')\n"
        "print(ctypes.CDLL(None).syscall(317, 2, 0, ctypes.byref(ctypes.c_uint32(0x7fff0000))))\n"
        "ctypes.CDLL(None).unshare(0x10000000)"
    )
    if not X86:
        pytest.skip("the number of seccomp(2) is that of x86_64")
    evs = execd.run("", argv=["python3", "-c", code], confinement={"profile": profile})
    assert out(evs) == ["sendmsg", "-1"], evs


# ---- Landlock ------------------------------------------------------------------------------


def test_landlock_keeps_files_from_a_program(execd, landlock, tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (inside / "link").symlink_to(outside / "secret")
    (inside / "out").symlink_to(outside)
    rules = {"readOnly": ["/usr", "/bin", "/lib", "/lib64", "/etc", "/proc"], "readWrite": [str(inside)]}
    rules["readOnly"] = [path for path in rules["readOnly"] if os.path.exists(path)]
    tries = {
        "read": f"cat {outside}/secret",
        "list": f"ls {outside}",
        "link": f"cat {inside}/link",
        "dots": f"cat {inside}/../outside/secret",
        "proc": f"cat /proc/self/root{outside}/secret",
        "cwd": f"cd {outside} && cat secret",
        "write": f"echo x >{outside}/new",
        "through": f"echo x >{inside}/out/new",
        "append": f"echo x >>{outside}/secret",
        "remove": f"rm -f {outside}/secret && test ! -e {outside}/secret",
        "move in": f"mv {outside}/secret {inside}/secret",
        "link in": f"ln {outside}/secret {inside}/hard",
        "mkdir": f"mkdir {outside}/d",
        "write where it may read": "echo x >/etc/execd-test-landlock",
    }
    if landlock >= 3:
        tries["truncate"] = f"truncate -s 0 {outside}/secret"
    if landlock >= 6:
        tries["kill the agent"] = f"kill -0 {execd.pid}"
    script = "\n".join(f"if ({line}) >/dev/null 2>&1; then echo '{name}'; fi" for name, line in tries.items())
    good = f"echo fine >{inside}/new && cat {inside}/new && mv {inside}/new {inside}/newer && rm {inside}/newer"
    evs = execd.run(f"{script}\n{good}; : </dev/urandom >/dev/null", confinement={"landlock": rules}, cwd=str(inside))
    assert out(evs) == ["fine"], evs
    assert (outside / "secret").read_text() == "secret" and sorted(os.listdir(outside)) == ["secret"]


def test_a_rule_for_a_path_that_is_not_there_is_an_error_that_names_it(execd, landlock):
    message = refused(execd, {"landlock": {"readOnly": ["/usr", "/no/such/path"]}})
    assert "landlock.readOnly" in message and "'/no/such/path'" in message


# ---- privileges ----------------------------------------------------------------------------


def status_field(execd, field, **fields):
    return out(execd.run(f"grep ^{field}: /proc/self/status | cut -f 2", **fields))[0]


def test_a_filter_that_was_there_is_told(execd):
    ours = [line.split()[1] for line in open(f"/proc/{execd.pid}/status") if line.startswith("Seccomp:")]
    if not ours:
        pytest.skip("this kernel has no seccomp")
    assert execd.http.get("/confinement").json()["seccomp"]["inherited"] == (ours != ["0"])


@root_only
def test_capabilities_are_those_that_are_asked_for(execd):
    chosen = {"profile": "strict", "capabilities": ["CAP_CHOWN", "net_bind_service"]}
    held = int(status_field(execd, "CapPrm"), 16)
    want = held & (1 << 0 | 1 << 10)
    for field in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status_field(execd, field, confinement=chosen), 16) == want
        assert int(status_field(execd, field, confinement="strict"), 16) == 0
    for field in ("CapAmb", "CapInh"):
        assert int(status_field(execd, field, confinement=chosen), 16) == 0
    assert status_field(execd, "NoNewPrivs", confinement=chosen) == "1"


@root_only
def test_what_a_capability_brings_in_a_profile(execd):
    """The container's profile lets mount pass for whoever may mount: then the kernel decides."""
    assert attack(execd, {"profile": "default", "capabilities": ["CAP_SYS_ADMIN"]}, "mount")[0]["mount"] == "EFAULT"
    assert attack(execd, "default", "mount")[0]["mount"] == "EPERM"


def test_rlimits(execd):
    limits = [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    evs = execd.run("ulimit -Sn; ulimit -Hn; ulimit -c", confinement={"rlimits": limits})
    assert out(evs) == ["64", "128", "0"]


@root_only
def test_a_missing_privilege_is_named_with_the_step(execd):
    """A user who keeps the right to setuid programs may not install a filter."""
    message = refused(execd, {"profile": "strict", "noNewPrivileges": False}, 403, uid=65534, cwd="/")
    assert "install the seccomp filter" in message and "CAP_SYS_ADMIN" in message


@root_only
def test_an_agent_that_is_an_ordinary_user_confines_as_well(execd):
    results, record = attack(execd, "default", "unshare", "getpid", uid=65534, gid=65534, cwd="/")
    assert results == {"unshare": "EPERM", "getpid": "ok"}
    assert denied(record) == {("unshare", None): 1}


# ---- profiles ------------------------------------------------------------------------------


def test_a_profile_from_elsewhere_loads(start_execd, tmp_path):
    """Shaped as container engines write it: archMap, includes, excludes, minKernel, and names from other times."""
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        ],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [],
    }
    ours = json.loads((ROOT / "seccomp/profiles/default.json").read_text())["syscalls"]
    names = [name for rule in ours if "args" not in rule and "includes" not in rule for name in rule["names"]]
    profile["syscalls"] = [
        {"names": [*set(names) - {"clone3"}, "clone", "a_call_of_the_future"], "action": "SCMP_ACT_ALLOW", "args": None,
         "comment": "", "includes": {}, "excludes": {}},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["keyctl"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "999.0"}},
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
    ]  # fmt: skip
    file = tmp_path / "engine.json"
    file.write_text(json.dumps(profile))
    execd = start_execd(args=["--seccomp-profiles", f"engine={file}", "--confinement", "commands=engine"])
    listed = execd.http.get("/confinement").json()
    assert listed["profiles"] == ["off", "default", "strict", "engine"]
    assert listed["defaults"]["commands"]["profile"] == "engine"
    assert "a_call_of_the_future" in listed["defaults"]["commands"]["ignored_syscalls"]
    assert "a_call_of_the_future" in execd.logs()
    results, record = attack(execd, None, "getpid", "keyctl", "mount", "bpf", "ptrace")
    assert results == {"getpid": "ok", "keyctl": "EPERM", "mount": "EPERM", "bpf": "EOPNOTSUPP", "ptrace": "ok"}
    assert {one["syscall"]: one["errno"] for one in record["denied"]} == {
        "keyctl": "EPERM", "mount": "EPERM", "bpf": "EOPNOTSUPP"}  # fmt: skip
    if X86:
        results, _ = attack(execd, None, "i386_getpid")
        assert results["i386_getpid"] == "ok", "the profile names the architecture"


@pytest.mark.parametrize(
    "confinement,place",
    [
        (5, "confinement: must be"),
        ([], "confinement: must be"),
        ("no-such", "there is no profile 'no-such'"),
        ({"profil": "strict"}, "confinement.profil: there is no such field"),
        ({"profile": 1}, "confinement.profile: must be"),
        ({"profile": "no-such"}, "confinement.profile: there is no profile"),
        ({"profile": {}}, "confinement.profile.defaultAction: must be"),
        ({"profile": {"defaultAction": "ALLOW"}}, "confinement.profile.defaultAction: is none of"),
        ({"profile": {"defaultAction": "SCMP_ACT_NOTIFY"}}, "SCMP_ACT_NOTIFY is not possible"),
        ({"profile": {"defaultAction": "SCMP_ACT_ERRNO"}}, "must allow execve"),
        ({"profile": {"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": -1}}, "defaultErrnoRet: must be"),
        ({"profile": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4095}}, "defaultErrnoRet: must be"),
        ({"rlimits": [{"type": "RLIMIT_NOFILE", "hard": 0, "soft": 0}], "landlock": {}}, "RLIMIT_NOFILE"),
        ({"profile": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}}, "syscalls: must be an array"),
        ({"profile": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [1]}}, "syscalls[0]: must be an object"),
        ({"profile": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["x"]}}, "architectures: must be"),
        ({"capabilities": "CAP_CHOWN"}, "confinement.capabilities: must be an array"),
        ({"capabilities": ["CAP_NO_SUCH"]}, "confinement.capabilities[0]: 'CAP_NO_SUCH' is no capability"),
        ({"noNewPrivileges": 1}, "confinement.noNewPrivileges: must be a boolean"),
        ({"landlock": []}, "confinement.landlock: must be an object"),
        ({"landlock": {"read": []}}, "confinement.landlock.read: is neither"),
        ({"landlock": {"readOnly": ["usr"]}}, "confinement.landlock.readOnly[0]: must be an absolute path"),
        ({"landlock": {"readOnly": ["/x"] * 65}}, "at most 64 paths"),
        ({"rlimits": [{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]}, "confinement.rlimits[0]: must be"),
        ({"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]}, "confinement.rlimits[0]: must be"),
    ],
)
def test_a_wrong_confinement_is_refused_by_name(execd, confinement, place):
    assert place in refused(execd, confinement)


def test_what_starts_with_a_wrong_setting_says_so(tmp_path):
    file = tmp_path / "bad.json"
    file.write_text('{"defaultAction": "SCMP_ACT_ALLOW",\n "syscalls": [{"names": 3}]}')
    for args, message in (
        (["--confinement", "no-such"], "there is no profile 'no-such'"),
        (["--confinement", "shells=strict"], "'shells' is none of"),
        (["--seccomp-profiles", f"bad={file}"], "syscalls[0]"),
        (["--seccomp-profiles", "x=/no/such"], "/no/such"),
        (["--seccomp-profiles", f"strict={file}"], "'strict'"),
        (["--seccomp-profiles", "justaname"], "NAME=FILE"),
    ):
        done = subprocess.run([str(BUILD / "execd"), "--port", "0", *args], capture_output=True, text=True, timeout=60)
        assert done.returncode != 0 and message in done.stderr, (args, done.stderr)


# ---- recording -----------------------------------------------------------------------------


def test_a_recorded_profile_fits_the_command_and_no_more(execd, tmp_path):
    room = tmp_path / "room"
    room.mkdir()
    script = f"sort <<<x; mkdir {room}/d$$; ls {room} | wc -l"
    evs = execd.run(script, confinement={"record": True})
    assert out(evs)[-1] == "1"
    id = evs[0]["text"]
    answer = execd.http.get(f"/command/{id}/profile")
    assert answer.status_code == 200
    profile = answer.json()
    names = profile["syscalls"][0]["names"]
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO" and {"execve", "write", "mkdir"} & set(names)
    assert len(names) == len(set(names))
    evs = execd.run(script, confinement={"profile": profile})
    assert end(evs)["exit_code"] == 0 and out(evs)[-1] == "2" and "denied" not in end(evs), evs
    evs = execd.run(f"ln -s x {room}/link", confinement={"profile": profile})
    assert any(call.startswith("symlink") for call, _ in denied(end(evs))), evs
    assert not (room / "link").exists()


def test_no_profile_but_of_a_recorded_command(execd):
    id = execd.run("true")[0]["text"]
    assert execd.http.get(f"/command/{id}/profile").status_code == 409
    assert execd.http.get("/command/none/profile").status_code == 404
    for path, fields in (("/session", {}), ("/pty", {}), ("/code/context", {"language": "python"})):
        assert "only a command can be recorded" in refused(execd, {"record": True}, path=path, **fields)


# ---- where it can be named -----------------------------------------------------------------


def test_the_status_says_what_was_applied(execd):
    id = execd.run("true", confinement="strict")[0]["text"]
    applied = execd.http.get(f"/command/status/{id}").json()["confinement"]
    assert applied == {"profile": "strict", "noNewPrivileges": True, "capabilities": [], "reported": True}
    id = execd.run("true")[0]["text"]
    assert "confinement" not in execd.http.get(f"/command/status/{id}").json()


def session_run(execd, id, command):
    with execd.stream("POST", f"/session/{id}/run", json={"command": command}) as response:
        return list(events(response))


def test_a_session(execd):
    answer = execd.http.post("/session", json={"confinement": "strict"}).json()
    assert answer["confinement"]["profile"] == "strict"
    id = answer["session_id"]
    assert denied(end(session_run(execd, id, f"{ATTACK} unshare mount"))) == {("unshare", None): 1, ("mount", None): 1}
    assert "denied" not in end(session_run(execd, id, "echo fine"))
    # A script that ends the shell: its denials are its own, and the next shell is confined as well.
    assert denied(end(session_run(execd, id, f"{ATTACK} keyctl; exit 3"))) == {("keyctl", None): 1}
    assert denied(end(session_run(execd, id, f"{ATTACK} bpf"))) == {("bpf", None): 1}


def test_a_batch(execd):
    operations = [{"op": "run", "argv": [ATTACK, "unshare"], "confinement": "strict"},
                  {"op": "run", "argv": [ATTACK, "getpid"]}]  # fmt: skip
    answer = execd.http.post("/batch", json={"operations": operations})
    assert answer.status_code == 200, answer.text
    assert "unshare EPERM" in answer.text and '"syscall":"unshare"' in answer.text.replace(": ", ":")
    operations[1]["confinement"] = {"profile": "none"}
    answer = execd.http.post("/batch", json={"operations": operations})
    assert answer.status_code == 400 and "operations[1]: confinement.profile" in answer.json()["message"]


@pytest.mark.parametrize("language", ["python", "bash", "javascript"])
def test_a_code_context(execd, language):
    program = {"javascript": "node", "bash": "bash"}.get(language, "python3")
    if not shutil.which(program):
        pytest.skip(f"there is no {program}")
    code = {
        "python": f"import subprocess; subprocess.run(['{ATTACK}', 'unshare'])",
        "bash": f"{ATTACK} unshare",
        "javascript": f"require('child_process').execFileSync('{ATTACK}', ['unshare']); 1",
    }[language]
    context = create(execd, language, confinement="strict")
    assert context.info()["confinement"]["profile"] == "strict"
    for _ in range(2):
        cell = context.run(code)
        assert cell.error is None
        assert denied(cell.events[-1]["end"]) == {("unshare", None): 1}
    assert "denied" not in context.run("1" if language != "bash" else ":").events[-1]["end"]
    assert execd.http.post(f"/code/contexts/{context.id}/restart").status_code == 200
    assert denied(context.run(code).events[-1]["end"]) == {("unshare", None): 1}


def test_a_warm_kernel_is_not_taken_for_a_confined_context(execd):
    """Contexts that are forked from the zygote are there; a confined one is not one of them, nor is its copy free."""
    code = "import re; re.search(r'Seccomp:\\s+(\\d)', open('/proc/self/status').read())[1]"
    free = create(execd)
    before = free.value(code)
    confined = create(execd, confinement="strict")
    assert confined.value(code) == "'2'"
    assert fork(confined).value(code) == "'2'"
    assert create(execd).value(code) == before


def test_a_confined_context_is_forked_and_has_put_it_on_itself(execd):
    """Once the zygote is there: what is forked from it carries its confinement before it runs anything."""
    create(execd).value("1")  # its zygote is ready by then
    code = """import os, re
status = open('/proc/self/status').read()
links = [os.readlink('/proc/self/fd/' + fd) for fd in os.listdir('/proc/self/fd') if os.path.lexists('/proc/self/fd/' + fd)]
[b'EXECD_COMMAND_ID' in open('/proc/self/environ', 'rb').read(), [re.search(name + r':\\s+(\\w+)', status)[1]
 for name in ('Seccomp', 'NoNewPrivs', 'CapEff', 'CapBnd')], [link for link in links if 'seccomp' in link or 'confinement' in link]]
"""
    for _ in range(2):
        context = create(execd, confinement="strict")
        cold, status, links = ast.literal_eval(context.value(code))
        assert not cold and links == []
        assert status[:2] == ["2", "1"] and int(status[2], 16) == int(status[3], 16) == 0
        cell = context.run(f"import subprocess; subprocess.run(['{ATTACK}', 'unshare'])")
        assert denied(cell.events[-1]["end"]) == {("unshare", None): 1}
        copy = fork(context)
        assert copy.value("re.search(r'Seccomp:\\s+(\\d)', open('/proc/self/status').read())[1]") == "'2'"


def test_defaults_of_each_kind(start_execd):
    execd = start_execd(env={"EXECD_CONFINEMENT": "strict"}, args=["--confinement", "default,commands=strict,contexts=strict"])
    defaults = execd.http.get("/confinement").json()["defaults"]
    assert {kind: one["profile"] for kind, one in defaults.items()} == {
        "commands": "strict", "sessions": "default", "ptys": "default", "contexts": "strict"}  # fmt: skip
    assert end(execd.run(f"{ATTACK} unshare"))["denied"][0]["syscall"] == "unshare"
    assert "denied" not in end(execd.run(f"{ATTACK} ptrace", confinement="off"))
    id = execd.http.post("/session").json()["session_id"]
    assert denied(end(session_run(execd, id, f"{ATTACK} keyctl ptrace"))) == {("keyctl", None): 1}
    with execd.stream("POST", "/code", json={"code": f"{ATTACK} ptrace"}) as response:  # a command
        assert denied(end(list(events(response)))) == {("ptrace", None): 1}
    cell = Context(execd).run(f"import subprocess; subprocess.run(['{ATTACK}', 'ptrace'])")
    assert denied(cell.events[-1]["end"]) == {("ptrace", None): 1}


def test_the_environment_sets_defaults(start_execd):
    execd = start_execd(env={"EXECD_CONFINEMENT": "commands=strict"})
    assert execd.http.get("/confinement").json()["defaults"]["commands"]["profile"] == "strict"
