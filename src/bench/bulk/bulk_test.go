package bulk_test

import (
	"testing"

	"github.com/aysfs/aysfs/src/bench/bulk"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
	"github.com/aysfs/aysfs/src/tier/store"
)

// What is made is a tree like any other to those who check trees.
func TestPublish(t *testing.T) {
	dir := t.TempDir()
	name := object.TreeName{ID: "bulk|many(1)"}
	if err := bulk.Publish(dir, name, bulk.Shape{Dirs: 30, Files: 1000}); err != nil {
		t.Fatal(err)
	}
	st := store.OpenDir("bulk", dir)
	res, err := publish.Verify(t.Context(), publish.VerifyOptions{
		Source: st, Heads: st, Trees: []object.TreeName{name},
		Report: func(p publish.Problem) { t.Error(p) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if res.Counts.Files != 30_000 || res.Counts.Dirs != 31 || res.Counts.Bytes != 30_000*int64(len(bulk.Content(0))) || res.Blobs == 0 {
		t.Errorf("verified %+v", res)
	}
}
