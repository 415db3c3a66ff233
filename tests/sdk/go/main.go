// The official Go client's commands, sessions and files. Address and token are in EXECD_URL and EXECD_TOKEN;
// the working folder in EXECD_DIR. Says what differs and exits with 1.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	opensandbox "github.com/alibaba/OpenSandbox/sdks/sandbox/go"
)

var failed bool

func check(what string, got, want any) {
	if fmt.Sprint(got) != fmt.Sprint(want) {
		failed = true
		fmt.Printf("%s: %q, not %q\n", what, fmt.Sprint(got), fmt.Sprint(want))
	}
}

func must(what string, err error) {
	if err != nil {
		fmt.Printf("%s: %v\n", what, err)
		os.Exit(1)
	}
}

// What a stream brought: the texts of its output, and its last event.
type outcome struct {
	id, stdout, stderr, last, value string
}

func (o *outcome) handle(event opensandbox.StreamEvent) error {
	var body struct {
		Type, Text string
		Error      struct{ Evalue string }
	}
	if err := json.Unmarshal([]byte(event.Data), &body); err != nil {
		return fmt.Errorf("%q: %w", event.Data, err)
	}
	switch event.Event {
	case "init":
		o.id = body.Text
	case "stdout":
		o.stdout += body.Text + "\n"
	case "stderr":
		o.stderr += body.Text + "\n"
	case "execution_complete", "error":
		o.last, o.value = event.Event, body.Error.Evalue
	}
	return nil
}

func commands(ctx context.Context, client *opensandbox.ExecdClient, dir string) {
	var o outcome
	must("run", client.RunCommand(ctx, opensandbox.RunCommandRequest{
		Command: "echo out; echo $WORD >&2; pwd; exit 3", Cwd: dir, Envs: map[string]string{"WORD": "err"},
	}, o.handle))
	check("stdout", o.stdout, "out\n"+dir+"\n")
	check("stderr", o.stderr, "err\n")
	check("end", o.last+" "+o.value, "error 3")
	status, err := client.GetCommandStatus(ctx, o.id)
	must("status", err)
	check("exit code", *status.ExitCode, 3)

	o = outcome{}
	must("background", client.RunCommand(ctx, opensandbox.RunCommandRequest{
		Command: "echo one; read x < " + dir + "/go; echo two", Background: true,
	}, o.handle))
	check("background", o.last, "execution_complete")
	must("let it go", os.WriteFile(dir+"/go", []byte("\n"), 0o600))
	for {
		status, err = client.GetCommandStatus(ctx, o.id)
		must("status", err)
		if !status.Running {
			break
		}
	}
	logs, err := client.GetCommandLogs(ctx, o.id, nil)
	must("logs", err)
	check("logs", logs.Output, "one\ntwo\n")
	again, err := client.GetCommandLogs(ctx, o.id, &logs.Cursor)
	must("logs", err)
	check("logs behind the cursor", again.Output, "")

	o = outcome{}
	must("sleep", client.RunCommand(ctx, opensandbox.RunCommandRequest{Command: "sleep 1000", Background: true}, o.handle))
	must("interrupt", client.InterruptCommand(ctx, o.id))
	status, err = client.GetCommandStatus(ctx, o.id)
	must("status", err)
	check("running after the interrupt", status.Running, false)
}

func sessions(ctx context.Context, client *opensandbox.ExecdClient) {
	session, err := client.CreateSession(ctx)
	must("create a session", err)
	for _, step := range [][2]string{{"x=5; cd /usr", ""}, {"echo $x; pwd", "5\n/usr\n"}} {
		var o outcome
		must(step[0], client.RunInSession(ctx, session.ID, opensandbox.RunInSessionRequest{Command: step[0]}, o.handle))
		check(step[0], o.stdout+o.last, step[1]+"execution_complete")
	}
	must("delete the session", client.DeleteSession(ctx, session.ID))
	if err := client.DeleteSession(ctx, session.ID); err == nil {
		check("a second delete", "no error", "not found")
	}
}

func files(ctx context.Context, client *opensandbox.ExecdClient, dir string) {
	path, content := dir+"/sub/ü file.bin", bytes.Repeat([]byte("0123456789abcdef\x00\r\n"), 50000)
	must("mkdir", client.CreateDirectory(ctx, dir+"/sub", 750))
	must("upload", client.UploadFile(ctx, bytes.NewReader(content), opensandbox.UploadFileOptions{
		FileName: "f", Metadata: opensandbox.FileMetadata{Path: path, Mode: 640},
	}))
	info, err := client.GetFileInfo(ctx, path)
	must("info", err)
	check("size and mode", fmt.Sprint(info[path].Size, info[path].Mode), fmt.Sprint(len(content), 640))
	body, err := client.DownloadFile(ctx, path, "")
	must("download", err)
	back, err := io.ReadAll(body)
	must("download", err)
	must("download", body.Close())
	check("content", bytes.Equal(back, content), true)
	body, err = client.DownloadFile(ctx, path, "bytes=4-7")
	must("range", err)
	back, err = io.ReadAll(body)
	must("range", err)
	must("range", body.Close())
	check("range", string(back), "4567")

	listed, err := client.ListDirectory(ctx, dir+"/sub")
	must("list", err)
	check("list", fmt.Sprint(len(listed), listed[0].Path), "1"+path)
	found, err := client.SearchFiles(ctx, dir, "**/*.bin")
	must("search", err)
	check("search", fmt.Sprint(len(found), found[0].Path), "1"+path)
	replaced, err := client.ReplaceInFilesDetailed(ctx, opensandbox.ReplaceRequest{path: {Old: "abcdef", New: "x"}})
	must("replace", err)
	check("replaced", replaced[path].ReplacedCount, 50000)
	must("permissions", client.SetPermissions(ctx, opensandbox.PermissionsRequest{path: {Mode: 600}}))
	must("move", client.MoveFiles(ctx, opensandbox.MoveRequest{{Src: path, Dest: dir + "/moved"}}))
	must("delete", client.DeleteFiles(ctx, []string{dir + "/moved"}))
	must("rmdir", client.DeleteDirectory(ctx, dir+"/sub"))
	if _, err := client.GetFileInfo(ctx, path); err == nil || !strings.Contains(err.Error(), "404") && !strings.Contains(err.Error(), "FILE_NOT_FOUND") {
		check("info of what is gone", err, "FILE_NOT_FOUND")
	}
}

func main() {
	ctx, dir := context.Background(), os.Getenv("EXECD_DIR")
	client := opensandbox.NewExecdClient(os.Getenv("EXECD_URL"), os.Getenv("EXECD_TOKEN"))
	must("ping", client.Ping(ctx))
	metrics, err := client.GetMetrics(ctx)
	must("metrics", err)
	check("metrics", metrics.CPUCount > 0 && metrics.MemTotalMB > 0, true)
	commands(ctx, client, dir)
	sessions(ctx, client)
	files(ctx, client, dir)
	if failed {
		os.Exit(1)
	}
	fmt.Println("every value was right")
}
