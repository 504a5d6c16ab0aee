package publish

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/object"
)

// maxListLine bounds a line of a list of files, in bytes.
const maxListLine = 64 << 10

// readList reads a tree out of a list of files as this system's ancestors had
// them: a text with a line path|md5|size for each file, and beside it the files
// by their MD5, in directories of two levels, a/b/ab… or ab/cd/abcd…, or the
// same below files. The list has no modes and times: those of the files are taken,
// and what starts like a program may be executed.
func (r *reader) readList(ctx context.Context, path string) (*dir, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("list to publish: %w", err)
	}
	defer f.Close()
	return r.build(ctx, func(b *builder) error {
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, maxListLine)
		for i := 1; lines.Scan(); i++ {
			if b.ctx.Err() != nil {
				return context.Cause(b.ctx)
			}
			line := strings.TrimSuffix(lines.Text(), "\r")
			if line == "" {
				continue
			}
			l, err := parseListLine(line)
			if err != nil {
				if err := r.problems.add(fmt.Sprintf("%s, line %d", filepath.Base(path), i), err); err != nil {
					return err
				}
				continue
			}
			if err := b.listed(filepath.Dir(path), l); err != nil {
				var se storeError
				if errors.As(err, &se) {
					return err
				}
				if err := r.problems.add(l.path, err); err != nil {
					return err
				}
			}
		}
		if err := lines.Err(); err != nil {
			return fmt.Errorf("list %s: %w", path, err)
		}
		return nil
	})
}

type listLine struct {
	path, md5 string
	size      int64
}

// parseListLine reads path|md5|size. The path may have bars in it.
func parseListLine(line string) (l listLine, err error) {
	bad := func(what string) (listLine, error) {
		return l, fmt.Errorf("%.200q: %s: want path|md5|size", line, what)
	}
	i := strings.LastIndexByte(line, '|')
	if i < 0 {
		return bad("it has no |")
	}
	j := strings.LastIndexByte(line[:i], '|')
	if j < 0 {
		return bad("it has one | only")
	}
	l.path, l.md5 = line[:j], strings.ToLower(line[j+1:i])
	if sum, err := hex.DecodeString(l.md5); err != nil || len(sum) != md5.Size {
		return bad("no MD5 in hex")
	}
	if l.size, err = strconv.ParseInt(line[i+1:], 10, 64); err != nil || l.size < 0 {
		return bad("no size")
	}
	return l, nil
}

// listed adds a file that a list names.
func (b *builder) listed(dir string, l listLine) error {
	names, err := cleanPath(l.path)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return errors.New("the path is empty")
	}
	f, err := openByMD5(dir, l.md5)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := fstat(f)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != l.size {
		return fmt.Errorf("%s is no file of %d bytes", f.Name(), l.size)
	}
	start := make([]byte, 4)
	n, err := f.ReadAt(start, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	perm := int64(st.Mode & object.ModeBits)
	if start = start[:n]; bytes.HasPrefix(start, []byte("#!")) || bytes.HasPrefix(start, []byte("\x7fELF")) {
		perm |= (perm & 0o444) >> 2 // who may read it may execute it
	}
	sum := md5.New()
	file := &node{kind: object.File, mode: b.perm(l.path, perm), mtime: mtime(st.Mtim)}
	if file.content, err = b.file(io.TeeReader(f, sum), l.size); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != l.md5 {
		return fmt.Errorf("%s: its content has the MD5 %s", f.Name(), got)
	}
	return b.add(names, file)
}

func openByMD5(dir, sum string) (*os.File, error) {
	for _, base := range []string{dir, filepath.Join(dir, "files")} {
		for _, n := range []int{1, 2} {
			f, err := os.OpenFile(filepath.Join(base, sum[:n], sum[n:2*n], sum), os.O_RDONLY|unix.O_NONBLOCK, 0)
			if !errors.Is(err, os.ErrNotExist) {
				return f, err
			}
		}
	}
	return nil, fmt.Errorf("there is no file %s/%s/%s beside the list", sum[:1], sum[1:2], sum)
}
