// The official Java client against a running sandboxd: Main HOST:PORT KEY. Prints "ok" at the end; a value that differs ends it.

import com.alibaba.opensandbox.sandbox.Sandbox;
import com.alibaba.opensandbox.sandbox.SandboxManager;
import com.alibaba.opensandbox.sandbox.config.ConnectionConfig;
import com.alibaba.opensandbox.sandbox.domain.exceptions.SandboxApiException;
import com.alibaba.opensandbox.sandbox.domain.models.execd.executions.Execution;
import com.alibaba.opensandbox.sandbox.domain.models.execd.executions.ExecutionHandlers;
import com.alibaba.opensandbox.sandbox.domain.models.execd.executions.OutputMessage;
import com.alibaba.opensandbox.sandbox.domain.models.execd.executions.RunCommandRequest;
import com.alibaba.opensandbox.sandbox.domain.models.execd.filesystem.ContentReplaceEntry;
import com.alibaba.opensandbox.sandbox.domain.models.execd.filesystem.MoveEntry;
import com.alibaba.opensandbox.sandbox.domain.models.execd.filesystem.SearchEntry;
import com.alibaba.opensandbox.sandbox.domain.models.execd.filesystem.SetPermissionEntry;
import com.alibaba.opensandbox.sandbox.domain.models.execd.filesystem.WriteEntry;
import com.alibaba.opensandbox.sandbox.domain.models.sandboxes.SandboxFilter;
import com.alibaba.opensandbox.sandbox.domain.models.sandboxes.SandboxState;
import java.time.Duration;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;

public class Main {
	static void same(Object got, Object want) {
		if (!Objects.equals(got, want)) throw new AssertionError("got " + got + ", not " + want);
	}

	static List<String> texts(List<OutputMessage> messages) {
		return messages.stream().map(OutputMessage::getText).toList();
	}

	static void commands(Sandbox sandbox) {
		var seen = new ArrayList<String>();
		var handlers = ExecutionHandlers.builder()
				.onInit(init -> seen.add("init"))
				.onStdout(message -> seen.add(message.getText()))
				.onStderr(message -> seen.add("err " + message.getText()))
				.onExecutionComplete(complete -> seen.add("complete"))
				.build();
		Execution run = sandbox.commands().run(RunCommandRequest.builder()
				.command("echo 'Hello Sandbox!'; pwd; cat missing")
				.workingDirectory("/usr")
				.handlers(handlers)
				.build());
		same(texts(run.getLogs().getStdout()), List.of("Hello Sandbox!", "/usr"));
		same(texts(run.getLogs().getStderr()), List.of("cat: missing: No such file or directory"));
		same(run.getError().getValue(), "1");
		same(seen.get(0), "init");
		same(seen.contains("err cat: missing: No such file or directory"), true);

		run = sandbox.commands().run("echo $WHO");
		same(texts(run.getLogs().getStdout()), List.of("java"));
		same(run.getError(), null);
		var background = RunCommandRequest.builder().command("sleep 1000").background(true).build();
		sandbox.commands().interrupt(sandbox.commands().run(background).getId());
	}

	static void files(Sandbox sandbox) {
		var files = sandbox.files();
		files.createDirectories(List.of(WriteEntry.builder().path("/root/made/sub").mode(755).build()));
		files.write(List.of(WriteEntry.builder().path("/root/made/a.txt").data("one two").mode(640).build(),
				WriteEntry.builder().path("/root/made/sub/b.txt").data("b").build()));
		same(files.readFile("/root/made/a.txt"), "one two");
		same(new String(files.readByteArray("/root/made/a.txt", "bytes=4-6")), "two");
		files.replaceContents(List.of(ContentReplaceEntry.builder().path("/root/made/a.txt").oldContent("two").newContent("2").build()));
		same(files.readFile("/root/made/a.txt"), "one 2");
		files.moveFiles(List.of(MoveEntry.builder().src("/root/made/a.txt").dest("/root/made/c.txt").build()));
		files.setPermissions(List.of(SetPermissionEntry.builder().path("/root/made/c.txt").owner("nobody").group("nogroup").mode(600).build()));
		var info = files.readFileInfo(List.of("/root/made/c.txt")).get("/root/made/c.txt");
		same(info.getMode(), 600);
		same(info.getOwner() + ":" + info.getGroup(), "nobody:nogroup");
		same(info.getSize(), 5L);
		var found = files.search(SearchEntry.builder().path("/root/made").pattern("*.txt").build());
		same(found.stream().map(entry -> entry.getPath()).sorted().toList(), List.of("/root/made/c.txt", "/root/made/sub/b.txt"));
		files.deleteFiles(List.of("/root/made/c.txt"));
		files.deleteDirectories(List.of("/root/made"));
		try {
			files.readFile("/root/made/c.txt");
			throw new AssertionError("a deleted file was read");
		} catch (SandboxApiException missing) {
			same(missing.getStatusCode(), 404);
		}
	}

	static void lifecycle(Sandbox sandbox, ConnectionConfig config) {
		var info = sandbox.getInfo();
		same(info.getStatus().getState(), SandboxState.RUNNING);
		same(info.getImage().getImage(), "ubuntu");
		same(info.getMetadata(), Map.of("team", "blue"));
		sandbox.renew(Duration.ofMinutes(30));
		same(sandbox.getInfo().getExpiresAt().isAfter(OffsetDateTime.now().plusMinutes(29)), true);
		same(sandbox.isHealthy(), true);
		same(sandbox.getMetrics().getMemoryTotalInMiB() > 0, true);
		same(sandbox.getEndpoint(44772).getEndpoint().isEmpty(), false);
		sandbox.pause();
		while (!sandbox.getInfo().getStatus().getState().equals(SandboxState.PAUSED)) Thread.onSpinWait();
		sandbox.resume();
		try (var manager = SandboxManager.builder().connectionConfig(config).build()) {
			var found = manager.listSandboxInfos(SandboxFilter.builder().states(SandboxState.RUNNING).metadata(Map.of("team", "blue")).build());
			same(found.getSandboxInfos().stream().map(one -> one.getId()).toList(), List.of(sandbox.getId()));
			manager.killSandbox(sandbox.getId());
		}
	}

	public static void main(String[] args) {
		var config = ConnectionConfig.builder().domain(args[0]).apiKey(args[1]).build();
		var builder = Sandbox.builder().connectionConfig(config).image("ubuntu").env("WHO", "java").metadata("team", "blue");
		try (Sandbox sandbox = builder.readyTimeout(Duration.ofSeconds(60)).build()) {
			commands(sandbox);
			files(sandbox);
			lifecycle(sandbox, config);
		}
		System.out.println("ok");
		System.exit(0); // threads of its HTTP client linger for a minute
	}
}
