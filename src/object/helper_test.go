package object_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares bytes with a file of their hex dump. Such a file changes only
// with a format, and a format that changes makes all stores unreadable.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	goldenText(t, name, []byte(hex.Dump(got)))
}

func goldenText(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		must(t, os.MkdirAll("testdata", 0o755))
		must(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func sum(s string) digest.Digest { return digest.Of([]byte(s)) }

func someEntries() []object.Entry {
	return []object.Entry{
		{Name: []byte("bin"), Kind: object.Dir, Mode: 0o755, Size: 321, Mtime: 1772366400123456789, Digest: sum("bin"), Target: []byte{}},
		{Name: []byte("-\xff\n"), Kind: object.File, Mode: 0o4755, Size: 5, Mtime: -1000000000, Digest: sum("five"), Target: []byte{}},
		{Name: []byte("big"), Kind: object.File, Mode: 0, Size: 1 << 40, Mtime: 0, Digest: sum("list"), Chunked: true, Target: []byte{}},
		{Name: []byte("link"), Kind: object.Symlink, Mode: 0o777, Size: 6, Mtime: 1, Target: []byte("../bin")},
		{Name: []byte("empty"), Kind: object.File, Mode: 0o644, Digest: sum(""), Target: []byte{}},
	}
}

func someChunkList() *object.ChunkList {
	return &object.ChunkList{Size: object.MaxBlob + 70_000, SHA256: sum("file"), Chunks: []object.Chunk{
		{Size: object.MaxBlob, Digest: sum("one")}, {Size: 69_999, Digest: sum("two")}, {Size: 1, Digest: sum("three")},
	}}
}

func someHead() *object.Head {
	return &object.Head{
		Tree:   object.TreeName{ID: "jumpscale|mongodb(10.1.888)", RepoID: "repo-1", Platform: "linux-arm64"},
		Serial: 42, Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Domain: "default",
		Root: sum("root"), RootSize: 1234, RootMode: 0o755, RootMtime: 1772366400123456789,
		Index: sum("index"), IndexSize: 567, Catalog: sum("catalog"), Catalogs: 8, MaxSize: 1 << 20,
		Counts: object.Counts{Files: 15036, Dirs: 1667, Symlinks: 9, Bytes: 232512887},
	}
}

// keyPair is the same for the same name, in all runs.
func keyPair(t testing.TB, name string) (note.Signer, note.Verifier) {
	t.Helper()
	var seed [32]byte
	copy(seed[:], name)
	skey, vkey, err := note.GenerateKey(rand.NewChaCha8(seed), name)
	must(t, err)
	s, err := note.NewSigner(skey)
	must(t, err)
	v, err := note.NewVerifier(vkey)
	must(t, err)
	return s, v
}
