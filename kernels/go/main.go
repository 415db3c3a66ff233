// The Go kernel: an interpreter (yaegi) behind proto/kernel-protocol.md, and the Go toolchain, where the
// image has one, for whole programs that the interpreter cannot compile.
//
// One goroutine reads frames, one runs the cells. A cell that is interrupted is stopped between two
// operations of the interpreter. What stands in a call of the compiled library that cannot be broken off (a
// mutex, a read) is left behind: its goroutine ends when the call returns.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
)

const controlFD, assetsFD = 3, 4

type kernel struct {
	wire   *wire
	interp *session

	lock  sync.Mutex
	stop  chan struct{} // closed by an interrupt; nil between cells
	trace []string      // what the interpreter says of a panic
}

type request struct {
	Cell int64
	Code string
	Cwd  string
}

func main() {
	syscall.CloseOnExec(controlFD)
	_ = syscall.Close(assetsFD)
	k := &kernel{wire: &wire{
		file:     os.NewFile(controlFD, "control"),
		answered: map[int64]chan struct{}{},
	}}
	// SIGINT is for what a cell has started; unlike ignoring it, this is not handed on to that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT)
	k.interp = newSession(k)
	k.hello("")
	cells := make(chan request, 1)
	go k.read(cells)
	for r := range cells {
		k.execute(r)
	}
}

func (k *kernel) hello(err string) {
	m := map[string]any{"protocol": 1, "language": "go", "version": runtime.Version()[2:], "interrupt": "frame"}
	if err != "" {
		m["error"] = err
	}
	k.wire.send('H', m)
}

func (k *kernel) read(cells chan<- request) {
	for {
		var r request
		f, err := k.wire.receive()
		if errors.Is(err, io.EOF) {
			os.Exit(0)
		}
		if err == nil && f.kind == 'Y' {
			err = k.wire.synced(f.payload)
		} else if err == nil {
			err = json.Unmarshal(f.payload, &r)
		}
		switch {
		case err != nil:
		case f.kind == 'X':
			cells <- r
		case f.kind == 'C':
			k.begin(r.Cwd)
		case f.kind == 'I':
			k.interrupt()
		case f.kind != 'Y':
			err = fmt.Errorf("a frame of the unknown kind %q", f.kind)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "kernel:", err)
			os.Exit(1)
		}
	}
}

func (k *kernel) begin(cwd string) {
	if err := os.Chdir(cwd); cwd != "" && err != nil {
		k.hello(err.Error())
		return
	}
	k.hello("")
}

// interrupt comes in its place between the cells, where a signal may come late and strike the next one.
func (k *kernel) interrupt() {
	k.lock.Lock()
	defer k.lock.Unlock()
	if k.stop == nil {
		return
	}
	select {
	case <-k.stop:
	default:
		close(k.stop)
	}
	k.wire.send('I', map[string]any{})
}

// stopped is closed when the cell at hand is to stop; nil between cells.
func (k *kernel) stopped() <-chan struct{} {
	k.lock.Lock()
	defer k.lock.Unlock()
	return k.stop
}

func (k *kernel) execute(r request) {
	k.lock.Lock()
	k.stop = make(chan struct{})
	k.trace = nil
	stop := k.stop
	k.lock.Unlock()
	k.interp.mend()
	k.wire.send('S', map[string]any{"cell": r.Cell})
	value, err := k.interp.run(r.Code, stop)
	k.lock.Lock()
	k.stop = nil
	k.lock.Unlock()
	if err == nil && value != "" {
		k.wire.send('R', map[string]any{"data": map[string]any{"text/plain": clean(value)}})
	}
	if err != nil && err.name == interrupted().name {
		abandon()
	}
	settle()
	end := map[string]any{"cell": r.Cell, "status": "ok"}
	if err != nil {
		end["status"] = "error"
		end["ename"], end["evalue"] = err.name, clean(err.value)
		lines := []string{}
		for _, line := range err.traceback {
			lines = append(lines, clean(line))
		}
		end["traceback"] = lines
	}
	k.wire.send('E', end)
}
