package fs

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// streamed is a mount of one large file whose reader has come some way. What follows is
// not on this machine, and nothing of it can come before there is room, which is given
// chunk by chunk.
func streamed(t *testing.T) (m *memory, f *FS, r *inode, list *object.ChunkList) {
	t.Helper()
	m = newMemory()
	var text strings.Builder
	for text.Len() < 300*testChunk {
		text.WriteString(digest.Of([]byte(text.String()[max(0, text.Len()-64):])).String())
	}
	f, _ = m.mount(t, dir{"large": text.String()}, nil)
	s := f.now.Load()
	root, err := s.view.Listing(t.Context(), "", s.view.Root().Digest)
	if err != nil {
		t.Fatal(err)
	}
	i, ok := root.Find([]byte("large"))
	if !ok {
		t.Fatal("no file")
	}
	e := root.At(i)
	r = &inode{id: 1000}
	r.set(&e)
	if list, err = s.chunks(t.Context(), r.digest, r.size); err != nil {
		t.Fatal(err)
	}
	m.change(func() {
		m.room = make(chan struct{})
		i, _ := list.At(steady)
		for _, c := range list.Chunks[i:] {
			m.far[c.Digest] = true
		}
	})
	for off := int64(0); off < steady; off += 1 << 20 {
		f.streams.read(r, list, off, 1<<20)
	}
	return m, f, r, list
}

// give gives room for a chunk, and returns which one came.
func (m *memory) give(t *testing.T, list *object.ChunkList) int {
	t.Helper()
	select {
	case m.room <- struct{}{}:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody has anything to fetch")
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		if len(m.ahead) > 0 {
			d := m.ahead[0]
			m.ahead = m.ahead[1:]
			m.mu.Unlock()
			return slices.IndexFunc(list.Chunks, func(c object.Chunk) bool { return c.Digest == d })
		}
		m.mu.Unlock()
		if time.Now().After(end) {
			t.Fatal("nothing came")
		}
	}
}

// hungry tells whether anybody takes room that there is.
func (m *memory) hungry() bool {
	select {
	case m.room <- struct{}{}:
		return true
	case <-time.After(100 * time.Millisecond):
		return false
	}
}

// What is within the window of who reads in order comes in order as soon as there is
// room, though nothing more is read, and nothing beyond it.
func TestStreamComesAsThereIsRoom(t *testing.T) {
	m, f, r, list := streamed(t)
	next, _ := list.At(steady)
	for range 3 {
		f.streams.read(r, list, f.streams.slot(r.id).next, 1<<20)
		st := f.streams.slot(r.id)
		for int64(next)*testChunk < st.next+st.window {
			if i := m.give(t, list); i != next {
				t.Fatalf("chunk %d came, want %d", i, next)
			}
			next++
		}
		if m.hungry() {
			t.Errorf("more than a window of %d comes before a reader at %d", st.window, st.next)
		}
	}
}

// Who jumps has nothing more fetched of where he was.
func TestStreamEndsWhereItsReaderLeaves(t *testing.T) {
	m, f, r, list := streamed(t)
	f.streams.read(r, list, steady, 1<<20)
	first, _ := list.At(steady)
	if i := m.give(t, list); i != first {
		t.Fatalf("chunk %d came, want %d", i, first)
	}
	f.streams.read(r, list, 1<<20, 4<<10)
	if m.hungry() {
		t.Error("it goes on where nobody reads")
	}
}
