package publish

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// A state file remembers what the files of a tree were when they were last read,
// so that the next publish need not read them again. After stateMagic come
//
//	the store, the tree and the domain, each a string
//	for every directory in object.ComparePaths order that has files to remember:
//	    its path, the number of these files, and of each, in name order:
//	    name, device, inode, size, mtime, ctime, chunked, digest
//	the SHA-256 of all that
//
// Strings are their length and bytes, numbers varints. A walk meets directories
// in the same order: the file is read along with it, and only one directory's
// part of it at a time is in memory for each level of the tree.
const stateMagic = "aysfs publish state 1\n"

// maxStateString bounds the strings in a state file. Paths are longer than the
// system's own limit at times.
const maxStateString = 1 << 20

// racy is how much older than the moment of reading a file's times must be.
// With younger ones the file may change once more and still have the same times,
// for these are as coarse as two seconds on some file systems.
const racy = 2 * time.Second

// stamp tells a file from what it may become later.
type stamp struct {
	dev, ino uint64
	ctime    int64 // nanoseconds since 1970; 0 is the stamp of a file that can't be told
}

// stampOf is the stamp of a file that st was asked of, and that was read, later
// than now.
func stampOf(st *unix.Stat_t, now time.Time) stamp {
	latest := now.Add(-racy).UnixNano()
	if mtime(st.Ctim) > latest || mtime(st.Mtim) > latest {
		return stamp{}
	}
	return stamp{dev: uint64(st.Dev), ino: st.Ino, ctime: mtime(st.Ctim)}
}

// remembered is a file in a state file.
type remembered struct {
	name    string
	stamp   stamp
	size    int64
	mtime   int64 // as it is published
	digest  digest.Digest
	chunked bool
}

// is tells whether the file that st is of is still the one remembered.
func (m *remembered) is(st *unix.Stat_t) bool {
	return m.stamp == stamp{uint64(st.Dev), st.Ino, mtime(st.Ctim)} && m.size == st.Size && m.mtime == mtime(st.Mtim)
}

// stateKey is what a state file is about.
type stateKey struct{ store, tree, domain string }

func (k stateKey) append(b []byte) []byte {
	b = append(b, stateMagic...)
	for _, s := range []string{k.store, k.tree, k.domain} {
		b = appendString(b, s)
	}
	return b
}

// DefaultState is the state file, in the user's directory for caches, of a tree
// in a directory store.
func DefaultState(store string, tree object.TreeName, domain string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for a state file: %w", err)
	}
	dir, err := storeDir(store)
	if err != nil {
		return "", err
	}
	if dir, err = resolve(dir); err != nil {
		return "", fmt.Errorf("store: %w", err)
	}
	key := stateKey{dir, tree.Dir(), object.DomainOrDefault(domain)}
	return filepath.Join(cache, "aysfs", "publish", digest.Of(key.append(nil)).Short()+".state"), nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// stateReader reads a state file along with a walk. A nil one remembers nothing.
type stateReader struct {
	f   *os.File
	r   *bufio.Reader
	dir string // whose files come next
	err error  // once there is nothing more to read; io.EOF at the end
}

// openState opens a state file, once all of it was looked at: a torn one can't be
// told from a whole one before its end. The error is fs.ErrNotExist for none.
func openState(path string, key stateKey) (*stateReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	size, err := checkState(f, key)
	if err != nil {
		f.Close()
		return nil, err
	}
	start := int64(len(key.append(nil)))
	s := &stateReader{f: f, r: bufio.NewReaderSize(io.NewSectionReader(f, start, size-start), 64<<10)}
	s.dir, s.err = s.string()
	return s, nil
}

// checkState returns the size of what comes before the checksum.
func checkState(f *os.File, key stateKey) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	head, size := key.append(nil), info.Size()-sha256.Size
	start := make([]byte, max(0, min(int64(len(head)), size)))
	if _, err := f.ReadAt(start, 0); err != nil {
		return 0, err
	}
	switch {
	case !bytes.HasPrefix(start, []byte(stateMagic)):
		return 0, errors.New("not a state file of this version")
	case !bytes.Equal(start, head):
		return 0, errors.New("it is of another store, tree or domain")
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, size)); err != nil {
		return 0, err
	}
	sum := make([]byte, sha256.Size)
	if _, err := f.ReadAt(sum, size); err != nil {
		return 0, err
	}
	if !bytes.Equal(h.Sum(nil), sum) {
		return 0, errors.New("it is torn: wrong checksum")
	}
	return size, nil
}

func (s *stateReader) close() {
	if s != nil {
		s.f.Close()
	}
}

// files returns what is remembered of a directory's files, by name. Directories
// must be asked for in object.ComparePaths order.
func (s *stateReader) files(dir string) map[string]remembered {
	if s == nil {
		return nil
	}
	for s.err == nil {
		order := object.ComparePaths(s.dir, dir)
		if order > 0 {
			return nil
		}
		files := s.section(order == 0)
		if s.err == nil {
			s.dir, s.err = s.string()
		}
		if order == 0 {
			return files
		}
	}
	return nil
}

// section reads the files of one directory.
func (s *stateReader) section(keep bool) map[string]remembered {
	files := map[string]remembered{}
	for n := s.number(); n > 0 && s.err == nil; n-- {
		var m remembered
		m.name, s.err = s.string()
		m.stamp.dev, m.stamp.ino = s.number(), s.number()
		m.size, m.mtime, m.stamp.ctime = s.signed(), s.signed(), s.signed()
		m.chunked = s.number() != 0
		if s.err == nil {
			_, s.err = io.ReadFull(s.r, m.digest[:])
		}
		if keep && s.err == nil {
			files[m.name] = m
		}
	}
	return files
}

func (s *stateReader) string() (string, error) {
	n, err := binary.ReadUvarint(s.r)
	if err != nil {
		return "", err
	}
	if n > maxStateString {
		return "", fmt.Errorf("a string of %d bytes", n)
	}
	b := make([]byte, n)
	_, err = io.ReadFull(s.r, b)
	return string(b), err
}

func (s *stateReader) number() (n uint64) {
	if s.err == nil {
		n, s.err = binary.ReadUvarint(s.r)
	}
	return n
}

func (s *stateReader) signed() (n int64) {
	if s.err == nil {
		n, s.err = binary.ReadVarint(s.r)
	}
	return n
}

// writeState replaces a state file.
func writeState(path string, key stateKey, root *dir) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write state file: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".state-") // mode 0600
	if err != nil {
		return fmt.Errorf("write state file: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
			err = fmt.Errorf("write state file %s: %w", path, err)
		}
	}()
	sum := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, sum), 256<<10)
	w.Write(key.append(nil)) // bufio tells of errors when it is flushed
	var buf []byte
	for d := range root.all() {
		if buf, err = d.appendState(buf[:0]); err != nil {
			break
		}
		w.Write(buf)
	}
	err = errors.Join(err, w.Flush())
	if err == nil {
		_, err = f.Write(sum.Sum(nil))
	}
	// A name without its bytes would be noticed by its checksum, and cost one
	// full reading: no reason to wait for the disk.
	err = errors.Join(err, f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// appendState appends what is to be remembered of a directory's files.
func (d *dir) appendState(b []byte) ([]byte, error) {
	n := 0
	for _, s := range d.stamps {
		if s.ctime != 0 {
			n++
		}
	}
	if n == 0 {
		return b, nil
	}
	l, err := object.ParseListing(d.listing)
	if err != nil {
		return b, err
	}
	b = binary.AppendUvarint(appendString(b, d.path), uint64(n))
	for i, s := range d.stamps {
		if s.ctime == 0 {
			continue
		}
		e := l.At(i)
		b = appendString(b, string(e.Name))
		b = binary.AppendUvarint(binary.AppendUvarint(b, s.dev), s.ino)
		b = binary.AppendVarint(binary.AppendVarint(binary.AppendVarint(b, e.Size), e.Mtime), s.ctime)
		chunked := byte(0)
		if e.Chunked {
			chunked = 1
		}
		b = append(append(b, chunked), e.Digest[:]...)
	}
	return b, nil
}

// recall completes a file's entry without reading the file, if that is as it was
// when it was read last and the store still has all of its content.
func (r *reader) recall(j fileJob) (bool, error) {
	if j.known == nil || !j.known.is(&j.stat) {
		return false, nil
	}
	if there, err := r.relyOn(j.known); err != nil || !there {
		return false, err
	}
	e := j.entry()
	e.Kind, e.Mode, e.Mtime, e.Size = object.File, r.mode(j.path(), &j.stat), j.known.mtime, j.known.size
	e.Digest, e.Chunked = j.known.digest, j.known.chunked
	j.stamp(j.known.stamp)
	r.bytes.Add(e.Size)
	r.meter.bytes.Add(e.Size)
	r.unread.Add(1)
	return true, nil
}

// relyOn tells whether the store has a file's blobs, which then stay. A chunk
// list that can't be read is as good as none: the file is.
func (r *reader) relyOn(m *remembered) (bool, error) {
	there, err := r.store.has(m.digest)
	if err != nil || !there {
		return false, storeErr(err)
	}
	if !m.chunked {
		return true, nil
	}
	list, err := r.store.chunkList(m.digest, m.size)
	if err != nil {
		r.log.Info("reading a file again: its chunk list in the store is damaged", "digest", m.digest.Short(), "err", err)
		return false, nil
	}
	for i := range list.Chunks {
		if there, err := r.store.has(list.Chunks[i].Digest); err != nil || !there {
			return false, storeErr(err)
		}
	}
	return true, nil
}

func storeErr(err error) error {
	if err == nil {
		return nil
	}
	return storeError{err}
}

// chunkList reads the chunk list of a file of size bytes.
func (s *dirStore) chunkList(d digest.Digest, size int64) (*object.ChunkList, error) {
	stored, err := os.ReadFile(filepath.Join(s.blobs, d.String()))
	if err != nil {
		return nil, err
	}
	raw, err := s.codec.Unpack(d, stored, object.MaxChunkList(size))
	if err != nil {
		return nil, err
	}
	return object.ParseChunkList(raw, size)
}

// openOldState opens the state file that the options name, if it can be used.
func (o *Options) openOldState(key stateKey) *stateReader {
	if o.State == "" || o.Full {
		return nil
	}
	old, err := openState(o.State, key)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			o.Log.Info("ignoring the state file, all files are read", "file", o.State, "err", err)
		}
		return nil
	}
	return old
}
