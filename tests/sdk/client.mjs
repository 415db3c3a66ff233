// The official JavaScript client's commands, sessions and files. Says what differs and exits with 1.
// Address and key are in OPEN_SANDBOX_DOMAIN and OPEN_SANDBOX_API_KEY.
import assert from "node:assert/strict";
import { ConnectionConfig, Sandbox } from "@alibaba-group/opensandbox";

const text = (messages) => messages.map((message) => message.text);
const sandbox = await Sandbox.create({
  connectionConfig: new ConnectionConfig(),
  image: "ubuntu",
  timeoutSeconds: 600,
});
const { commands, files } = sandbox;

async function testCommands() {
  const live = [];
  const done = await commands.run(
    "echo out; echo $WORD >&2; pwd; exit 3",
    { workingDirectory: "/usr", envs: { WORD: "err" } },
    { onStdout: (message) => live.push(message.text) },
  );
  assert.deepEqual(text(done.logs.stdout), ["out", "/usr"]);
  assert.deepEqual(live, ["out", "/usr"]);
  assert.deepEqual(text(done.logs.stderr), ["err"]);
  assert.equal(done.exitCode, 3);
  assert.equal((await commands.getCommandStatus(done.id)).exitCode, 3);

  const started = await commands.run("echo one; sleep 1000", { background: true });
  assert.equal((await commands.getCommandStatus(started.id)).running, true);
  await commands.interrupt(started.id);
  assert.equal((await commands.getCommandStatus(started.id)).running, false);
  const logs = await commands.getBackgroundCommandLogs(started.id);
  assert.equal(logs.content, "one\n");
  assert.equal((await commands.getBackgroundCommandLogs(started.id, logs.cursor)).content, "");
}

async function testSessions() {
  const session = await commands.createSession({ workingDirectory: "/usr" });
  await commands.runInSession(session, "x=5; f() { echo f$x; }");
  const second = await commands.runInSession(session, "f; pwd; (exit 7)");
  assert.deepEqual(text(second.logs.stdout), ["f5", "/usr"]);
  assert.equal(second.exitCode, 7);
  await commands.deleteSession(session);
  await assert.rejects(commands.runInSession(session, "true"));
}

async function testFiles() {
  const dir = "/tmp/client", path = `${dir}/ü file.bin`;
  const data = new Uint8Array(3_000_000).map((_, i) => i * 31 + (i >> 8));
  await files.createDirectories([{ path: dir, mode: 755 }]);
  await files.writeFiles([
    { path, data, mode: 640 },
    { path: `${dir}/text`, data: "old text, old", mode: 644 },
  ]);
  assert.deepEqual(Buffer.from(await files.readBytes(path)), Buffer.from(data));
  assert.deepEqual(Buffer.from(await files.readBytes(path, { range: "bytes=5-9" })), Buffer.from(data.slice(5, 10)));
  const info = (await files.getFileInfo([path]))[path];
  assert.equal(info.size, data.length);
  assert.equal(info.mode, 640);
  await files.replaceContents([{ path: `${dir}/text`, oldContent: "old", newContent: "new" }]);
  assert.equal(await files.readFile(`${dir}/text`), "new text, new");
  await files.setPermissions([{ path: `${dir}/text`, mode: 600 }]);
  await files.moveFiles([{ src: `${dir}/text`, dest: `${dir}/moved` }]);
  assert.deepEqual((await files.listDirectory({ path: dir })).map((entry) => entry.path).sort(), [`${dir}/moved`, path]);
  assert.deepEqual((await files.search({ path: dir, pattern: "*.bin" })).map((entry) => entry.path), [path]);
  await files.deleteFiles([path]);
  await files.deleteDirectories([dir]);
  await assert.rejects(files.readFile(path));
}

async function testPauseAndResume() {
  await files.writeFiles([{ path: "/tmp/kept", data: "kept" }]);
  await sandbox.pause();
  const resumed = await sandbox.resume();
  assert.equal(resumed.id, sandbox.id);
  assert.equal(await resumed.files.readFile("/tmp/kept"), "kept");
  assert.equal((await resumed.getInfo()).status.state, "Running");
  await resumed.pause();
  const again = await Sandbox.resume({ connectionConfig: new ConnectionConfig(), sandboxId: sandbox.id });
  assert.deepEqual(text((await again.commands.run("echo up")).logs.stdout), ["up"]);
  await again.close();
}

try {
  for (const test of [testCommands, testSessions, testFiles, testPauseAndResume]) await test();
  console.log("every value was right");
} finally {
  await sandbox.kill();
  await sandbox.close();
}
