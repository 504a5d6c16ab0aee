package fs

import (
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// programs fetches ahead what a program maps when it starts. Once the head of an ELF
// file was read that was not on this machine, what it will have in memory comes, and so do
// the libraries that it needs and that are in the tree: the kernel and the
// linker would ask for these one after the other, and for pages in no order.
type programs struct {
	fs *FS

	last atomic.Int64 // when one began, in nanoseconds since 1970

	mu    sync.Mutex
	known [256]uint64 // GUARDED_BY(mu); ids of files that were looked at, by hash
}

const (
	// mostMapped is how large a segment may be to come whole. Of larger ones a start
	// reads but parts.
	mostMapped = startCredit
	// mostLibraries bounds how many a program may need.
	mostLibraries = 64
	// startTime is how long the start of a program takes.
	startTime   = 5 * time.Second
	maxSegments = 64
	maxDynamic  = 64 << 10 // bytes of a table of what is needed
	maxWhere    = 4096     // bytes of where that is said to be
	maxPlaces   = 32       // directories
)

// begun takes note that bytes from the start of file r were read, which was not on
// this machine.
func (p *programs) begun(s *shown, r *inode, head []byte) {
	if len(head) < len(elf.ELFMAG) || string(head[:len(elf.ELFMAG)]) != elf.ELFMAG || p.fs.guesses.off.Load() || r.parent == 0 || p.fs.walks.leads(r.id) {
		return
	}
	p.last.Store(time.Now().UnixNano())
	p.fs.guesses.program()
	p.start(s, &mapped{inode: *r}, mostLibraries)
}

// recent tells whether a program began not long ago.
func (p *programs) recent() bool { return time.Since(time.Unix(0, p.last.Load())) < startTime }

// mapped is a file that is mapped, and where it is. It need not be in the table.
type mapped struct {
	inode
	known bool // dir is
	dir   string
}

// start brings what a file maps and needs, unless that was done.
func (p *programs) start(s *shown, r *mapped, libraries int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.place(r.id)
	if *at == r.id || libraries == 0 {
		return
	}
	if p.fs.guess(mostGuessing, func() {
		// What is no program after all is read as any file.
		_ = p.load(tier.InBackground(s.over), s, r, libraries)
	}) {
		*at = r.id
	}
}

// place is where it is noted that a file was looked at. p.mu is held.
func (p *programs) place(id uint64) *uint64 { return &p.known[mix(id)%uint64(len(p.known))] }

// looked tells whether a file was looked at not long ago.
func (p *programs) looked(id uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return *p.place(id) == id
}

// load brings what a file maps, and finds out what it needs.
func (p *programs) load(ctx context.Context, s *shown, r *mapped, libraries int) error {
	f := &pieces{ctx: ctx, s: s, r: r.inode}
	if r.chunked {
		var err error
		if f.list, err = s.chunks(ctx, r.digest, r.size); err != nil {
			return err
		}
	}
	e, err := readELF(f)
	if err != nil {
		return err
	}
	if f.list != nil {
		list := f.list
		p.fs.guess(mostGuessing, func() { p.bring(s, r.id, list, e) })
	}
	needs, where, err := e.needs(f, libraries-1)
	if err != nil || len(needs) == 0 {
		return err
	}
	if !r.known {
		_, file, _, err := p.fs.whereShown(ctx, s, r.inode)
		if err != nil {
			return err
		}
		r.dir = object.Parent(file)
	}
	dirs := p.directories(r.dir, where)
	for i, name := range needs {
		l, ok := p.find(ctx, s, dirs, name)
		if !ok || p.looked(l.id) {
			continue
		}
		if !p.fs.guesses.take(ctx, l.id, min(l.size, object.MaxBlob), 0, guess{}) {
			break
		}
		p.start(s, l, libraries-1-i)
	}
	return nil
}

// bring brings the chunks that a file maps.
func (p *programs) bring(s *shown, id uint64, list *object.ChunkList, e *executable) {
	p.fs.guesses.bring(s, 0, nil, func(yield func(wanted) bool) {
		for _, l := range e.loads {
			if l.Filesz > mostMapped {
				continue
			}
			for at, end := int64(l.Off), min(int64(l.Off+l.Filesz), list.Size); at < end; {
				i, start := list.At(at)
				c := list.Chunks[i]
				if !yield(wanted{id: id, ref: s.view.BlobRef(c.Digest, c.Size), part: true}) {
					return
				}
				at = start + c.Size
			}
		}
	})
}

// directories are those where a linker looks for what a file in dir needs, as far
// as they are in the tree. What where says is as in DT_RUNPATH.
func (p *programs) directories(dir, where string) (dirs []string) {
	mnt := p.fs.cfg.Path
	for d := range strings.SplitSeq(where, ":") {
		d = strings.NewReplacer("$ORIGIN", path.Join(mnt, dir), "${ORIGIN}", path.Join(mnt, dir)).Replace(d)
		if d = path.Clean(d); d == mnt || strings.HasPrefix(d, mnt+"/") {
			dirs = append(dirs, strings.TrimPrefix(d[len(mnt):], "/"))
		}
		if len(dirs) == maxPlaces {
			break
		}
	}
	dirs = append(dirs, dir)
	for _, d := range []string{"lib", "lib64"} {
		dirs = append(dirs, strings.TrimPrefix(path.Join("/", dir, "..", d), "/"))
	}
	return dirs
}

// maxLinks is how many symlinks of a library are followed.
const maxLinks = 4

// find finds a library by its name.
func (p *programs) find(ctx context.Context, s *shown, dirs []string, name string) (*mapped, bool) {
	if name == "" || strings.Contains(name, "/") {
		return nil, false
	}
	for _, d := range dirs {
		if r, ok := p.file(ctx, s, d, name); ok {
			return r, true
		}
	}
	return nil, false
}

// file finds a file in a directory, whatever symlinks lead to it there.
func (p *programs) file(ctx context.Context, s *shown, dir, name string) (*mapped, bool) {
	for range maxLinks {
		at, ok := p.fs.directory(ctx, s, dir)
		if !ok {
			break
		}
		l, err := s.view.Listing(ctx, at.path, at.list)
		if err != nil {
			break
		}
		i, ok := l.Find([]byte(name))
		if !ok {
			break
		}
		e := l.At(i)
		if e.Kind == object.File {
			r := &mapped{known: true, dir: dir}
			r.id, r.parent = idOf(at.id, hashName(e.Name), &e), at.id
			r.set(&e)
			return r, e.Size > 0
		}
		if e.Kind != object.Symlink || path.IsAbs(string(e.Target)) {
			break
		}
		dir, name = path.Split(path.Join("/", dir, string(e.Target)))
		dir = strings.Trim(dir, "/")
	}
	return nil, false
}

// executable is what is known of an ELF file.
type executable struct {
	order   binary.ByteOrder
	wide    bool // of 64 bits
	loads   []elf.Prog64
	dynamic elf.Prog64
}

var errNoProgram = errors.New("no program that is understood")

// readELF reads an ELF file's head. That says nothing of what comes in which order:
// no more is believed of it than where to look.
func readELF(f io.ReaderAt) (*executable, error) {
	head := make([]byte, 64)
	if _, err := f.ReadAt(head[:52], 0); err != nil {
		return nil, err
	}
	e := &executable{order: binary.LittleEndian, wide: head[elf.EI_CLASS] == byte(elf.ELFCLASS64)}
	if head[elf.EI_DATA] == byte(elf.ELFDATA2MSB) {
		e.order = binary.BigEndian
	}
	var at int64
	var size, n uint16
	if e.wide {
		if _, err := f.ReadAt(head, 0); err != nil {
			return nil, err
		}
		at, size, n = int64(e.order.Uint64(head[32:])), e.order.Uint16(head[54:]), e.order.Uint16(head[56:])
	} else {
		at, size, n = int64(e.order.Uint32(head[28:])), e.order.Uint16(head[42:]), e.order.Uint16(head[44:])
	}
	least := uint16(32)
	if e.wide {
		least = 56
	}
	if string(head[:len(elf.ELFMAG)]) != elf.ELFMAG || size != least || n == 0 || n > maxSegments || at < 0 {
		return nil, errNoProgram
	}
	table := make([]byte, int(size)*int(n))
	if _, err := f.ReadAt(table, at); err != nil {
		return nil, err
	}
	for ; len(table) > 0; table = table[size:] {
		p := e.segment(table)
		if p.Off > 1<<62 || p.Filesz > 1<<62 {
			return nil, errNoProgram
		}
		switch elf.ProgType(p.Type) {
		case elf.PT_LOAD:
			e.loads = append(e.loads, p)
		case elf.PT_DYNAMIC:
			e.dynamic = p
		}
	}
	return e, nil
}

func (e *executable) segment(b []byte) (p elf.Prog64) {
	o := e.order
	p.Type = o.Uint32(b)
	if e.wide {
		p.Off, p.Vaddr, p.Filesz = o.Uint64(b[8:]), o.Uint64(b[16:]), o.Uint64(b[32:])
	} else {
		p.Off, p.Vaddr, p.Filesz = uint64(o.Uint32(b[4:])), uint64(o.Uint32(b[8:])), uint64(o.Uint32(b[16:]))
	}
	return p
}

// needs are the names of the libraries that a file needs, the first most of them, and
// where it says that they are.
func (e *executable) needs(f io.ReaderAt, most int) (names []string, where string, err error) {
	if e.dynamic.Filesz == 0 || e.dynamic.Filesz > maxDynamic {
		return nil, "", nil
	}
	table := make([]byte, e.dynamic.Filesz)
	if _, err := f.ReadAt(table, int64(e.dynamic.Off)); err != nil {
		return nil, "", err
	}
	var needed []uint64
	values := make(map[elf.DynTag]uint64)
	size := 8
	if e.wide {
		size = 16
	}
	for ; len(table) >= size; table = table[size:] {
		tag, value := uint64(0), uint64(0)
		if e.wide {
			tag, value = e.order.Uint64(table), e.order.Uint64(table[8:])
		} else {
			tag, value = uint64(e.order.Uint32(table)), uint64(e.order.Uint32(table[4:]))
		}
		switch elf.DynTag(tag) {
		case elf.DT_NULL:
			table = nil
		case elf.DT_NEEDED:
			if len(needed) < most {
				needed = append(needed, value)
			}
		case elf.DT_STRTAB, elf.DT_STRSZ, elf.DT_RUNPATH, elf.DT_RPATH:
			values[elf.DynTag(tag)] = value
		}
		if table == nil {
			break
		}
	}
	off, ok := e.offset(values[elf.DT_STRTAB])
	if len(needed) == 0 || !ok {
		return nil, "", nil
	}
	all := values[elf.DT_STRSZ]
	text := func(at uint64, most int) (string, error) {
		if at >= all || at > 1<<62 {
			return "", errNoProgram
		}
		b := make([]byte, min(uint64(most)+1, all-at))
		n, err := f.ReadAt(b, off+int64(at))
		end := bytes.IndexByte(b[:n], 0)
		if end < 0 {
			return "", cmp.Or(err, errNoProgram)
		}
		return string(b[:end]), nil
	}
	for _, at := range needed {
		name, err := text(at, object.MaxName)
		if err != nil {
			return nil, "", err
		}
		names = append(names, name)
	}
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		if at, ok := values[tag]; ok {
			where, err = text(at, maxWhere)
			return names, where, err
		}
	}
	return names, "", nil
}

// offset is where in the file an address is.
func (e *executable) offset(addr uint64) (int64, bool) {
	for _, l := range e.loads {
		if addr >= l.Vaddr && addr-l.Vaddr < l.Filesz {
			return int64(l.Off + addr - l.Vaddr), true
		}
	}
	return 0, false
}

// pieces reads a file of a tree.
type pieces struct {
	ctx  context.Context
	s    *shown
	r    inode
	list *object.ChunkList // nil: it is one blob

	// The blob that was read last: names lie side by side.
	last  tier.Ref
	bytes []byte
}

// ReadAt implements io.ReaderAt.
func (f *pieces) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off > f.r.size {
		return 0, io.EOF
	}
	for n < len(p) && off < f.r.size {
		ref, start := f.s.view.BlobRef(f.r.digest, f.r.size), int64(0)
		if f.list != nil {
			var i int
			i, start = f.list.At(off)
			c := f.list.Chunks[i]
			ref = f.s.view.BlobRef(c.Digest, c.Size)
		}
		if ref != f.last {
			b, err := f.s.blobs.Copy(f.ctx, ref)
			if err != nil {
				return n, err
			}
			f.last, f.bytes = ref, b
		}
		b := f.bytes
		if off-start >= int64(len(b)) {
			return n, io.ErrUnexpectedEOF
		}
		m := copy(p[n:], b[off-start:])
		n, off = n+m, off+int64(m)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
