package keeper

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is a line, and a link as a worker would have it.
func pair(t *testing.T, k *Keeper) (*Line, *Link) {
	t.Helper()
	line, theirs, err := k.NewLine()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := dup(int(theirs.Fd()))
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	link, err := Inherited(fd)
	if err != nil {
		t.Fatal(err)
	}
	return line, link
}

// die does to a link what the end of its process does.
func die(l *Link) {
	unix.Shutdown(l.socket, unix.SHUT_RDWR)
	unix.Close(l.socket)
}

func word(t *testing.T, l *Line) (Word, bool) {
	t.Helper()
	select {
	case w, ok := <-l.Said():
		return w, ok
	case <-time.After(20 * time.Second):
		t.Fatal("the worker says nothing")
		panic("unreachable")
	}
}

// memory is a memory file that has text.
func memory(t *testing.T, text string) int {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		t.Fatal(err)
	}
	return fd
}

func text(t *testing.T, fd int) string {
	t.Helper()
	b := make([]byte, 100)
	n, err := unix.Pread(fd, b, 0)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestFromWorkerToWorker has one worker leave its mounts, in the states that it
// last told of, and the next one take them.
func TestFromWorkerToWorker(t *testing.T) {
	k := New()
	line, first := pair(t, k)
	line.Hand(News{PID: 7})
	news, mounts, err := first.Take()
	if err != nil || news.PID != 7 || len(mounts) != 0 {
		t.Fatalf("the first takes %v, %v, %v", news, mounts, err)
	}
	if w, _ := word(t, line); !w.Standby {
		t.Errorf("it says %+v", w)
	}
	for i := range 3 {
		path := fmt.Sprint("/m", i)
		dev, table := memory(t, "dev "+path), memory(t, "table "+path)
		if err := first.Keep(path, dev, table, []byte(`"new"`)); err != nil {
			t.Fatal(err)
		}
	}
	// As many as the socket takes, and more: the keeper is never behind for long.
	for i := range 1000 {
		if err := first.Change("/m1", fmt.Appendf(nil, `{"n":%d,"pad":%q}`, i, bytes.Repeat([]byte{'x'}, 5000))); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.Drop("/m2"); err != nil {
		t.Fatal(err)
	}
	first.Change("/m9", []byte(`"of none"`))
	die(first)
	if _, ok := word(t, line); ok {
		t.Fatal("a dead worker says something")
	}

	next, second := pair(t, k)
	next.Hand(News{Restarts: 1, Last: "killed"})
	news, mounts, err = second.Take()
	if err != nil || news.Restarts != 1 || news.Last != "killed" || len(mounts) != 2 {
		t.Fatalf("the second takes %v, %v, %v", news, mounts, err)
	}
	for _, m := range mounts {
		if text(t, m.Dev) != "dev "+m.Path || text(t, m.Table) != "table "+m.Path {
			t.Errorf("%s comes with %q and %q", m.Path, text(t, m.Dev), text(t, m.Table))
		}
		if m.Path == "/m1" && !bytes.HasPrefix(m.State, []byte(`{"n":999,`)) || m.Path == "/m0" && string(m.State) != `"new"` {
			t.Errorf("%s is in state %.40q", m.Path, m.State)
		}
		m.Close()
	}
	if err := next.Ping(); err != nil {
		t.Fatal(err)
	}
	word(t, next) // standby
	if w, _ := word(t, next); !w.Alive {
		t.Errorf("the answer to a ping is %+v", w)
	}
	if err := next.Release(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-second.Released():
	case <-time.After(20 * time.Second):
		t.Fatal("the release does not arrive")
	}
	die(second)
	for range next.Said() {
	}
	k.Abandon()
	if left := k.Paths(); len(left) > 0 {
		t.Errorf("held after all was abandoned: %q", left)
	}
}

// TestNothingLeaks counts descriptors, also where messages are not understood.
func TestNothingLeaks(t *testing.T) {
	before := openFiles(t)
	k := New()
	for range 50 {
		line, link := pair(t, k)
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		link.Keep("/m", fd, fd, []byte(`1`))
		send(link.socket, message{Op: "of a later version", Path: "/m"}, fd, fd)
		link.Keep("/n", fd, fd, []byte(`1`))
		link.Drop("/n")
		unix.Sendmsg(link.socket, []byte("not JSON"), unix.UnixRights(fd), nil, 0)
		unix.Close(fd)
		for range line.Said() {
		}
		unix.Close(link.socket)
	}
	k.Abandon()
	for end := time.Now().Add(20 * time.Second); openFiles(t) > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors were open, now %d", before, openFiles(t))
		}
	}
}

// TestNotInherited is a worker that somebody started by hand.
func TestNotInherited(t *testing.T) {
	if _, err := Inherited(memory(t, "")); err == nil {
		t.Error("a file is taken for a keeper's line")
	}
	if _, err := Inherited(999); err == nil {
		t.Error("nothing is taken for a keeper's line")
	}
}
