// The quick start of the official JavaScript SDK. Address and key are in OPEN_SANDBOX_DOMAIN and _API_KEY.
import { ConnectionConfig, Sandbox } from "@alibaba-group/opensandbox";

const sandbox = await Sandbox.create({
  connectionConfig: new ConnectionConfig(),
  image: "ubuntu",
  timeoutSeconds: 10 * 60,
});
console.log("sandbox", sandbox.id);

const execution = await sandbox.commands.run("echo 'Hello Sandbox!'");
console.log(execution.logs.stdout[0]?.text);

await sandbox.files.createDirectories([{ path: "/tmp/demo", mode: 755 }]);
await sandbox.files.writeFiles([{ path: "/tmp/demo/hello.txt", data: "Hello World", mode: 644 }]);
const content = await sandbox.files.readFile("/tmp/demo/hello.txt");
console.log("Content:", content);

await sandbox.kill();
await sandbox.close();
console.log("killed");
