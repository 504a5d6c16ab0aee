package publish_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
)

// damage is a store that a test breaks something in.
type damage struct {
	t     *testing.T
	store string
	p     *published
}

func (d *damage) head() string { return filepath.Join(d.store, "md", testID, "any/head") }

func (d *damage) blob(sum digest.Digest) string {
	return filepath.Join(d.store, "default", sum.String())
}

func (d *damage) file(path string) string { return d.blob(d.p.entries[path].Digest) }

// chunk is the path of a chunk of a large file.
func (d *damage) chunk(path string, i int) string {
	d.t.Helper()
	list, err := object.ParseChunkList([]byte(readFile(d.t, d.file(path))), d.p.entries[path].Size)
	must(d.t, err)
	return d.blob(list.Chunks[i].Digest)
}

func (d *damage) edit(path string, f func([]byte) []byte) {
	d.t.Helper()
	must(d.t, os.WriteFile(path, f([]byte(readFile(d.t, path))), 0o644))
}

func flip(b []byte) []byte {
	b[len(b)/2] ^= 0x10
	return b
}

func cutOff(b []byte) []byte { return b[:len(b)-1] }

func TestVerifyFinds(t *testing.T) {
	signer, right := keyPair(t, "release")
	_, wrongName := keyPair(t, "other")
	for name, c := range map[string]struct {
		do   func(d *damage)
		want []string // a pattern for each problem
	}{
		"nothing":             {func(d *damage) {}, nil},
		"flipped byte":        {func(d *damage) { d.edit(d.file("bin/mongod"), flip) }, []string{`"bin/mongod": blob .*digest`}},
		"flipped packed byte": {func(d *damage) { d.edit(d.file("share/doc/README"), flip) }, []string{`"share/doc/(README|copy)" and 1 more: blob .*digest`}},
		"truncated blob":      {func(d *damage) { d.edit(d.file("lib/noise"), cutOff) }, []string{`"lib/noise": blob `}},
		"blob too long": {func(d *damage) {
			d.edit(d.file("lib/noise"), func(b []byte) []byte { return append(b, 0) })
		}, []string{`"lib/noise": blob .*digest`}},
		"missing blob":       {func(d *damage) { must(t, os.Remove(d.file("bin/mongod"))) }, []string{`"bin/mongod": blob .*no such`}},
		"missing chunk list": {func(d *damage) { must(t, os.Remove(d.file("lib/libbig.so"))) }, []string{`"lib/libbig.so": chunk list .*no such`}},
		"missing chunk":      {func(d *damage) { must(t, os.Remove(d.chunk("lib/libbig.so", 1))) }, []string{`"lib/libbig.so": blob .*no such`}},
		"flipped chunk":      {func(d *damage) { d.edit(d.chunk("lib/libbig.so", 2), flip) }, []string{`"lib/libbig.so": blob .*digest`}},
		"missing catalog":    {func(d *damage) { must(t, os.Remove(d.blob(d.p.head.Catalog))) }, []string{`"": catalog: .*no such`}},
		"flipped catalog":    {func(d *damage) { d.edit(d.blob(d.p.head.Catalog), flip) }, []string{`"": catalog: `}},
		"missing index":      {func(d *damage) { must(t, os.Remove(d.blob(d.p.head.Index))) }, []string{`: index: .*no such`}},
		"forged head": {func(d *damage) {
			d.edit(d.head(), func(b []byte) []byte { return []byte(strings.Replace(string(b), "serial 1", "serial 2", 1)) })
		}, []string{`: head: .*not signed`}},
		"unsigned head": {func(d *damage) {
			d.edit(d.head(), func(b []byte) []byte { text, _, _ := strings.Cut(string(b), "\n\n"); return []byte(text + "\n") })
		}, []string{`: head: .*not signed`}},
		"garbage for a head": {func(d *damage) { must(t, os.WriteFile(d.head(), []byte("<html>"), 0o644)) }, []string{`: head: `}},
		"head of another tree": {func(d *damage) {
			other := filepath.Join(d.store, "md/b|y(1)/any/head")
			must(t, os.MkdirAll(filepath.Dir(other), 0o755))
			must(t, os.WriteFile(other, []byte(readFile(t, d.head())), 0o644))
		}, []string{`^b\|y\(1\): head: .*the head of jumpscale`}},
		"two things": {func(d *damage) {
			must(t, os.Remove(d.file("bin/mongod")))
			d.edit(d.file("lib/noise"), flip)
		}, []string{`"bin/mongod": `, `"lib/noise": `}},
	} {
		t.Run(name, func(t *testing.T) {
			d := &damage{t: t, store: t.TempDir()}
			run(t, d.store, craftedTree(t), func(o *publish.Options) { o.Signers = []note.Signer{signer} })
			d.p = readBack(t, d.store)
			c.do(d)
			mustFind(t, verify(t, d.store, right), c.want)
		})
	}
	t.Run("wrong key", func(t *testing.T) {
		dir := t.TempDir()
		run(t, dir, craftedTree(t), func(o *publish.Options) { o.Signers = []note.Signer{signer} })
		mustFind(t, verify(t, dir, wrongName), []string{`: head: .*not signed by the configured key \(other\)`})
		mustFind(t, verify(t, dir, right), nil)
	})
}

// mustFind checks that each problem fits one pattern, and the other way round.
func mustFind(t *testing.T, found, want []string) {
	t.Helper()
	left := map[string]bool{}
	for _, w := range want {
		left[w] = true
	}
	for _, f := range found {
		if strings.Contains(f, "\n") {
			t.Errorf("more than one line: %q", f)
		}
		fits := false
		for w := range left {
			if regexp.MustCompile(w).MatchString(f) {
				delete(left, w)
				fits = true
				break
			}
		}
		if !fits {
			t.Errorf("unexpected: %s", f)
		}
	}
	for w := range left {
		t.Errorf("nothing like %s in %q", w, found)
	}
}

// metadataStore is a store in memory whose metadata was made by hand.
type metadataStore struct {
	blobs map[digest.Digest][]byte
	head  []byte
}

func (s *metadataStore) Name() string { return "metadata" }

func (s *metadataStore) Get(_ context.Context, ref tier.Ref) ([]byte, error) {
	if b, ok := s.blobs[ref.Digest]; ok {
		return b, nil
	}
	return nil, tier.ErrAbsent
}

func (s *metadataStore) Purge(context.Context, tier.Ref) error { return nil }

func (s *metadataStore) Head(context.Context, object.TreeName, []byte) ([]byte, error) {
	return s.head, nil
}

func (s *metadataStore) put(b []byte) digest.Digest {
	d := digest.Of(b)
	s.blobs[d] = b
	return d
}

// Metadata whose every object has its digest and which is wrong all the same.
func TestVerifyFindsInconsistentMetadata(t *testing.T) {
	tree := object.TreeName{ID: testID}
	empty := digest.Of(nil)
	listing := func(entries ...object.Entry) []byte {
		b, err := object.EncodeListing(entries)
		must(t, err)
		return b
	}
	file := func(name string, size int64) object.Entry {
		return object.Entry{Name: []byte(name), Size: size, Digest: empty}
	}
	dir := func(name string, l []byte) object.Entry {
		return object.Entry{Name: []byte(name), Kind: object.Dir, Size: int64(len(l)), Digest: digest.Of(l)}
	}
	leaf := listing(file("f", 0))
	other := listing(file("g", 0))
	root := listing(dir("d", leaf), dir("e", leaf))
	good := [][]object.DirListing{{{Path: "", Listing: root}, {Path: "d", Listing: leaf}}, {{Path: "e", Listing: leaf}}}

	for name, c := range map[string]struct {
		catalogs [][]object.DirListing
		change   func(*object.Head, *metadataStore)
		want     []string
	}{
		"nothing":            {catalogs: good},
		"listing of another": {catalogs: [][]object.DirListing{{good[0][0], {Path: "d", Listing: other}}, good[1]}, want: []string{`"d": directory listing of .* digest`}},
		"directory left out": {catalogs: [][]object.DirListing{{good[0][0]}, good[1]}, want: []string{`"d": is in no catalog`}},
		"directory too many": {catalogs: [][]object.DirListing{good[0], {good[1][0], {Path: "x", Listing: leaf}}}, want: []string{`"x": directory is in a catalog, but in no listing`}},
		"listing is no listing": {
			catalogs: [][]object.DirListing{{{Path: "", Listing: listing(dir("d", []byte("junk")))}, {Path: "d", Listing: []byte("junk")}}},
			want:     []string{`"d": directory listing: malformed`},
		},
		"file of another size": {
			catalogs: [][]object.DirListing{{{Path: "", Listing: listing(file("f", 5), file("g", 0), file("h", 5))}}},
			want:     []string{`"f" and 1 more: blob .* 0 bytes where 5`},
		},
		"catalog is no catalog": {catalogs: good, change: func(h *object.Head, s *metadataStore) {
			junk := s.put([]byte("junk"))
			index := &object.Index{}
			index.Add("", junk)
			raw := index.Encode()
			h.Index, h.IndexSize, h.Catalog, h.Catalogs = s.put(raw), int64(len(raw)), junk, 1
		}, want: []string{`"": catalog: malformed`}},
		"index is no index":       {catalogs: good, change: func(h *object.Head, s *metadataStore) { h.Index, h.IndexSize = s.put([]byte("junk")), 4 }, want: []string{`index: malformed`}},
		"index of another size":   {catalogs: good, change: func(h *object.Head, s *metadataStore) { h.IndexSize++ }, want: []string{`index: .*the head says`}},
		"other first catalog":     {catalogs: good, change: func(h *object.Head, s *metadataStore) { h.Catalog = empty }, want: []string{`index: .*other catalogs`}},
		"wrong counts":            {catalogs: good, change: func(h *object.Head, s *metadataStore) { h.Counts.Files++ }, want: []string{`head: counts`}},
		"wrong size of catalogs":  {catalogs: good, change: func(h *object.Head, s *metadataStore) { h.MaxSize++ }, want: []string{`head: counts`}},
		"lost catalog in between": {catalogs: good, change: func(h *object.Head, s *metadataStore) { delete(s.blobs, digest.Of(object.EncodeCatalog(good[1]))) }, want: []string{`"e": catalog: no such`}},
		"lost root catalog":       {catalogs: good, change: func(h *object.Head, s *metadataStore) { delete(s.blobs, h.Catalog) }, want: []string{`"": catalog: no such`}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &metadataStore{blobs: map[digest.Digest][]byte{empty: {}}}
			h := &object.Head{Tree: tree, Serial: 1, Time: day, Domain: "default", RootMode: 0o755}
			h.Root, h.RootSize = digest.Of(c.catalogs[0][0].Listing), int64(len(c.catalogs[0][0].Listing))
			index := &object.Index{}
			for i, dirs := range c.catalogs {
				raw := object.EncodeCatalog(dirs)
				d := s.put(raw)
				index.Add(dirs[0].Path, d)
				if i == 0 {
					h.Catalog = d
				}
				h.MaxSize = max(h.MaxSize, int64(len(raw)))
				for _, dl := range dirs {
					l, err := object.ParseListing(dl.Listing)
					if err != nil {
						continue
					}
					h.Counts.Dirs++
					for i := range l.Len() {
						if e := l.At(i); e.Kind == object.File {
							h.Counts.Files++
							h.Counts.Bytes += e.Size
						}
					}
				}
			}
			raw := index.Encode()
			h.Index, h.IndexSize, h.Catalogs = s.put(raw), int64(len(raw)), int64(len(c.catalogs))
			if c.change != nil {
				c.change(h, s)
			}
			var err error
			s.head, err = h.Sign(nil)
			must(t, err)
			var found []string
			_, err = publish.Verify(t.Context(), publish.VerifyOptions{
				Source: s, Heads: s, Trees: []object.TreeName{tree},
				Report: func(p publish.Problem) { found = append(found, p.String()) },
			})
			must(t, err)
			mustFind(t, found, c.want)
		})
	}
}

// One blob that many files share is one line, with how many they are.
func TestVerifyTellsOnce(t *testing.T) {
	dir, files := t.TempDir(), map[string]string{}
	for i := range 1000 {
		files[fmt.Sprintf("d%d/f\n%d", i%7, i)] = "the same"
	}
	run(t, dir, makeTree(t, files))
	must(t, os.Remove(filepath.Join(dir, "default", digest.Of([]byte("the same")).String())))
	mustFind(t, verify(t, dir, nil), []string{`and 999 more: blob `})
}

// A store that can't be reached is not one with something wrong in it.
func TestVerifyUnreachable(t *testing.T) {
	dir := t.TempDir()
	run(t, dir, craftedTree(t))
	st := store.OpenDir("test", dir)
	_, err := publish.Verify(t.Context(), publish.VerifyOptions{
		Source: unreachable{st}, Heads: st, Trees: []object.TreeName{{ID: testID}},
		Report: func(p publish.Problem) { t.Errorf("reported %v", p) },
	})
	if !errors.Is(err, tier.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = publish.Verify(ctx, publish.VerifyOptions{
		Source: st, Heads: st, Trees: []object.TreeName{{ID: testID}},
		Report: func(p publish.Problem) { t.Errorf("reported %v", p) },
	})
	if err == nil {
		t.Error("a cancelled verification succeeded")
	}
}

type unreachable struct{ tier.Source }

func (u unreachable) Get(context.Context, tier.Ref) ([]byte, error) {
	return nil, tier.ErrUnavailable
}

// What is missing because the head was replaced while it was looked at, and a gc came
// by, is told as that.
func TestVerifyTellsOfReplacedHeads(t *testing.T) {
	dir := t.TempDir()
	run(t, dir, makeTree(t, map[string]string{"f": "one"}))
	st := store.OpenDir("test", dir)
	look := func(source tier.Source) publish.VerifyResult {
		t.Helper()
		res, err := publish.Verify(t.Context(), publish.VerifyOptions{Source: source, Heads: st, Trees: []object.TreeName{{ID: testID}}})
		must(t, err)
		return res
	}
	busy := &busyStore{Source: st, before: func() {
		run(t, dir, makeTree(t, map[string]string{"f": "two"}))
		gc(t, dir, func(o *publish.GCOptions) { o.Keep = 1 })
	}}
	if res := look(busy); res.Problems == 0 || len(res.Replaced) != 1 || res.Replaced[0].ID != testID {
		t.Errorf("beside a publish and a gc: %+v", res)
	}
	must(t, os.Remove(filepath.Join(dir, "default", digest.Of([]byte("two")).String())))
	if res := look(st); res.Problems == 0 || len(res.Replaced) != 0 {
		t.Errorf("what is missing without these: %+v", res)
	}
}

// busyStore is one in which something happens when it is first asked for a blob.
type busyStore struct {
	tier.Source
	once   sync.Once
	before func()
}

func (b *busyStore) Get(ctx context.Context, ref tier.Ref) ([]byte, error) {
	b.once.Do(b.before)
	return b.Source.Get(ctx, ref)
}
