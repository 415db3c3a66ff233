// An isolated session through the official JavaScript client: node isolated.mjs URL TOKEN WORKSPACE
import { createRequire } from "node:module";

const require = createRequire(process.env.NODE_HOME + "/");
const { ConnectionConfig, createDefaultAdapterFactory } = require("@alibaba-group/opensandbox");
const [url, token, workspace] = process.argv.slice(2);

const { isolation } = createDefaultAdapterFactory().createExecdStack({
  connectionConfig: new ConnectionConfig({ domain: "127.0.0.1" }),
  execdBaseUrl: url,
  endpointHeaders: { "X-EXECD-ACCESS-TOKEN": token },
});
const capabilities = await isolation.capabilities();
const session = await isolation.create({ workspace: { path: workspace, mode: "overlay" } });
const run = await session.run("cat a.txt; echo new > b.txt; exit 3");
await session.files.writeFiles([{ path: `${workspace}/c.txt`, data: "written" }]);
const read = await session.files.readFile(`${workspace}/b.txt`);
const again = await session.run("cat c.txt");
const listed = await isolation.list();
await session.delete();
console.log(
  JSON.stringify({
    available: capabilities.available,
    exitCode: run.exitCode,
    stdout: run.logs.stdout.map((m) => m.text).join(""),
    read,
    again: again.logs.stdout.map((m) => m.text).join(""),
    listed: listed.length,
  }),
);
