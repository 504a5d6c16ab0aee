package publish

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// FuzzCleanName checks which names of an archive are paths in a tree.
func FuzzCleanName(f *testing.F) {
	for _, s := range []string{"a/b", "./a//b/", "../a", "a/../b", "/a", "", ".", "a\x00", "...", "a/.. /b", "..\\a", strings.Repeat("n", 256), "\xff\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		path, err := cleanName(name)
		if err != nil || path == "" {
			return
		}
		if !filepath.IsLocal(path) || filepath.Clean(path) != path {
			t.Fatalf("%q is %q", name, path)
		}
		if again, err := cleanName(path); err != nil || again != path {
			t.Fatalf("%q is %q, which is %q, %v", name, path, again, err)
		}
	})
}

// FuzzState lets the note of the last publish say anything, under a right checksum.
// Reading it ends, with an error or without.
func FuzzState(f *testing.F) {
	file := filepath.Join(f.TempDir(), "state")
	head := &object.Head{Domain: "default"}
	w := &stateWriter{}
	var body bytes.Buffer
	w.out = bufio.NewWriter(&body)
	w.text("default")
	w.out.Write(head.Root[:])
	for _, path := range []string{"a", "a/b", "c"} {
		w.file(path, identity{size: 7, mtimeSec: -1, inode: 1 << 63}, &object.Entry{Chunked: path == "c"})
	}
	if err := w.out.Flush(); err != nil {
		f.Fatal(err)
	}
	f.Add(body.Bytes())
	f.Add(body.Bytes()[:body.Len()-1])
	f.Add([]byte("\x00"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Add(append(bytes.Clone(body.Bytes()[:40]), "\xff\xff\x3f"...))
	f.Fuzz(func(t *testing.T, body []byte) {
		b := append([]byte(stateMagic), body...)
		b = binary.BigEndian.AppendUint64(b, crc64.Checksum(b, crcTable))
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openState(file, head, "default")
		if err != nil {
			return
		}
		defer s.close()
		for n := 0; s.next != nil; n++ {
			if n > len(body) {
				t.Fatal("no end")
			}
			path, id := s.next.path, s.next.identity
			if c, err := s.find(path, id); err != nil || c == nil || c.size != id.size {
				t.Fatalf("%q: %+v, %v", path, c, err)
			}
			if s.advance() != nil {
				return
			}
		}
	})
}

// nowhere is a store that takes everything and keeps nothing.
type nowhere struct{}

func (nowhere) put(plain []byte) (digest.Digest, error) { return digest.Of(plain), nil }
func (nowhere) has(digest.Digest) (bool, error)         { return false, nil }
func (nowhere) seen(digest.Digest) (bool, error)        { return false, nil }
func (nowhere) read(tier.Ref) ([]byte, error)           { return nil, fs.ErrNotExist }
func (nowhere) spool() (*os.File, error)                { return nil, fs.ErrInvalid }
func (nowhere) finish() error                           { return nil }
func (nowhere) added() (blobs, bytes int64)             { return 0, 0 }

// summed gives the headers of a tar archive their checksums, so that the fuzzer need
// not know how, and the archive its end.
func summed(in []byte) []byte {
	b := append(bytes.Clone(in), make([]byte, (tarBlock-len(in)%tarBlock)%tarBlock+2*tarBlock)...)
	for at := 0; at+3*tarBlock <= len(b); {
		h := b[at : at+tarBlock]
		copy(h[148:156], "        ")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
		at += tarBlock
		size, err := strconv.ParseInt(strings.Trim(string(h[124:136]), " \x00"), 8, 64)
		if kind := h[156]; err == nil && (kind == 0 || kind == tar.TypeReg || kind == 'x' || kind == 'g' || kind == 'L' || kind == 'K') {
			at += int(min(size+tarBlock-1, int64(len(b)))) / tarBlock * tarBlock
		}
	}
	return b
}

// members makes headers, and what follows them, of kind, name and link or content.
func members(all ...string) []byte {
	var b []byte
	for ; len(all) >= 3; all = all[3:] {
		h := make([]byte, tarBlock)
		copy(h, all[1])
		copy(h[100:], "0000644\x00")
		copy(h[136:], "14000000000\x00")
		h[156] = all[0][0]
		copy(h[257:], "ustar\x0000")
		content := all[2]
		if k := all[0][0]; k == tar.TypeSymlink || k == tar.TypeLink {
			copy(h[157:257], content)
			content = ""
		}
		copy(h[124:], fmt.Sprintf("%011o\x00", len(content)))
		b = append(append(b, h...), content...)
		b = append(b, make([]byte, (tarBlock-len(b)%tarBlock)%tarBlock)...)
	}
	return b
}

// FuzzTar applies two archives, of a tree or of an image's layers. What is taken has
// names and listings that clients take as well.
func FuzzTar(f *testing.F) {
	long := strings.Repeat("n", 99)
	add := func(first, second []byte) {
		f.Add(first, second, true)
		f.Add(first, second, false)
	}
	add(members("5", "a/", "", "0", "a/b", "hello", "2", "l", "a/b", "1", "a/c", "a/b"), members("0", "a/.wh.b", "", "0", ".wh..wh..opq", ""))
	add(members("2", "lib", "usr/lib"), members("0", "lib/x", "x", "0", "lib/.wh.x", ""))
	add(members("2", "a", "../../../etc", "2", "b", "b", "2", "c", "/"), members("0", "a/passwd", "x", "0", "b/x", "x", "0", "c/c/c/x", "x"))
	add(members("K", "././@LongLink", strings.Repeat(long, 4)+"\x00", "2", "l", ""), members("0", "l/x", "x"))
	add(members("L", "././@LongLink", strings.Repeat(long+"/", 40)+"\x00", "0", "", "x"), nil)
	add(members("x", "pax", "22 path=../../outside\n", "0", "in", "x"), members("x", "pax", "30 mtime=99999999999999999999\n", "5", ".", ""))
	add(members("0", "a", "x", "5", "a", "", "0", "a/b", "x", "3", "dev", "", "6", "a", "", "1", "a", "a"), members("0", ".wh.", "", "0", ".wh...", "", "0", "a/.wh..", ""))
	add(members("x", "pax", "29 GNU.sparse.size=99999999\n", "0", "s", "x"), nil)
	f.Fuzz(func(t *testing.T, first, second []byte, layered bool) {
		r := &reader{workers: 1, store: nowhere{}, log: slog.New(slog.DiscardHandler), meter: &meter{}, files: newFilePool(1)}
		root, err := r.importTree(t.Context(), func(ctx context.Context, im *importer) error {
			im.layered = layered
			for i, in := range [][]byte{first, second} {
				im.layer = i
				if err := im.tar(ctx, bytes.NewReader(summed(in)), layered); err != nil {
					return err
				}
			}
			if n := checkNames(t, im.root, 0); n > im.names {
				t.Fatalf("%d names, counted %d", n, im.names)
			}
			return nil
		})
		if err != nil {
			return
		}
		l, err := object.ParseListing(root.listing)
		if err != nil {
			t.Fatal(err)
		}
		for i := range l.Len() {
			_ = l.At(i)
		}
	})
}

// FuzzListLine checks what is taken of a line of a list.
func FuzzListLine(f *testing.F) {
	sum := strings.Repeat("d4", 16)
	for _, s := range []string{"a/b|" + sum + "|5", "/a|" + sum + "|0\r", "../a|" + sum + "|5", "a|b|c|" + sum + "|5", "|" + sum + "|5", "a|" + sum + "|-5", "a|" + sum + "0|5", "a", "a||", "a/b|" + sum + "|9223372036854775808"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		im := &importer{reader: &reader{}}
		contents := map[listed]*listedFile{}
		for _, line := range []string{first, second} {
			_ = im.listLine(line, contents)
		}
		im.dropReplaced(contents)
		for id, c := range contents {
			if id.size < 0 || c.size != id.size || !filepath.IsLocal(c.path) {
				t.Fatalf("%q, %q: %+v", first, second, c)
			}
		}
		checkNames(t, im.root, 0)
	})
}

// checkNames checks that an imported tree has names that a listing may have.
func checkNames(t *testing.T, n *node, depth int) (names int) {
	t.Helper()
	if n == nil {
		return 0
	}
	if n.kind != object.Dir && len(n.children) > 0 || depth > maxImportPath {
		t.Fatalf("%+v has children, at depth %d", n, depth)
	}
	for name, child := range n.children {
		if name == "" || name == "." || name == ".." || len(name) > object.MaxName || strings.ContainsAny(name, "/\x00") {
			t.Fatalf("the name %q", name)
		}
		names += 1 + checkNames(t, child, depth+1)
	}
	return names
}

// FuzzLayout lets the JSON of an image layout say anything: index.json, what that
// names, and what that names in turn.
func FuzzLayout(f *testing.F) {
	const manifest = `{"config":{"digest":"BLOB"},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"BLOB","size":1}]}`
	f.Add(`{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"BLOB"}]}`, manifest, `{"os":"linux","architecture":"amd64"}`)
	f.Add(`{"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"BLOB"}]}`, `{"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"BLOB"}]}`, `{}`)
	f.Add(`{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:../../etc/passwd"}]}`, `[]`, `null`)
	f.Add(`{"manifests":null}`, ``, ``)
	f.Add(`{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"BLOB","platform":{"os":"linux"},"annotations":{"org.opencontainers.image.ref.name":"x\n"}},{}]}`, `{"layers":[{}]}`, `7`)
	f.Fuzz(func(t *testing.T, index, first, second string) {
		blobs := map[string][]byte{}
		add := func(s string) string {
			d := digest.Of([]byte(s)).String()
			blobs[blobsDir+"/sha256/"+d] = []byte(s)
			return "sha256:" + d
		}
		first = strings.ReplaceAll(first, "BLOB", add(second))
		index = strings.ReplaceAll(index, "BLOB", add(first))
		blobs[layoutFile], blobs[indexFile] = []byte(`{"imageLayoutVersion":"1.0.0"}`), []byte(index)
		l := &layout{open: func(name string) (io.ReadCloser, error) {
			if !filepath.IsLocal(name) {
				t.Fatalf("opens %q", name)
			}
			b, ok := blobs[name]
			if !ok {
				return nil, fs.ErrNotExist
			}
			return io.NopCloser(bytes.NewReader(b)), nil
		}}
		images, err := l.images([]byte(index), 0, "")
		if err != nil {
			return
		}
		for _, want := range []choice{{}, {platform: "linux-amd64"}, {image: "x"}} {
			image, err := want.of(images)
			if err != nil {
				continue
			}
			if layers, err := l.layers(image); err == nil {
				for i := range layers {
					_, _, _, _ = blobName(layers[i].Digest)
				}
			}
		}
	})
}
