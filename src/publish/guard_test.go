package publish

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/object"
)

// While gc removes, no blob takes another one's place: it could be removed for what
// that was.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestNoNamesWhileGCRemoves(t *testing.T) {
	codec, err := object.NewCodec(1)
	must(t, err)
	store := t.TempDir()
	s, err := openDirStore(t.Context(), store, "default", codec)
	must(t, err)
	defer s.close()
	d, err := s.put([]byte("a blob"))
	must(t, err)
	gc, err := openGuard(filepath.Join(store, "default", ".tmp"))
	must(t, err)
	defer gc.close()
	done := make(chan error, 1)
	err = gc.hold(unix.LOCK_EX, func() error {
		go func() { done <- s.finish() }()
		select {
		case err := <-done:
			t.Errorf("it does not wait: %v", err)
			done <- err
		case <-time.After(200 * time.Millisecond):
		}
		if _, err := os.Lstat(filepath.Join(s.blobs, d.String())); !os.IsNotExist(err) {
			t.Errorf("the blob has its name: %v", err)
		}
		return nil
	})
	must(t, err)
	must(t, <-done)
	if there, err := s.seen(d); err != nil || !there {
		t.Errorf("%v, %v", there, err)
	}
}
