package publish

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/aysfs/aysfs/src/digest"
)

// Batches of files that stay open until they are committed, and of files that don't.
func TestBatches(t *testing.T) {
	for _, keepOpen := range []bool{false, true} {
		t.Run(fmt.Sprintf("keepOpen=%v", keepOpen), func(t *testing.T) {
			final := t.TempDir()
			tmp := filepath.Join(final, ".tmp")
			must(t, os.Mkdir(tmp, 0o755))
			guard, err := openGuard(tmp)
			must(t, err)
			defer guard.close()
			before := descriptors(t)
			b, err := newBatcher(tmp, final, guard)
			must(t, err)
			b.keepOpen, b.maxFiles = keepOpen, 3
			want := map[digest.Digest]string{}
			for i := range 10 {
				content := fmt.Sprint("blob ", i)
				d := digest.Of([]byte(content))
				want[d] = content
				claimed, err := b.claim(d)
				must(t, err)
				if !claimed {
					t.Fatalf("blob %d is claimed", i)
				}
				must(t, b.add(d, []byte(content)))
			}
			must(t, b.finish())
			for d, content := range want {
				got, err := os.ReadFile(filepath.Join(final, d.String()))
				if err != nil || string(got) != content {
					t.Errorf("%q, want %q (%v)", got, content, err)
				}
			}
			if n := descriptors(t); n != before {
				t.Errorf("%d descriptors are open, before there were %d", n, before)
			}
		})
	}
}

// A blob that can't get its name fails the batch, and so all that comes after.
func TestBatchFails(t *testing.T) {
	final := t.TempDir()
	tmp := filepath.Join(final, ".tmp")
	must(t, os.Mkdir(tmp, 0o755))
	guard, err := openGuard(tmp)
	must(t, err)
	defer guard.close()
	b, err := newBatcher(tmp, final, guard)
	must(t, err)
	d := digest.Of([]byte("a blob"))
	_, err = b.claim(d)
	must(t, err)
	must(t, b.add(d, []byte("a blob")))
	must(t, os.Remove(filepath.Join(tmp, d.String())))
	if err := b.finish(); err == nil {
		t.Error("no error")
	}
	if _, err := b.claim(d); err == nil {
		t.Error("no error afterwards")
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(names)
}
