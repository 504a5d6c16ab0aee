package publish_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
)

func openIntake(t *testing.T, dir string) *publish.Intake {
	t.Helper()
	in, err := publish.OpenIntake(publish.IntakeOptions{
		Dir: dir, Limit: object.MaxBlob, Reopen: time.Nanosecond, Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	return in
}

// putInto puts all that a store has into an intake, its head last, and returns
// how many blobs it took.
func putInto(t *testing.T, in *publish.Intake, from string) (fresh int, h *object.Head, raw []byte, err error) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(from, "default", strings.Repeat("?", 64)))
	must(t, err)
	for _, f := range files {
		stored, err := os.ReadFile(f)
		must(t, err)
		d, err := digest.Parse(filepath.Base(f))
		must(t, err)
		took, err := in.Put(t.Context(), "default", d, stored)
		must(t, err)
		if took {
			fresh++
		}
	}
	raw, err = os.ReadFile(filepath.Join(from, object.TreeName{ID: testID}.Dir(), "head"))
	must(t, err)
	h, err = object.OpenHead(raw, nil)
	must(t, err)
	_, err = in.PutHead(t.Context(), h, raw)
	return fresh, h, raw, err
}

// What an intake takes is a store, which gc works on meanwhile; what is damaged
// there is taken again.
func TestIntake(t *testing.T) {
	from, dir := t.TempDir(), t.TempDir()
	in := openIntake(t, dir)
	dirs := func() int {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(dir, "default", ".tmp", "publish-*"))
		must(t, err)
		return len(all)
	}
	for _, text := range []string{"one", "two", "three", "four"} {
		run(t, from, makeTree(t, map[string]string{"same": "same", "dir/other": text}))
		gc(t, from, func(o *publish.GCOptions) { o.Keep = 1 })
		_, _, _, err := putInto(t, in, from)
		must(t, err)
		mustBeClean(t, dir)
		if n := dirs(); n > 2 {
			t.Errorf("%d of its publishes are alive", n)
		}
		time.Sleep(20 * time.Millisecond) // the file system's clock is to go on
	}
	// The publishes that are alive began after the second head was there.
	if res := gc(t, dir, func(o *publish.GCOptions) { o.Keep = 1 }); res.Heads != 1 || res.Removed == 0 {
		t.Errorf("gc: %+v", res)
	}
	mustBeClean(t, dir)

	_, h, raw, err := putInto(t, in, from)
	must(t, err)
	index := filepath.Join(dir, "default", h.Index.String())
	must(t, os.WriteFile(index, []byte("nonsense"), 0o644))
	h.Serial++
	next, err := h.Sign()
	must(t, err)
	if _, err := in.PutHead(t.Context(), h, next); !errors.Is(err, publish.ErrLacking) || !strings.Contains(err.Error(), h.Index.String()) {
		t.Errorf("with a damaged index: %v", err)
	}
	if fresh, _, _, err := putInto(t, in, from); fresh == 0 || err != nil {
		t.Errorf("%d blobs taken again, %v", fresh, err)
	}
	if changed, err := in.PutHead(t.Context(), h, next); !changed || err != nil {
		t.Errorf("when it is whole: %v, %v", changed, err)
	}
	if changed, err := in.PutHead(t.Context(), h, next); changed || err != nil {
		t.Errorf("again: %v, %v", changed, err)
	}
	old, err := object.OpenHead(raw, nil)
	must(t, err)
	if _, err := in.PutHead(t.Context(), old, raw); !errors.Is(err, publish.ErrOld) {
		t.Errorf("the one before: %v", err)
	}
	must(t, in.Close())
	if n := dirs(); n != 0 {
		t.Errorf("%d directories are left", n)
	}
	if _, err := in.Has(t.Context(), "default", h.Index); err == nil {
		t.Error("a closed one answers")
	}
	mustBeClean(t, dir)
}

// What an intake's directory has counts, also where that is a symlink.
func TestIntakeCounts(t *testing.T) {
	dir, link := t.TempDir(), filepath.Join(t.TempDir(), "published")
	run(t, dir, makeTree(t, map[string]string{"f": noise(1, 100_000)}))
	must(t, os.Symlink(dir, link))
	in, err := publish.OpenIntake(publish.IntakeOptions{Dir: link, MaxSize: 64 << 10, Limit: object.MaxBlob, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	if _, err := in.Put(t.Context(), "default", digest.Of([]byte("x")), []byte("x")); !errors.Is(err, publish.ErrNoRoom) {
		t.Errorf("more than max_size is there: %v", err)
	}
	must(t, in.Close())
}
