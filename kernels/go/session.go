// Running cells in one interpreter.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"go/types"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	system "syscall"
	"time"

	"github.com/traefik/yaegi/interp"
	"github.com/traefik/yaegi/stdlib"
	"github.com/traefik/yaegi/stdlib/syscall"
	"github.com/traefik/yaegi/stdlib/unrestricted"
	"github.com/traefik/yaegi/stdlib/unsafe"
)

const valueMax = 4 << 20 // bytes of a result

type cellError struct {
	name, value string
	traceback   []string
}

type exit struct{ code int }

type session struct {
	kernel   *kernel
	interp   *interp.Interpreter
	imported map[[2]string]bool
	shown    *string
	mains    int
	outputs  []*output
}

var (
	position  = regexp.MustCompile(`^(?:_\.go:)?(\d+):(\d+): `)
	traceLine = regexp.MustCompile(`^(\d+):(\d+): panic: `)
)

// What later versions of the language have built in. A cell may declare its own.
const prelude = `
func min[T int | float64 | string](a, b T) T { if b < a { return b }; return a }
func max[T int | float64 | string](a, b T) T { if b > a { return b }; return a }
`

func newSession(k *kernel) *session {
	s := &session{kernel: k, imported: map[[2]string]bool{}}
	out := newOutput(os.Stdout, k)
	err := newOutput(os.Stderr, k)
	err.lines = true
	s.outputs = []*output{out, err}
	log.SetOutput(err)
	s.interp = interp.New(interp.Options{
		Unrestricted: true,
		Stdout:       out,
		Stderr:       err,
		Env:          os.Environ(),
		Args:         []string{"main"},
	})
	own := s.overrides(out, err)
	for _, symbols := range []interp.Exports{stdlib.Symbols, syscall.Symbols, unsafe.Symbols, unrestricted.Symbols} {
		for path, replaced := range own { // in all of them: the library is loaded as it is first seen
			for name, value := range replaced {
				if symbols[path] != nil {
					symbols[path][name] = value
				}
			}
		}
	}
	for _, symbols := range []interp.Exports{
		stdlib.Symbols, syscall.Symbols, unsafe.Symbols, unrestricted.Symbols,
		{"execd/execd": own["execd/execd"]},
	} {
		if e := s.interp.Use(symbols); e != nil {
			k.hello("the standard library: " + e.Error())
			os.Exit(1)
		}
	}
	s.interp.ImportUsed()
	for path := range stdlib.Symbols { // "encoding/json/json"
		dir := filepath.Dir(path)
		s.imported[[2]string{"", dir}] = filepath.Base(dir) == filepath.Base(path)
	}
	for _, path := range []string{"crypto/rand", "text/template", "html/template", "math/rand/v2"} {
		delete(s.imported, [2]string{"", path}) // share their name with another
	}
	delete(s.imported, [2]string{"", "math/rand"})
	_, _ = s.interp.Eval(prelude)
	return s
}

// mend puts in order what the last cell has done to the outputs.
func (s *session) mend() {
	s.outputs[0].mend(&os.Stdout)
	s.outputs[1].mend(&os.Stderr)
}

// overrides are the library's functions that must know of cells.
func (s *session) overrides(out, err *output) interp.Exports {
	turn := func(w any) {
		outputLock.Lock()
		defer outputLock.Unlock()
		if w == any(os.Stdout) {
			out.takeTurn()
		} else if w == any(os.Stderr) {
			err.takeTurn()
		}
	}
	leave := func(code int) { panic(exit{code}) }
	return interp.Exports{
		"os/os": {"Exit": reflect.ValueOf(leave)},
		"fmt/fmt": {
			"Fprint": reflect.ValueOf(func(w writer, a ...any) (int, error) {
				turn(w)
				return fmt.Fprint(w, a...)
			}),
			"Fprintf": reflect.ValueOf(func(w writer, f string, a ...any) (int, error) {
				turn(w)
				return fmt.Fprintf(w, f, a...)
			}),
			"Fprintln": reflect.ValueOf(func(w writer, a ...any) (int, error) {
				turn(w)
				return fmt.Fprintln(w, a...)
			}),
		},
		"time/time": {"Sleep": reflect.ValueOf(func(d time.Duration) {
			t := time.NewTimer(d)
			defer t.Stop()
			select {
			case <-t.C:
			case <-s.kernel.stopped():
			}
		})},
		"execd/execd": {"Show": reflect.ValueOf(s.show)},
	}
}

type writer = interface{ Write(p []byte) (int, error) }

func (s *session) show(values ...any) {
	var parts []string
	for i, v := range values {
		if v == nil && (i > 0 || len(values) == 1) { // (value, nil error) is a value
			continue
		}
		parts = append(parts, fmt.Sprintf("%+v", v))
	}
	text := strings.Join(parts, " ")
	if len(text) > valueMax {
		text = text[:valueMax] + "..."
	}
	s.shown = &text
}

// tookTrace takes the lines in which the interpreter tells where a panic came through.
func (k *kernel) tookTrace(p []byte) bool {
	if !traceLine.Match(p) {
		return false
	}
	k.lock.Lock()
	defer k.lock.Unlock()
	if k.stop != nil && len(k.trace) < 64 {
		k.trace = append(k.trace, strings.TrimSpace(string(p)))
	}
	return true
}

func (s *session) run(code string, stop <-chan struct{}) (value string, failed *cellError) {
	defer func() {
		if r := recover(); r != nil { // the interpreter has bugs; the state is worth more than the cell
			text := fmt.Sprint(r)
			value, failed = "", &cellError{"InterpreterError", text, []string{text}}
		}
	}()
	code = unmagic(code)
	s.shown = nil
	chunks := split(code)
	program := false
	for i, c := range chunks {
		program = program || c.kind == token.PACKAGE
		last := i == len(chunks)-1
		select {
		case <-stop:
			return "", interrupted()
		default:
		}
		if ok, err := s.runChunk(c, code, program, last, stop); err != nil {
			if program && !ok { // nothing of it has run
				return "", s.toolchain(code, err, stop)
			}
			return "", err
		}
	}
	if program {
		return "", s.callMain(code, stop)
	}
	if s.shown == nil {
		return "", nil
	}
	return *s.shown, nil
}

func interrupted() *cellError {
	return &cellError{"KeyboardInterrupt", "the cell was interrupted", []string{"KeyboardInterrupt"}}
}

var mainName = regexp.MustCompile(`^func\s+main\b`)

// runChunk says whether user code has begun to run.
func (s *session) runChunk(c chunk, code string, program, last bool, stop <-chan struct{}) (bool, *cellError) {
	switch c.kind {
	case token.PACKAGE:
		return false, nil
	case token.IMPORT:
		known := true
		for _, spec := range importSpecs(c.source) {
			known = known && s.imported[spec]
		}
		if specs := importSpecs(c.source); known && len(specs) > 0 {
			return false, nil
		}
		for _, spec := range importSpecs(c.source) {
			if s.imported[spec] {
				continue
			}
			one := chunk{c.kind, "import " + spec[0] + " " + strconv.Quote(spec[1]), c.offset}
			if ran, err := s.eval(one, one.source, code, stop); err != nil {
				return ran, err
			}
			s.imported[spec] = true
		}
		return false, nil
	case token.FUNC:
		if mainName.MatchString(c.source) { // declared as another function, it does not run by itself
			s.mains++
			source := mainName.ReplaceAllString(c.source, "func "+s.mainNow())
			ran, err := s.eval(c, source, code, stop)
			if err == nil && !program {
				return ran, s.callMain(code, stop)
			}
			return ran, err
		}
	case token.ILLEGAL:
		return s.runStatements(c, code, last, stop)
	}
	return s.eval(c, c.source, code, stop)
}

func (s *session) mainNow() string {
	return "execdMain" + strconv.Itoa(s.mains)
}

func (s *session) callMain(code string, stop <-chan struct{}) *cellError {
	if s.mains == 0 {
		return nil
	}
	_, err := s.eval(chunk{token.ILLEGAL, "", 0}, s.mainNow()+"()", code, stop)
	s.mains = s.mains + 1
	return err
}

func (s *session) runStatements(c chunk, code string, last bool, stop <-chan struct{}) (bool, *cellError) {
	list := statements(c.source)
	for _, stmt := range list {
		if _, ok := stmt.(*ast.DeferStmt); ok { // at the end of the cell, not of the session
			return s.eval(c, "func() {"+c.source+"\n}()", code, stop)
		}
	}
	if n := len(list); n > 0 && last {
		if e, ok := list[n-1].(*ast.ExprStmt); ok && !silent(e.X) {
			at, end := offsetOf(e.Pos()), offsetOf(e.End())
			before := chunk{c.kind, c.source[:at], c.offset}
			if n > 1 {
				if ran, err := s.eval(before, before.source, code, stop); err != nil {
					return ran, err
				}
			}
			after := chunk{c.kind, c.source[at:end], c.offset + at}
			ran, err := s.eval(after, "execd.Show("+after.source+")", code, stop)
			if err != nil && !ran { // a call without a value, or an error that reads better without us
				ran, err = s.eval(after, after.source, code, stop)
			}
			return ran, err
		}
	}
	return s.eval(c, c.source, code, stop)
}

// eval compiles and runs source, which stands for the chunk c; false when it was not run.
func (s *session) eval(c chunk, source, code string, stop <-chan struct{}) (ran bool, failed *cellError) {
	lines := strings.Count(code[:c.offset], "\n")
	column := c.offset - (strings.LastIndex(code[:c.offset], "\n") + 1)
	head := "" // statements that begin with a literal the interpreter would run again and again
	if c.kind == token.ILLEGAL && strings.HasPrefix(source, "func") {
		head = "_ = 0"
	}
	padded := strings.Repeat("\n", lines) + head + "\n" + strings.Repeat(" ", column) + source
	var program *interp.Program
	err := guard(func() (err error) {
		log.SetOutput(nullWriter{}) // the interpreter logs what it then panics with
		defer log.SetOutput(os.Stderr)
		program, err = s.interp.Compile(padded)
		return err
	})
	if err != nil {
		return false, s.compileError(err, c, code)
	}
	if program == nil {
		return false, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-stop:
			cancel()
		case <-done:
		}
	}()
	_, err = s.interp.ExecuteWithContext(ctx, program)
	select {
	case <-stop:
		return true, interrupted()
	default:
	}
	return true, s.runError(err, code)
}

type nullWriter struct{}

func (nullWriter) Write(p []byte) (int, error) { return len(p), nil }

func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the interpreter does not support this: %v", r)
		}
	}()
	return f()
}

func (s *session) compileError(err error, c chunk, code string) *cellError {
	var list scanner.ErrorList
	text := err.Error()
	if errors.As(err, &list) && len(list) > 0 {
		text = fmt.Sprintf("%d:%d: %s", list[0].Pos.Line, list[0].Pos.Column, list[0].Msg)
	}
	m := position.FindStringSubmatch(text)
	if m == nil {
		return &cellError{"CompileError", text, []string{text}}
	}
	line, _ := strconv.Atoi(m[1])
	column, _ := strconv.Atoi(m[2])
	line--
	message := text[len(m[0]):]
	if strings.HasSuffix(message, "definition loop") {
		if name, l, col := s.undefined(c, code); name != "" {
			message, line, column = "undefined: "+name, l, col
		}
	}
	text = fmt.Sprintf("%d:%d: %s", line, column, message)
	traceback := []string{text}
	if source := strings.Split(code, "\n"); line >= 1 && line <= len(source) {
		traceback = append(traceback, "    "+source[line-1])
		if column >= 1 && column <= len(source[line-1])+1 {
			blank := regexp.MustCompile(`[^\t]`).ReplaceAllString(source[line-1][:column-1], " ")
			traceback = append(traceback, "    "+blank+"^")
		}
	}
	return &cellError{"CompileError", text, traceback}
}

// undefined finds the first name in c that nothing declares: of those the interpreter says something else.
func (s *session) undefined(c chunk, code string) (string, int, int) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "", wrapHead+c.source+"\n}\n", 0)
	if err != nil {
		return "", 0, 0
	}
	for _, id := range f.Unresolved {
		if types.Universe.Lookup(id.Name) != nil || s.compiles("_ = "+id.Name) || s.compiles("var _ "+id.Name) {
			continue
		}
		at := c.offset + offsetOf(id.Pos())
		line := strings.Count(code[:at], "\n")
		return id.Name, line + 1, at - (strings.LastIndex(code[:at], "\n") + 1) + 1
	}
	return "", 0, 0
}

func (s *session) compiles(source string) bool {
	return guard(func() error {
		_, err := s.interp.Compile(source)
		return err
	}) == nil
}

func (s *session) runError(err error, code string) *cellError {
	var p interp.Panic
	if err == nil {
		return nil
	}
	if !errors.As(err, &p) {
		return &cellError{"RuntimeError", err.Error(), []string{err.Error()}}
	}
	if e, ok := p.Value.(exit); ok {
		if e.code == 0 {
			return nil
		}
		text := fmt.Sprintf("exit status %d", e.code)
		return &cellError{"ExitError", strconv.Itoa(e.code), []string{text}}
	}
	value := fmt.Sprint(p.Value)
	s.kernel.lock.Lock()
	defer s.kernel.lock.Unlock()
	traceback := []string{"panic: " + value}
	for _, line := range s.kernel.trace {
		m := traceLine.FindStringSubmatch(line)
		n, _ := strconv.Atoi(m[1])
		if n < 2 { // our own head
			continue
		}
		where := strings.Replace(line[len(m[0]):], "main."+s.mainNow(), "main.main", 1)
		traceback = append(traceback, fmt.Sprintf("    %d:%s %s", n-1, m[2], where))
	}
	return &cellError{"panic", value, traceback}
}

// toolchain runs a whole program that the interpreter cannot compile; why: what it had to say.
func (s *session) toolchain(code string, why *cellError, stop <-chan struct{}) *cellError {
	tool, err := exec.LookPath("go")
	if err != nil {
		return why
	}
	dir, err := os.MkdirTemp("", "cell-")
	if err != nil {
		return why
	}
	defer os.RemoveAll(dir)
	file, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "main")
	if os.WriteFile(file, []byte(code), 0o600) != nil {
		return why
	}
	var messages bytes.Buffer
	build := exec.Command(tool, "build", "-o", binary, file)
	build.Stdout, build.Stderr = &messages, &messages
	if failed := s.wait(build, stop); failed != nil {
		if failed.name == "KeyboardInterrupt" {
			return failed
		}
		return buildError(messages.String(), dir, why)
	}
	program := exec.Command(binary)
	program.Stdout, program.Stderr = os.Stdout, os.Stderr
	return s.wait(program, stop)
}

// wait ends the command with the cell; SIGINT has reached it already, as it reaches the whole group.
func (s *session) wait(cmd *exec.Cmd, stop <-chan struct{}) *cellError {
	if err := cmd.Start(); err != nil {
		return &cellError{"RuntimeError", err.Error(), []string{err.Error()}}
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		select {
		case <-stop:
			return interrupted()
		default:
		}
		// The signal may have been faster than the frame that comes with it.
		if status, ok := cmd.ProcessState.Sys().(system.WaitStatus); ok && status.Signal() == system.SIGINT {
			return interrupted()
		}
		if err != nil {
			return &cellError{"ExitError", strings.TrimPrefix(err.Error(), "exit status "), []string{err.Error()}}
		}
		return nil
	case <-stop:
		_ = cmd.Process.Kill()
		<-done
		return interrupted()
	}
}

func buildError(messages, dir string, why *cellError) *cellError {
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(messages), "\n") {
		if at := strings.LastIndex(line, "main.go:"); at >= 0 {
			line = line[at+len("main.go:"):]
		}
		if line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.ReplaceAll(line, dir, ""))
		}
	}
	if len(lines) == 0 {
		return why
	}
	return &cellError{"CompileError", lines[0], lines}
}
