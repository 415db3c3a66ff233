// Frames on the control socket, and the two output streams: see proto/kernel-protocol.md.

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

const frameMax = 64 << 20 // bytes of a payload

type wire struct {
	file *os.File
	lock sync.Mutex // of writing

	turn     sync.Mutex
	asked    int64
	answered map[int64]chan struct{}
}

type frame struct {
	kind    byte
	payload []byte
}

func (w *wire) receive() (frame, error) {
	var head [5]byte
	if _, err := io.ReadFull(w.file, head[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head[:4])
	if n > frameMax {
		return frame{}, fmt.Errorf("a frame of %d bytes", n)
	}
	f := frame{kind: head[4], payload: make([]byte, n)}
	_, err := io.ReadFull(w.file, f.payload)
	return f, err
}

// send drops what cannot be sent: that execd has gone, the reader meets as well.
func (w *wire) send(kind byte, message map[string]any) {
	payload := encode(message)
	head := make([]byte, 5, 5+len(payload))
	binary.BigEndian.PutUint32(head, uint32(len(payload)))
	head[4] = kind
	w.lock.Lock()
	defer w.lock.Unlock()
	_, _ = w.file.Write(append(head, payload...))
}

// encode writes JSON that execd accepts: valid UTF-8, no NUL.
func encode(message map[string]any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(message) // strings, numbers, maps and lists of them
	return bytes.TrimSpace(b.Bytes())
}

func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}

// sync returns when execd has taken all that was written before, or when stop is closed.
func (w *wire) sync(stop <-chan struct{}) {
	done := make(chan struct{})
	w.turn.Lock()
	w.asked++
	id := w.asked
	w.answered[id] = done
	w.turn.Unlock()
	w.send('Y', map[string]any{"sync": id})
	select {
	case <-done:
	case <-stop:
	}
}

func (w *wire) synced(payload []byte) error {
	var m struct{ Sync int64 }
	if err := json.Unmarshal(payload, &m); err != nil {
		return err
	}
	w.turn.Lock()
	defer w.turn.Unlock()
	if done := w.answered[m.Sync]; done != nil {
		close(done)
		delete(w.answered, m.Sync)
	}
	return nil
}

// An output is stdout or stderr. What changes from one to the other waits until the first has been taken.
type output struct {
	file   *os.File
	kernel *kernel
	lines  bool // collect the interpreter's own account of a panic
	fd     int  // 1 or 2, what file is a copy of
	name   string
}

var (
	outputLock sync.Mutex
	outputLast *output
	outputGone map[string]bool // goroutines that were left behind: what they still write is nobody's
	goroutine  = regexp.MustCompile(`(?m)^goroutine (\d+) `)
)

// newOutput writes to a descriptor of its own: a cell that closes 1 or 2 harms no later one.
func newOutput(file *os.File, k *kernel) *output {
	o := &output{file: file, kernel: k, fd: int(file.Fd()), name: file.Name()}
	if copied, _, e := syscall.Syscall(syscall.SYS_FCNTL, file.Fd(), syscall.F_DUPFD_CLOEXEC, 100); e == 0 {
		o.file = os.NewFile(copied, file.Name())
	}
	return o
}

// mend gives the descriptor back that the cell before has closed, and std its file.
func (o *output) mend(std **os.File) {
	var st syscall.Stat_t
	if syscall.Fstat(o.fd, &st) == syscall.EBADF {
		_ = syscall.Dup3(int(o.file.Fd()), o.fd, 0)
	}
	if _, err := (*std).Stat(); errors.Is(err, os.ErrClosed) {
		*std = os.NewFile(uintptr(o.fd), o.name)
	}
}

func (o *output) takeTurn() {
	if outputLast != nil && outputLast != o {
		o.kernel.wire.sync(o.kernel.stopped())
	}
	outputLast = o
}

func (o *output) Write(p []byte) (int, error) {
	if o.lines && o.kernel.tookTrace(p) {
		return len(p), nil
	}
	outputLock.Lock()
	defer outputLock.Unlock()
	if outputGone != nil && outputGone[goroutines(false)[0]] {
		return len(p), nil
	}
	o.takeTurn()
	return o.file.Write(p)
}

// goroutines are the names of all there are, or of this one.
func goroutines(all bool) []string {
	text := make([]byte, 64)
	for n := runtime.Stack(text, all); all && n == len(text) && n < 64<<20; n = runtime.Stack(text, all) {
		text = make([]byte, 4*len(text))
	}
	names := []string{}
	for _, found := range goroutine.FindAllSubmatch(text, -1) {
		names = append(names, string(found[1]))
	}
	return names
}

// abandon is called when a cell has been stopped: a goroutine of its may stand in the midst of printing.
func abandon() {
	outputLock.Lock()
	defer outputLock.Unlock()
	outputGone = map[string]bool{}
	for _, name := range goroutines(true) {
		outputGone[name] = true
	}
	delete(outputGone, goroutines(false)[0])
}

// settle is called when everything written before has been taken anyway.
func settle() {
	outputLock.Lock()
	outputLast = nil
	outputLock.Unlock()
}
