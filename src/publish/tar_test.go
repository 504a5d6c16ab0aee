package publish_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
)

// member is one entry of an archive that a test makes.
type member struct {
	tar.Header
	content string
}

func tarFile(name, content string) member {
	return member{tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644, ModTime: day}, content}
}

func tarMember(kind byte, name, target string) member {
	return member{tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o755, ModTime: day}, ""}
}

func makeTar(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		must(t, w.WriteHeader(&m.Header))
		_, err := w.Write([]byte(m.content))
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// tarOf is an archive of a directory.
func tarOf(t testing.TB, root string) []byte {
	t.Helper()
	var members []member
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		must(t, err)
		info, err := d.Info()
		must(t, err)
		target, _ := os.Readlink(path)
		h, err := tar.FileInfoHeader(info, target)
		must(t, err)
		rel, err := filepath.Rel(root, path)
		must(t, err)
		h.Name, h.Format = "./"+rel, tar.FormatPAX // for the nanoseconds
		m := member{Header: *h}
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			must(t, err)
			m.content = string(b)
		}
		members = append(members, m)
		return nil
	}))
	return makeTar(t, members...)
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	must(t, err)
	must(t, w.Close())
	return out.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	must(t, err)
	defer w.Close()
	return w.EncodeAll(b, nil)
}

func writeFile(t testing.TB, content []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "archive")
	must(t, os.WriteFile(name, content, 0o644))
	return name
}

// publishTar publishes an archive from standard input.
func publishTar(store string, archive []byte, mine ...func(*publish.Options)) (publish.Result, error) {
	return tryRun(store, "-", append(mine, func(o *publish.Options) { o.Stdin = bytes.NewReader(archive) })...)
}

// An archive of a directory makes the tree that the directory itself makes.
func TestTarIsItsDirectory(t *testing.T) {
	root := craftedTree(t)
	want := run(t, t.TempDir(), root)
	plain := tarOf(t, root)
	for name, archive := range map[string][]byte{"plain": plain, "gzip": gzipped(t, plain), "zstd": zstded(t, plain)} {
		store := t.TempDir()
		res := run(t, store, writeFile(t, archive))
		if res.Root != want.Root || res.Counts != want.Counts || res.NewBlobs != want.NewBlobs {
			t.Errorf("%s: got %+v, want %+v", name, res, want)
		}
		mustBeClean(t, store)
		if again, err := publishTar(store, archive); err != nil || !again.Unchanged {
			t.Errorf("%s: from standard input %+v, %v", name, again, err)
		}
	}
}

func TestTarMembers(t *testing.T) {
	old := time.Unix(1e9, 0)
	long := strings.Repeat("long/", 60) + strings.Repeat("n", 200)
	gnu := tarFile("gnu/"+long, "g")
	gnu.Format = tar.FormatGNU
	made := tarFile("made/of/a/file", "m")
	made.ModTime = old
	archive := makeTar(t,
		member{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "as git archive has it"}}},
		tarFile("twice", "first"),
		tarFile("a", "content of a"),
		tarMember(tar.TypeLink, "link-to-a", "a"),
		tarMember(tar.TypeLink, "slash-link", "/a"),
		tarMember(tar.TypeSymlink, "sym", "/anywhere/../else"),
		tarMember(tar.TypeLink, "link-to-sym", "sym"),
		made,
		tarFile("pax/"+long, "p"),
		gnu,
		tarFile(".//dots/./here", "d"),
		tarMember(tar.TypeDir, "was-dir/", ""),
		tarFile("was-dir/file", "gone"),
		tarFile("was-dir", "file now"),
		tarFile("becomes-dir", "gone"),
		tarMember(tar.TypeDir, "becomes-dir", ""),
		tarMember(tar.TypeDir, "lib", ""),
		tarFile("lib/before", "1"),
		tarMember(tar.TypeDir, "lib", ""),
		tarMember(tar.TypeSymlink, "lib64", "down/../lib"),
		tarMember(tar.TypeDir, "down", ""),
		tarFile("lib/behind", "2"),
		tarFile("empty", ""),
		tarFile("new\nline\xff", "odd"),
		tarFile("twice", "second"),
		tarFile("a", "a is another"),
		tarFile("big", noise(3, 3<<20)),
	)
	store := t.TempDir()
	if _, err := publishTar(store, archive); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, store)
	p := readBack(t, store)
	want := map[string]string{
		"twice": "second", "a": "a is another", "link-to-a": "content of a", "slash-link": "content of a", "made/of/a/file": "m",
		"pax/" + long: "p", "gnu/" + long: "g", "dots/here": "d", "was-dir": "file now", "lib/before": "1", "lib/behind": "2",
		"empty": "", "new\nline\xff": "odd", "big": noise(3, 3<<20),
	}
	if !maps.Equal(p.content, want) {
		t.Errorf("got %q, want %q", slices.Sorted(maps.Keys(p.content)), slices.Sorted(maps.Keys(want)))
	}
	for _, dir := range []string{"made/of", "made"} {
		if e := p.entries[dir]; e.Kind != object.Dir || e.Mode != 0o755 || e.Mtime != old.UnixNano() {
			t.Errorf("%s is %+v", dir, e)
		}
	}
	if e := p.entries["becomes-dir"]; e.Kind != object.Dir {
		t.Errorf("becomes-dir is %+v", e)
	}
	for _, link := range []string{"sym", "link-to-sym"} {
		if e := p.entries[link]; e.Kind != object.Symlink || string(e.Target) != "/anywhere/../else" {
			t.Errorf("%s is %+v", link, e)
		}
	}
}

// Sparse files as GNU tar has them, old and new.
func TestSparseTar(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/sparse", []byte("start"), 0o644))
	must(t, os.Truncate(dir+"/sparse", 5<<20))
	f, err := os.OpenFile(dir+"/sparse", os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("middle"), 3<<20)
	must(t, err)
	must(t, f.Close())
	want, err := os.ReadFile(dir + "/sparse")
	must(t, err)
	for _, format := range []string{"gnu", "pax"} {
		archive, err := exec.Command("tar", "-C", dir, "--sparse", "--format="+format, "-cf", "-", ".").Output()
		must(t, err)
		if len(archive) > 1<<20 {
			t.Fatalf("%s: not sparse, %d bytes", format, len(archive))
		}
		store := t.TempDir()
		_, err = publishTar(store, archive)
		must(t, err)
		if got := readBack(t, store).content["sparse"]; got != string(want) {
			t.Errorf("%s: got %d bytes of another content", format, len(got))
		}
	}
}

func TestTarRefuses(t *testing.T) {
	store := t.TempDir()
	if _, err := publishTar(store, makeTar(t, tarFile("good", "good"))); err != nil {
		t.Fatal(err)
	}
	for want, m := range map[string]member{
		`"/etc/passwd": the name is absolute`:  tarFile("/etc/passwd", ""),
		`"a/../../b": the name has ".." in it`: tarFile("a/../../b", ""),
		`"..": the name has ".."`:              tarMember(tar.TypeDir, "..", ""),
		`255`:                                  tarFile(strings.Repeat("n", 256), ""),
		`"link": hard link to "none": no such name before it`:              tarMember(tar.TypeLink, "link", "none"),
		`"link2": hard link to "../x": the name has ".."`:                  tarMember(tar.TypeLink, "link2", "../x"),
		`"link3": hard link to "dir", which is a directory`:                tarMember(tar.TypeLink, "link3", "dir"),
		`"good/below": "good" before it is no directory`:                   tarFile("good/below", ""),
		`"loop/x": "loop" before it is no directory, but a symlink`:        tarFile("loop/x", ""),
		`".": the root is not a directory`:                                 tarFile(".", ""),
		fmt.Sprintf("a name of %d bytes", len(strings.Repeat("d/", 9000))): tarMember(tar.TypeDir, strings.Repeat("d/", 9000), ""),
	} {
		archive := makeTar(t, tarFile("good", "other"), tarMember(tar.TypeDir, "dir", ""), tarMember(tar.TypeSymlink, "loop", "loop"), m)
		_, err := publishTar(store, archive)
		var te *publish.TreeError
		if !errors.As(err, &te) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s, got %v", want, err)
		}
	}
	// All are named, up to a point.
	var many []member
	for i := range 30 {
		many = append(many, tarFile(fmt.Sprintf("/%d", i), ""))
	}
	var te *publish.TreeError
	if _, err := publishTar(store, makeTar(t, many...)); !errors.As(err, &te) || len(te.Problems) != 20 || !te.Stopped {
		t.Errorf("got %v", err)
	}
	if p := readBack(t, store); p.head.Serial != 1 || p.content["good"] != "good" {
		t.Errorf("the head is %+v", p.head)
	}
}

func TestTarSpecials(t *testing.T) {
	suid := tarFile("suid", "#!")
	suid.Mode = 0o4755
	archive := makeTar(t, suid, tarMember(tar.TypeChar, "dev/null", ""), tarMember(tar.TypeFifo, "pipe", ""), tarFile("file", ""))
	store := t.TempDir()
	var nw *publish.NotWholeError
	if _, err := publishTar(store, archive, func(o *publish.Options) { o.Whole = true }); !errors.As(err, &nw) || nw.Warnings != 3 {
		t.Errorf("got %v", err)
	}
	res, err := publishTar(store, archive)
	must(t, err)
	p := readBack(t, store)
	if res.Skipped != 2 || res.Warnings != 3 || res.Counts.Files != 2 || len(p.entries) != 3 || p.entries["suid"].Mode != 0o755 {
		t.Errorf("got %+v, %v", res, p.entries)
	}
	res, err = publishTar(store, archive, func(o *publish.Options) { o.KeepSetuid = true })
	must(t, err)
	if res.Warnings != 2 || readBack(t, store).entries["suid"].Mode != 0o4755 {
		t.Errorf("got %+v", res)
	}
}

// An archive that is not whole publishes nothing, wherever it ends.
func TestTarCutOff(t *testing.T) {
	store := t.TempDir()
	_, err := publishTar(store, makeTar(t, tarFile("good", "good")))
	must(t, err)
	plain := makeTar(t, tarFile("one", "1"), tarFile("two", strings.Repeat("2", 1500)), tarFile("zeros", strings.Repeat("\x00", 1024)), tarFile("big", noise(5, 1<<20+1)))
	refused := func(what string, archive []byte) {
		t.Helper()
		if _, err := publishTar(store, archive); err == nil {
			t.Fatalf("published an archive %s", what)
		}
	}
	end := len(plain) - 1024
	for n := range 12 {
		refused(fmt.Sprintf("cut off after %d blocks", n), plain[:n*512])
		refused("cut off within a block", plain[:n*512+100])
	}
	for _, cut := range []int{end, end - 512, end - 513} {
		refused(fmt.Sprintf("cut off at %d of %d", cut, len(plain)), plain[:cut])
	}
	withPAX := tarOf(t, craftedTree(t)) // two blocks more for every file
	for n := range 12 {
		refused(fmt.Sprintf("with PAX cut off after %d blocks", n), withPAX[:n*512])
		refused("with PAX cut off within a block", withPAX[:n*512+488])
	}
	for name, packed := range map[string][]byte{"gzip": gzipped(t, plain), "zstd": zstded(t, plain)} {
		for _, cut := range []int{10, len(packed) / 2, len(packed) - 9, len(packed) - 1} {
			refused(fmt.Sprintf("of %s cut off at %d of %d", name, cut, len(packed)), packed[:cut])
		}
		bad := bytes.Clone(packed)
		bad[len(bad)/2] ^= 0xff
		refused("of damaged "+name, bad)
	}
	bad := bytes.Clone(plain)
	bad[3] ^= 1 // in a name: the header's checksum is wrong
	refused("with a damaged header", bad)
	for what, archive := range map[string]string{"xz -dc": "\xfd7zXZ\x00...", "bzip2 -dc": "BZh91AY", "tar": strings.Repeat("no archive", 1000)} {
		if _, err := publishTar(store, []byte(archive)); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("want %s, got %v", what, err)
		}
	}
	if _, err := tryRun(store, "-", func(o *publish.Options) { o.Stdin = io.MultiReader(bytes.NewReader(plain[:2000]), failing{}) }); !errors.Is(err, errFailing) {
		t.Errorf("got %v", err)
	}
	if p := readBack(t, store); p.head.Serial != 1 || p.content["good"] != "good" {
		t.Errorf("the head is %+v", p.head)
	}
	if _, err := publishTar(store, plain); err != nil {
		t.Error(err)
	}
	mustBeClean(t, store)
}

var errFailing = errors.New("failing on purpose")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errFailing }
