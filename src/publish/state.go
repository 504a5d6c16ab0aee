package publish

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc64"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// A state is a file in which a publish notes what it has read. It is for the next
// one on this machine: what has the same size, times and inode need not be read
// again. It is worth no more than that: without it all is read.
const stateMagic = "aysfs state 2\n"

// StateFile is the file for a tree's state beside its heads in a directory
// store.
func StateFile(storeName string, tree object.TreeName) (string, error) {
	if err := tree.Validate(); err != nil {
		return "", err
	}
	dir, err := storeDir(storeName)
	if err != nil {
		return "", err
	}
	return headsOf(dir, tree).path(".state"), nil
}

var crcTable = crc64.MakeTable(crc64.ECMA)

// identity is what a file's content can't change without. Links and times of
// access change other things.
type identity struct {
	size, mtimeSec, mtimeNsec, ctimeSec, ctimeNsec int64
	device, inode                                  uint64
}

func identityOf(st *unix.Stat_t) identity {
	id := identity{size: st.Size, device: uint64(st.Dev), inode: st.Ino}
	id.mtimeSec, id.mtimeNsec = st.Mtim.Unix()
	id.ctimeSec, id.ctimeNsec = st.Ctim.Unix()
	return id
}

// settled tells whether a file that is looked at now, before it is read, would
// show a later change: one within the same tick of the file system's clock it
// would not. Ticks are of a few milliseconds, and of up to two seconds where there
// are no parts of seconds. Images (squashfs, ISO 9660) and file systems that know no
// times of changes (vfat, sshfs) have the time of the content in their place, and
// the next image may have the same times, sizes and inodes for other content.
func (id identity) settled(now time.Time) bool {
	tick := 100 * time.Millisecond
	if id.ctimeNsec == 0 {
		if id.ctimeSec == id.mtimeSec && id.mtimeNsec == 0 {
			return false
		}
		tick = 2 * time.Second
	}
	return time.Unix(id.ctimeSec, id.ctimeNsec).Add(tick).Before(now)
}

// known is a file as a publish before has read it.
type known struct {
	path     string
	identity identity
	content  content
}

// state reads what a publish before has noted, in the order of a walk.
type state struct {
	// sure tells that the tree's newest head, which nobody replaces as long as
	// we have the lock, reaches all that is noted: so it is in the store, and gc
	// leaves it alone.
	sure bool

	file *os.File
	in   *bufio.Reader
	next *known // nil: there is no more
}

// openState opens the state of a tree whose newest head is current. It is nil if
// there is none.
func openState(path string, current *object.Head, domain string) (*state, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &state{file: f}
	sure, err := s.start(current, domain)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("state of the last publish: %w", err)
	}
	s.sure = sure
	return s, nil
}

// start checks the whole file, then reads its head and the first entry.
func (s *state) start(current *object.Head, domain string) (sure bool, err error) {
	info, err := s.file.Stat()
	if err != nil {
		return false, err
	}
	size := info.Size() - crc64.Size
	if size < 0 {
		return false, io.ErrUnexpectedEOF
	}
	sum := crc64.New(crcTable)
	if _, err := io.Copy(sum, io.NewSectionReader(s.file, 0, size)); err != nil {
		return false, err
	}
	tail := make([]byte, crc64.Size)
	if _, err := s.file.ReadAt(tail, size); err != nil {
		return false, err
	}
	if binary.BigEndian.Uint64(tail) != sum.Sum64() {
		return false, errors.New("it is damaged")
	}
	s.in = bufio.NewReaderSize(io.NewSectionReader(s.file, 0, size), 1<<20)
	magic := make([]byte, len(stateMagic))
	if _, err := io.ReadFull(s.in, magic); err != nil || string(magic) != stateMagic {
		return false, errors.New("it is of another version")
	}
	noted, err := s.text()
	if err != nil {
		return false, err
	}
	var root digest.Digest
	if _, err := io.ReadFull(s.in, root[:]); err != nil {
		return false, err
	}
	if noted != domain {
		return false, errors.New("it is of another domain")
	}
	return current != nil && current.Domain == domain && current.Root == root, s.advance()
}

func (s *state) close() { s.file.Close() }

func (s *state) text() (string, error) {
	n, err := binary.ReadUvarint(s.in)
	if err != nil {
		return "", err
	}
	if n > 1<<20 {
		return "", errors.New("it is damaged")
	}
	b := make([]byte, n)
	_, err = io.ReadFull(s.in, b)
	return string(b), err
}

// advance reads the next entry.
func (s *state) advance() error {
	s.next = nil
	path, err := s.text()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	k := &known{path: path}
	id := &k.identity
	for _, v := range []*int64{&id.size, &id.mtimeSec, &id.mtimeNsec, &id.ctimeSec, &id.ctimeNsec} {
		if *v, err = binary.ReadVarint(s.in); err != nil {
			return err
		}
	}
	for _, v := range []*uint64{&id.device, &id.inode} {
		if *v, err = binary.ReadUvarint(s.in); err != nil {
			return err
		}
	}
	k.content.size = id.size
	if _, err := io.ReadFull(s.in, k.content.digest[:]); err != nil {
		return err
	}
	chunked, err := s.in.ReadByte()
	k.content.chunked = chunked != 0
	s.next = k
	return err
}

// find returns what is known of the file at a path, or nil. Paths are to be asked
// for in the order of a walk.
func (s *state) find(path string, id identity) (*content, error) {
	for s.next != nil && object.ComparePaths(s.next.path, path) < 0 {
		if err := s.advance(); err != nil {
			return nil, fmt.Errorf("state of the last publish: %w", err)
		}
	}
	if s.next == nil || s.next.path != path || s.next.identity != id {
		return nil, nil
	}
	return &s.next.content, nil
}

// writeState notes what was read. It is not synced: one that a crash damages is
// not used.
func writeState(path string, head *object.Head, root *dir) error {
	// Names of files, maybe of private ones, are nothing for a web server.
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	w := &stateWriter{sum: crc64.New(crcTable)}
	w.out = bufio.NewWriterSize(io.MultiWriter(f, w.sum), 1<<20)
	w.out.WriteString(stateMagic)
	w.text(head.Domain)
	w.out.Write(head.Root[:])
	if err := w.dir(root); err != nil {
		return err
	}
	if err := w.out.Flush(); err != nil { // which has the errors of all writes
		return err
	}
	if _, err := f.Write(binary.BigEndian.AppendUint64(nil, w.sum.Sum64())); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

type stateWriter struct {
	out *bufio.Writer
	sum hash.Hash64
	buf []byte
}

func (w *stateWriter) text(s string) {
	w.out.Write(binary.AppendUvarint(w.buf[:0], uint64(len(s))))
	w.out.WriteString(s)
}

// dir writes the files of a directory and of all below it, in the order of a
// walk.
func (w *stateWriter) dir(d *dir) error {
	l, err := object.ParseListing(d.listing)
	if err != nil {
		return err
	}
	subdirs := d.subdirs
	for i := range l.Len() {
		e := l.At(i)
		switch {
		case e.Kind == object.Dir:
			if err := w.dir(subdirs[0]); err != nil {
				return err
			}
			subdirs = subdirs[1:]
		case e.Kind == object.File && d.read[i] != identity{}:
			w.file(object.Join(d.path, string(e.Name)), d.read[i], &e)
		}
	}
	return nil
}

func (w *stateWriter) file(path string, id identity, e *object.Entry) {
	w.text(path)
	b := w.buf[:0]
	for _, v := range []int64{id.size, id.mtimeSec, id.mtimeNsec, id.ctimeSec, id.ctimeNsec} {
		b = binary.AppendVarint(b, v)
	}
	b = binary.AppendUvarint(b, id.device)
	b = binary.AppendUvarint(b, id.inode)
	b = append(b, e.Digest[:]...)
	if e.Chunked {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	w.out.Write(b)
	w.buf = b
}

// unread fills in an entry without reading its file, and tells whether that was
// possible.
func (r *reader) unread(path string, e *object.Entry, st *unix.Stat_t) (bool, error) {
	if r.state == nil {
		return false, nil
	}
	c, err := r.state.find(path, identityOf(st))
	if err != nil || c == nil {
		return false, err
	}
	if there, err := r.stored(c); err != nil || !there {
		return false, err
	}
	e.Kind, e.Mode, e.Mtime = object.File, r.mode(path, st), mtime(st.Mtim)
	e.Size, e.Digest, e.Chunked = c.size, c.digest, c.chunked
	r.bytes.Add(c.size)
	r.meter.files.Add(1)
	r.meter.bytes.Add(c.size)
	return true, nil
}

// stored tells whether the store has all of a file's content. Somebody may have
// removed some of it by hand, or, where the state is not that of the newest head,
// gc may have.
func (r *reader) stored(c *content) (bool, error) {
	has := r.store.has
	if r.state.sure {
		has = r.store.seen // gc leaves it alone: no need to keep it fresh
	}
	there, err := has(c.digest)
	if err != nil || !there || !c.chunked {
		return there, err
	}
	raw, err := r.store.read(tier.Ref{Digest: c.digest, Limit: object.MaxChunkList(c.size)})
	if err != nil {
		return false, nil // it is read, and stored, again
	}
	list, err := object.ParseChunkList(raw, c.size)
	if err != nil {
		return false, nil
	}
	for _, chunk := range list.Chunks {
		if there, err := has(chunk.Digest); err != nil || !there {
			return there, err
		}
	}
	return true, nil
}
