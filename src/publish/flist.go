package publish

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/object"
)

// A list of the old format has a line path|md5|size for every file. The files
// are beside it, by their MD5 in directories of two levels. Lists know neither
// modes nor times: programs are told by how they begin, and the time is 0, so that
// a list makes the same tree wherever it is.

// maxListLine bounds a line in bytes.
const maxListLine = 64 << 10

// fileDirs are the directories in which a list's files are looked for: that of the
// list, one called files in it, or, where lists are in a directory of their own,
// beside that.
func (o *Options) fileDirs() ([]string, error) {
	if o.Files == "" {
		dir := filepath.Dir(o.Root)
		return []string{dir, filepath.Join(dir, "files"), filepath.Join(dir, "..", "files")}, nil
	}
	info, err := os.Stat(o.Files)
	if err != nil {
		return nil, fmt.Errorf("files of the list: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("files of the list: %s is not a directory", o.Files)
	}
	return []string{o.Files}, nil
}

// listed is a file that a list names by its content.
type listed struct {
	md5  [md5.Size]byte
	size int64
}

// listedFile is what is to be known of its content once for all its paths.
type listedFile struct {
	content
	mode uint16
	path string // one of those that have it
}

// readFlist reads a list, and the files that it names.
func (r *reader) readFlist(ctx context.Context, list string, dirs []string) (*dir, error) {
	f, err := os.Open(list)
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	defer f.Close()
	return r.importTree(ctx, func(ctx context.Context, t *importer) error {
		lines := bufio.NewScanner(contextReader{ctx, f})
		lines.Buffer(nil, maxListLine)
		contents := map[listed]*listedFile{}
		n := 0
		for lines.Scan() {
			n++
			if err := t.listLine(lines.Text(), contents); err != nil {
				if err := t.problem(ctx, fmt.Sprintf("%s, line %d", filepath.Base(list), n), err); err != nil {
					return err
				}
			}
		}
		if err := lines.Err(); err != nil {
			return fmt.Errorf("list %s, line %d: %w", list, n+1, err)
		}
		if n == 0 {
			return fmt.Errorf("list %s: it is empty", list)
		}
		t.dropReplaced(contents)
		for id, c := range contents {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			t.tasks.Go(func() error {
				if err := t.storeListed(ctx, dirs, id, c); err != nil {
					return t.problem(ctx, c.path, err)
				}
				return nil
			})
		}
		if err := t.tasks.Wait(); err != nil {
			return err
		}
		t.setModes(contents)
		return nil
	})
}

// listLine takes one line.
func (t *importer) listLine(line string, contents map[listed]*listedFile) error {
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return nil
	}
	bad := func(what string) error { return fmt.Errorf("%.200q: %s: want path|md5|size", line, what) }
	rest, sizeText, ok := cutLast(line)
	if !ok {
		return bad("it has no |")
	}
	name, sum, ok := cutLast(rest)
	if !ok {
		return bad("it has one | only")
	}
	if name == "" {
		return bad("no path")
	}
	var id listed
	if n, err := hex.Decode(id.md5[:], []byte(sum[:min(len(sum), 2*md5.Size)])); err != nil || n != md5.Size || len(sum) != 2*md5.Size {
		return bad("no MD5 in hex")
	}
	var err error
	if id.size, err = strconv.ParseInt(sizeText, 10, 64); err != nil || id.size < 0 {
		return bad("no size")
	}
	// Lists name files from the root of the tree, with a slash before it or not.
	path, err := cleanName(strings.TrimLeft(name, "/"))
	if err != nil {
		return err
	}
	c := contents[id]
	if c == nil {
		c = &listedFile{content: content{size: id.size}}
	}
	if err := t.put(path, &node{kind: object.File, content: &c.content}); err != nil {
		return err
	}
	c.path, contents[id] = path, c
	return nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '|')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// dropReplaced forgets contents that later lines have replaced.
func (t *importer) dropReplaced(contents map[listed]*listedFile) {
	used := map[*content]bool{}
	if t.root != nil {
		t.root.eachFile(func(n *node) { used[n.content] = true })
	}
	maps.DeleteFunc(contents, func(_ listed, c *listedFile) bool { return !used[&c.content] })
}

// setModes gives files the modes that their contents have.
func (t *importer) setModes(contents map[listed]*listedFile) {
	modes := make(map[*content]uint16, len(contents))
	for _, c := range contents {
		modes[&c.content] = c.mode
	}
	if t.root != nil {
		t.root.eachFile(func(n *node) { n.mode = modes[n.content] })
	}
}

// eachFile calls f for all files at and below a node.
func (n *node) eachFile(f func(*node)) {
	if n.content != nil {
		f(n)
	}
	for _, child := range n.children {
		child.eachFile(f)
	}
}

// openListed opens the file with a content. Stores differ in how many digits their
// directories' names have.
func openListed(dirs []string, sum string) (*os.File, error) {
	for _, dir := range dirs {
		for _, n := range []int{1, 2} {
			name := filepath.Join(dir, sum[:n], sum[n:2*n], sum)
			f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe is not waited for
			if !errors.Is(err, fs.ErrNotExist) {
				return f, err
			}
		}
	}
	return nil, fmt.Errorf("there is no file %s/%s/%s, nor %s/%s/%s, in %s",
		sum[:1], sum[1:2], sum, sum[:2], sum[2:4], sum, strings.Join(dirs, " or "))
}

// storeListed reads a file, checks it and stores its content.
func (t *importer) storeListed(ctx context.Context, dirs []string, id listed, c *listedFile) error {
	c.mode = 0o644
	var in io.Reader = bytes.NewReader(nil)
	name := "the empty file"
	// Stores need not have the empty file.
	if id.size > 0 || id.md5 != md5.Sum(nil) {
		f, err := openListed(dirs, hex.EncodeToString(id.md5[:]))
		if err != nil {
			return err
		}
		defer f.Close()
		name = f.Name()
		st, err := fstat(f)
		if err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			return fmt.Errorf("%s is not a file", f.Name())
		}
		if st.Size != id.size {
			return fmt.Errorf("%s has %d bytes, the list says %d", f.Name(), st.Size, id.size)
		}
		in = f
	}
	sum := &starting{Hash: md5.New()}
	e := object.Entry{Size: id.size}
	var err error
	if in = io.TeeReader(in, sum); id.size <= object.MaxBlob {
		err = t.readBlob(in, &e)
	} else {
		err = t.readChunks(ctx, in, &e)
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), id.md5[:]) {
		return fmt.Errorf("%s: its content has the MD5 %x", name, sum.Sum(nil))
	}
	if sum.isProgram() {
		c.mode = 0o755
	}
	c.digest, c.chunked = e.Digest, e.Chunked
	t.meter.files.Add(1)
	return nil
}

// starting is a hash that keeps how its content starts.
type starting struct {
	hash.Hash
	start []byte
}

func (s *starting) Write(b []byte) (int, error) {
	if need := 4 - len(s.start); need > 0 {
		s.start = append(s.start, b[:min(need, len(b))]...)
	}
	return s.Hash.Write(b)
}

func (s *starting) isProgram() bool {
	return bytes.HasPrefix(s.start, []byte("#!")) || bytes.HasPrefix(s.start, []byte("\x7fELF"))
}
