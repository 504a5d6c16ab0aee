package publish_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
)

// peak calls do and returns by how many bytes the heap grew meanwhile, at most, as far
// as it was looked at.
func peak(do func()) uint64 {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	// What the test itself holds would let as much garbage lie about.
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	runtime.GC()
	before := heap()
	var most atomic.Uint64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			most.Store(max(most.Load(), heap()))
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	do()
	close(stop)
	<-stopped
	return max(most.Load(), before) - before
}

// rawHeader is a tar header that no archiver writes: change may set its fields.
func rawHeader(name string, kind byte, change func(h []byte)) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x00")
	copy(h[124:], "00000000000\x00")
	copy(h[136:], "00000000000\x00")
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	if change != nil {
		change(h)
	}
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// sized has a header claim a size, in base 256 where octal digits don't do.
func sized(n int64) func([]byte) {
	return func(h []byte) {
		h[124] = 0x80
		clear(h[125:128])
		binary.BigEndian.PutUint64(h[128:], uint64(n))
	}
}

// TestHostileArchives has archives of those who want the publisher's machine, its
// memory or its patience. What is published of them is a tree that clients take.
func TestHostileArchives(t *testing.T) {
	end := make([]byte, 1024)
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	zeros := func(n int64) io.Reader { return io.LimitReader(zeroReader{}, n) }
	bomb := func(compress func(io.Writer) io.WriteCloser, head []byte, n int64) []byte {
		var b bytes.Buffer
		w := compress(&b)
		_, err := w.Write(head)
		must(t, err)
		_, err = io.Copy(w, zeros(n+1024))
		must(t, err)
		must(t, w.Close())
		return b.Bytes()
	}
	gz := func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
	const large = 192 << 20
	window, err := zstd.NewWriter(nil, zstd.WithWindowSize(512<<20))
	must(t, err)
	var windowed bytes.Buffer
	window.Reset(&windowed)
	_, err = io.Copy(window, zeros(600<<20))
	must(t, err)
	must(t, window.Close())
	layers := func(all ...[]byte) func(*publish.Options) {
		i := newImage(t)
		var ds []desc
		for _, l := range all {
			ds = append(ds, i.blob(ociLayer, l))
		}
		i.index(i.manifest("amd64", ds...))
		return func(o *publish.Options) { o.Root = i.dir }
	}
	archive := func(b []byte) func(*publish.Options) {
		return func(o *publish.Options) { o.Root, o.Stdin = "-", bytes.NewReader(b) }
	}
	long := strings.Repeat("n", 300)
	for name, c := range map[string]struct {
		what  func(*publish.Options)
		wrong string            // part of the error; empty: it is published
		files map[string]string // path to content, "-> " and target, or "/" for a directory
	}{
		"size of 8 EiB":        {archive(cat(rawHeader("f", '0', sized(1<<63-1)), end)), "it has 9223372036854775807 bytes", nil},
		"size of a tebibyte":   {archive(cat(rawHeader("f", '0', sized(1<<40)), end)), "unexpected EOF", nil},
		"size below 0":         {archive(cat(rawHeader("f", '0', sized(-1)), end)), "tar", nil},
		"name of a gibibyte":   {archive(bomb(gz, rawHeader("x", 'x', sized(1<<30)), 1<<30)), "tar", nil},
		"bomb":                 {archive(bomb(gz, rawHeader("zeros", '0', sized(large)), large)), "", map[string]string{"zeros": strings.Repeat("\x00", large)}},
		"bomb behind the end":  {archive(bomb(gz, nil, large)), "", map[string]string{}},
		"window of 512 MiB":    {archive(windowed.Bytes()), "window", nil},
		"link to itself":       {archive(makeTar(t, tarMember(tar.TypeLink, "l", "l"))), "no such name before it", nil},
		"link through symlink": {archive(makeTar(t, tarMember(tar.TypeSymlink, "etc", "/etc"), tarMember(tar.TypeLink, "l", "etc/passwd"))), "symlink", nil},
		"pax name with ..": {archive(makeTar(t, member{Header: tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("a/", 120) + "../x", Mode: 0o644, ModTime: day}})),
			`".."`, nil},
		"a thousand of one name": {archive(makeTar(t, slices.Repeat([]member{tarFile("same", "x")}, 1000)...)), "", map[string]string{"same": "x"}},
		"twins":                  {archive(makeTar(t, tarFile("README", "1"), tarFile("readme", "2"), tarFile("Read\u0301", "3"), tarFile("Re\u00e1d", "4"))), "", map[string]string{"README": "1", "readme": "2", "Read\u0301": "3", "Re\u00e1d": "4"}},
		"symlink out of a layer": {layers(makeTar(t, tarMember(tar.TypeSymlink, "a", "../../../../etc"), tarMember(tar.TypeSymlink, "b", "/")), makeTar(t, tarFile("a/passwd", "ours"), tarFile("b/b/b/c", "c"))), "",
			map[string]string{"a": "-> ../../../../etc", "b": "-> /", "etc": "/", "etc/passwd": "ours", "c": "c"}},
		"whiteouts of ..": {layers(makeTar(t, tarFile("keep", "1"), tarFile("d/keep", "2")), makeTar(t, tarFile(".wh...", ""), tarFile("d/.wh..", ""), tarFile("d/.wh.", ""), tarFile(".wh.d/keep", ""), tarFile(".wh..wh.x", ""))), "",
			map[string]string{"keep": "1", "d": "/", "d/keep": "2", ".wh.d": "/", ".wh.d/keep": ""}},
		"whiteout up":           {layers(makeTar(t, tarFile("keep", "1")), makeTar(t, tarFile("d/../.wh.keep", ""))), `".."`, nil},
		"long name by symlink":  {layers(makeTar(t, tarMember(tar.TypeSymlink, "l", long)), makeTar(t, tarFile("l/x", ""))), "a name of 300 bytes", nil},
		"ladder of symlinks":    {layers(makeTar(t, ladder(60)...), makeTar(t, tarFile("0/x", ""))), "symlinks on the way", nil},
		"hard link to a device": {layers(makeTar(t, tarMember(tar.TypeChar, "null", ""), tarMember(tar.TypeLink, "l", "null"))), "", map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			store := filepath.Join(dir, "store")
			began := time.Now()
			var err error
			grown := peak(func() { _, err = tryRun(store, "", c.what) })
			if grown > 96<<20 {
				t.Errorf("%d MiB of memory", grown>>20)
			}
			if d := time.Since(began); d > time.Minute {
				t.Errorf("it took %v", d)
			}
			if entries, _ := os.ReadDir(dir); len(entries) > 1 {
				t.Errorf("beside the store there is %v", entries)
			}
			if c.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), c.wrong) || len(err.Error()) > 4000 {
					t.Errorf("got %.200v, want %q", err, c.wrong)
				}
				if heads, _ := filepath.Glob(store + "/md/*/*/head"); len(heads) > 0 {
					t.Errorf("there is a head: %v", heads)
				}
				return
			}
			must(t, err)
			mustBeClean(t, store)
			p := readBack(t, store)
			got := map[string]string{}
			for path, e := range p.entries {
				switch e.Kind {
				case object.File:
					got[path] = p.content[path]
				case object.Dir:
					got[path] = "/"
				case object.Symlink:
					got[path] = "-> " + string(e.Target)
				}
			}
			if !maps.Equal(got, c.files) {
				t.Errorf("got %q, want %q", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(c.files)))
			}
		})
	}
}

// ladder is n symlinks, each to the next.
func ladder(n int) (all []member) {
	for i := range n {
		all = append(all, tarMember(tar.TypeSymlink, fmt.Sprint(i), fmt.Sprint(i+1)))
	}
	return all
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestHostileFiles has files of a directory that are not what they say.
func TestHostileFiles(t *testing.T) {
	t.Run("giant of holes", func(t *testing.T) {
		root := makeTree(t, nil)
		f, err := os.Create(root + "/giant")
		must(t, err)
		defer f.Close()
		must(t, f.Truncate(1<<30))
		store := t.TempDir()
		var res publish.Result
		grown := peak(func() { res, err = tryRun(store, root) })
		if err != nil || res.Counts.Bytes != 1<<30 || res.NewBytes > 1<<20 {
			t.Errorf("got %+v, %v", res, err)
		}
		if grown > 128<<20 {
			t.Errorf("%d MiB of memory", grown>>20)
		}
	})
	t.Run("larger than all", func(t *testing.T) {
		root := makeTree(t, nil)
		must(t, unix.Mount("tmpfs", root, "tmpfs", 0, "size=1m"))
		defer unix.Unmount(root, unix.MNT_DETACH)
		f, err := os.Create(root + "/giant")
		must(t, err)
		defer f.Close()
		must(t, f.Truncate(1<<62))
		var te *publish.TreeError
		if _, err := tryRun(t.TempDir(), root); !errors.As(err, &te) || !strings.Contains(err.Error(), `"giant": it has 4611686018427387904 bytes`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("empty but not so", func(t *testing.T) {
		root := makeTree(t, map[string]string{"a": "1", "version": ""})
		must(t, unix.Mount("/proc/version", root+"/version", "", unix.MS_BIND, ""))
		defer unix.Unmount(root+"/version", unix.MNT_DETACH)
		var te *publish.TreeError
		if _, err := tryRun(t.TempDir(), root); !errors.As(err, &te) || !strings.Contains(err.Error(), `"version": `) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a directory in itself", func(t *testing.T) {
		root := makeTree(t, map[string]string{"d/": "", "a": "1"})
		must(t, unix.Mount(root, root+"/d", "", unix.MS_BIND, ""))
		defer unix.Unmount(root+"/d", unix.MNT_DETACH)
		store := t.TempDir()
		run(t, store, root)
		if p := readBack(t, store); p.content["d/a"] != "1" || p.entries["d/d"].Kind != object.Dir || len(p.entries) != 4 {
			t.Errorf("got %v", slices.Sorted(maps.Keys(p.entries)))
		}
	})
}
