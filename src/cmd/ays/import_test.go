package main_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// An archive of a directory is the same tree as the directory.
func TestTar(t *testing.T) {
	tree, store, dir := manyFiles(t, 30), t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(tree+"/sub/"+strings.Repeat("long", 50)+"/empty", 0o750))
	must(t, os.WriteFile(tree+"/sub/new\nline", nil, 0o600))
	must(t, os.Symlink("../large", tree+"/sub/link"))
	must(t, os.Link(tree+"/1", tree+"/sub/hard"))
	must(t, os.Truncate(tree+"/1", 5<<20)) // sparse
	want := publishJSON(t, 0, store, tree)
	plain := dir + "/tree.tar"
	out, err := exec.Command("tar", "-C", tree, "--format=posix", "--sparse", "-cf", plain, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	raw, err := os.ReadFile(plain)
	must(t, err)
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	z.Write(raw)
	must(t, z.Close())
	must(t, os.WriteFile(dir+"/tree.tar.gz", gz.Bytes(), 0o644))
	enc, err := zstd.NewWriter(nil)
	must(t, err)
	must(t, os.WriteFile(dir+"/tree.tar.zst", enc.EncodeAll(raw, nil), 0o644))
	for _, name := range []string{"tree.tar", "tree.tar.gz", "tree.tar.zst"} {
		s := publishJSON(t, 0, store, dir+"/"+name)
		if !s.Unchanged || s.Root != want.Root || s.Files != want.Files || s.Dirs != want.Dirs || s.Symlinks != want.Symlinks || s.NewBlobs != 0 {
			t.Errorf("%s: %+v, the directory gave %+v", name, s, want)
		}
	}
	// Cut off anywhere, nothing is published.
	for name, cut := range map[string][]byte{
		"between files": raw[:len(raw)/2/512*512], "in the middle": raw[:len(raw)/2+100], "compressed": gz.Bytes()[:gz.Len()-4],
		"empty": nil, "no archive": bytes.Repeat([]byte("not a tar "), 200),
	} {
		must(t, os.WriteFile(dir+"/cut.tar", cut, 0o644))
		o := ays(t, 2, "publish", "-store", t.TempDir()+"/store", "-id", id, dir+"/cut.tar")
		if !strings.Contains(o.stderr, dir+"/cut.tar") {
			t.Errorf("%s: %s", name, o.stderr)
		}
	}
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right")
}

// member is one of an archive that a test makes.
type member struct {
	name, content string
	kind          byte
	mode          int64
}

func tarOf(t *testing.T, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Typeflag: m.kind, Mode: m.mode, ModTime: time.Unix(1e9, 0)}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		switch m.kind {
		case tar.TypeSymlink, tar.TypeLink:
			h.Linkname = m.content
		case 0:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(m.content))
		}
		must(t, w.WriteHeader(h))
		if h.Typeflag == tar.TypeReg {
			w.Write([]byte(m.content))
		}
	}
	must(t, w.Close())
	return b.Bytes()
}

func TestOddTar(t *testing.T) {
	dir := t.TempDir()
	publish := func(code int, members ...member) outcome {
		t.Helper()
		must(t, os.WriteFile(dir+"/odd.tar", tarOf(t, members...), 0o644))
		return ays(t, code, "publish", "-store", t.TempDir()+"/store", "-id", id, dir+"/odd.tar")
	}
	contains(t, publish(2, member{name: "../etc/passwd", content: "x"}).stderr, `"../etc/passwd"`, "..")
	contains(t, publish(2, member{name: "link", kind: tar.TypeLink, content: "none"}).stderr, "hard link", `"none"`)
	contains(t, publish(2, member{name: "a", content: "x"}, member{name: "a/b", content: "x"}).stderr, `"a/b"`, "no directory")
	contains(t, publish(2, member{name: "l", kind: tar.TypeSymlink, content: "/etc"}, member{name: "l/passwd", content: "x"}).stderr, `"l/passwd"`)
	contains(t, publish(2, member{name: "pipe", kind: tar.TypeFifo}, member{name: "null", kind: tar.TypeChar}).stderr, "path=pipe", "kind=device", "2 warnings")
	contains(t, publish(2, member{name: "su", content: "x", mode: 0o4755}).stderr, "setuid")
	contains(t, publish(2, member{name: strings.Repeat("n", 256), content: "x"}).stderr, "256 bytes")
	contains(t, publish(2, member{name: "/a", content: "1"}).stderr, `"/a": the name is absolute`)
	contains(t, publish(0, member{name: "a", content: "1"}, member{name: "./a", content: "2"}, member{name: "b//c", content: "3"}).stdout, "2 files, 2 directories", "2 B")
	contains(t, ays(t, 2, "publish", "-store", t.TempDir(), "-id", id, "-format", "zip", dir+"/odd.tar").stderr, "want dir, tar, oci or list")
	contains(t, ays(t, 2, "publish", "-store", t.TempDir(), "-id", id, "-format", "tar", dir).stderr, "is a directory")
}

// layout writes an OCI image layout with images of layers.
type layout struct {
	t   *testing.T
	dir string
}

func (l layout) blob(content []byte) map[string]any {
	l.t.Helper()
	sum := sha256.Sum256(content)
	name := hex.EncodeToString(sum[:])
	must(l.t, os.MkdirAll(l.dir+"/blobs/sha256", 0o755))
	must(l.t, os.WriteFile(l.dir+"/blobs/sha256/"+name, content, 0o644))
	return map[string]any{"digest": "sha256:" + name, "size": len(content)}
}

func (l layout) json(v any) map[string]any {
	l.t.Helper()
	raw, err := json.Marshal(v)
	must(l.t, err)
	return l.blob(raw)
}

func (l layout) image(arch string, layers ...[]byte) map[string]any {
	l.t.Helper()
	var ls []any
	for _, content := range layers {
		layer := l.blob(content)
		layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar"
		ls = append(ls, layer)
	}
	d := l.json(map[string]any{"schemaVersion": 2, "config": l.blob([]byte("{}")), "layers": ls})
	d["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
	d["platform"] = map[string]any{"os": "linux", "architecture": arch}
	return d
}

func (l layout) index(manifests ...any) {
	l.t.Helper()
	raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": manifests})
	must(l.t, err)
	must(l.t, os.WriteFile(l.dir+"/index.json", raw, 0o644))
	must(l.t, os.WriteFile(l.dir+"/oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
}

// filesOf lists the paths of a store's tree with the help of a diff against an
// empty one.
func filesOf(t *testing.T, store string) []string {
	t.Helper()
	empty := "jumpscale|empty(1)"
	ays(t, 0, "publish", "-store", store, "-id", empty, t.TempDir())
	var paths []string
	for line := range strings.Lines(ays(t, 0, "diff", "-store", store, empty, id).stdout) {
		if p, ok := strings.CutPrefix(line, "+ "); ok {
			paths = append(paths, strings.TrimSuffix(p, "\n"))
		}
	}
	return paths
}

func TestOCI(t *testing.T) {
	l := layout{t, t.TempDir()}
	base := tarOf(t,
		member{name: "bin/", kind: tar.TypeDir, mode: 0o755}, member{name: "bin/sh", content: "#!"}, member{name: "bin/old", content: "old"},
		member{name: "etc/a", content: "a"}, member{name: "etc/b", content: "b"}, member{name: "gone/deep/file", content: "x"},
		member{name: "kept/low", content: "low"}, member{name: "replaced", content: "1"},
	)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(tarOf(t,
		member{name: "bin/.wh.old"}, member{name: "etc/new", content: "new"}, member{name: "etc/.wh..wh..opq"},
		member{name: ".wh.gone"}, member{name: "kept/high", kind: tar.TypeLink, content: "kept/low"},
		member{name: "replaced", kind: tar.TypeSymlink, content: "bin/sh"},
		// Gone, and there again in the same layer.
		member{name: "bin/.wh.sh"}, member{name: "bin/sh", content: "#!new"},
	))
	must(t, z.Close())
	amd, arm := l.image("amd64", base, packed.Bytes()), l.image("arm64", base)
	l.index(amd)
	store := t.TempDir()
	s := publishJSON(t, 0, store, "-format", "oci", l.dir)
	want := []string{"bin", "bin/sh", "etc", "etc/new", "kept", "kept/high", "kept/low", "replaced"}
	if got := filesOf(t, store); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right")

	// Of more than one image, one is to be chosen, in nested indexes, too.
	nested := l.json(map[string]any{"manifests": []any{amd, arm}})
	nested["mediaType"] = "application/vnd.oci.image.index.v1+json"
	nested["annotations"] = map[string]string{"org.opencontainers.image.ref.name": "both"}
	attested := l.image("unknown", base)
	attested["platform"] = map[string]any{"os": "unknown", "architecture": "unknown"}
	l.index(nested, attested)
	contains(t, ays(t, 2, "publish", "-store", store, "-id", id, "-format", "oci", l.dir).stderr, "2 images", "linux/amd64, linux/arm64")
	contains(t, ays(t, 2, "publish", "-store", store, "-id", id, "-format", "oci", "-image", "linux/arm", l.dir).stderr, `no image "linux/arm"`)
	if again := publishJSON(t, 0, store, "-format", "oci", "-image", "linux/amd64", l.dir); !again.Unchanged || again.Root != s.Root {
		t.Errorf("got %+v", again)
	}
	publishJSON(t, 0, store, "-format", "oci", "-image", "linux/arm64", l.dir)
	if got := filesOf(t, store); len(got) != 12 {
		t.Errorf("got %q", got)
	}

	// A layer that is not what its digest says.
	layers, err := filepath.Glob(l.dir + "/blobs/sha256/*")
	must(t, err)
	for _, file := range layers {
		if raw, err := os.ReadFile(file); err == nil && bytes.Equal(raw, base) {
			must(t, os.WriteFile(file, tarOf(t, member{name: "evil", content: "x"}), 0o644))
		}
	}
	contains(t, ays(t, 2, "publish", "-store", store, "-id", id, "-format", "oci", "-image", "linux/arm64", l.dir).stderr, "layer 1", "digest")
	contains(t, ays(t, 2, "publish", "-store", store, "-id", id, "-format", "oci", t.TempDir()).stderr, "no OCI image layout")
}

// The format of this system's ancestors: path|md5|size a line.
func TestTextList(t *testing.T) {
	dir, store := t.TempDir(), t.TempDir()
	var list strings.Builder
	add := func(levels int, path, content string) string {
		sum := md5.Sum([]byte(content))
		name := hex.EncodeToString(sum[:])
		file := filepath.Join(dir, name[:levels], name[levels:2*levels], name)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, []byte(content), 0o640))
		fmt.Fprintf(&list, "%s|%s|%d\n", path, name, len(content))
		return file
	}
	add(1, "/opt/app/bin/run", "#!/bin/sh\n")
	add(2, "opt/app/odd|name", "odd")
	large := add(1, "opt/app/large", strings.Repeat("large ", 400_000))
	add(1, "opt/app/empty", "")
	publish := func(code int) outcome {
		t.Helper()
		must(t, os.WriteFile(dir+"/app.flist", []byte(list.String()), 0o644))
		return ays(t, code, "publish", "-store", store, "-id", id, "-format", "list", dir+"/app.flist")
	}
	contains(t, publish(0).stdout, "serial 1", "4 files, 4 directories")
	want := []string{"opt", "opt/app", "opt/app/bin", "opt/app/bin/run", "opt/app/empty", "opt/app/large", "opt/app/odd|name"}
	if got := filesOf(t, store); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	contains(t, ays(t, 0, "verify", "-store", store).stdout, "all right")

	f, err := os.OpenFile(large, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("X"), 1_000_000)
	must(t, err)
	must(t, f.Close())
	list.WriteString("none|" + strings.Repeat("0", 32) + "|5\nno bars\r\nx|abc|1\nx|" + strings.Repeat("1", 32) + "|many\n")
	o := publish(2)
	contains(t, o.stderr, `"opt/app/large": `, "has the MD5", `"none": there is no file 0/0/`, `line 6": "no bars"`, "no MD5 in hex", "no size", "nothing was published")
	must(t, unix.Access(store+"/md/"+id+"/any/head", unix.R_OK))
}
