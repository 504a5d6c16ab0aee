package fs

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
)

// Nothing is read of a blob that is not as large as the tree says, also where it is as
// large as what is asked for.
func TestABlobOfAnotherSizeIsNotRead(t *testing.T) {
	const page = 4096
	m := newMemory()
	text := noise(2 * page)
	_, mnt := m.mount(t, dir{"file": text}, nil)
	m.change(func() { m.blobs[digest.Of([]byte(text))] = []byte(text[:page]) })
	m.lose(nil)
	file, err := os.Open(filepath.Join(mnt, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if n, err := file.ReadAt(make([]byte, page), page); !errors.Is(err, syscall.EIO) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// What just could not be read is known for a moment, apart for what came to nothing
// and what came slowly.
func TestLosses(t *testing.T) {
	var l losses
	if l.has(1, 0, 100, false) {
		t.Error("knows of a loss that there never was")
	}
	const id, from, to = 7, 1000, 2000
	l.add(id, from, to-from, true)
	for _, tt := range []struct {
		id     uint64
		off, n int64
		slow   bool
		want   bool
	}{
		{id, from, 1, true, true},
		{id, to - 1, 100, true, true},
		{id, from - 10, 11, true, true},
		{id, to, 100, true, false},
		{id, from - 10, 10, true, false},
		{id + 1, from, 1, true, false},
		{id, from, 1, false, false},
	} {
		if got := l.has(tt.id, tt.off, tt.n, tt.slow); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
	l.add(id+1, from, to-from, true)
	l.spent(id+1, from-10, 10)
	if !l.has(id+1, from, 1, true) {
		t.Error("a read of something else spent its time")
	}
	l.spent(id+1, to-1, 10)
	if l.has(id+1, from, 1, true) || !l.has(id+1, from, 1, false) {
		t.Error("what took all the time is as what came slowly")
	}
	// As many as can wait at once are remembered.
	for i := range uint64(maxServers - 2) {
		l.add(100+i, 0, 1, false)
	}
	if !l.has(id, from, 1, true) {
		t.Error("forgotten at once")
	}
	for end := time.Now().Add(10 * time.Second); l.has(id, from, 1, true); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("known for ever")
		}
	}
}
