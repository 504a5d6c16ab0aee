package fs

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// shared is an ELF file that needs libraries, looks for them in where, and maps
// its first bytes, mapped; as many more lie behind as tail says.
func shared(seed uint64, needed []string, where string, mapped, tail int) string {
	b := make([]byte, mapped+tail)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	const table, names, base = 0x200, 0x800, 0x10000
	o := binary.LittleEndian
	clear(b[:0x1000])
	copy(b, elf.ELFMAG)
	b[elf.EI_CLASS], b[elf.EI_DATA], b[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	o.PutUint16(b[16:], uint16(elf.ET_DYN))
	o.PutUint64(b[32:], 64)
	o.PutUint16(b[54:], 56)
	o.PutUint16(b[56:], 2)
	segment := func(i int, kind elf.ProgType, off, size int) {
		p := b[64+56*i:]
		o.PutUint32(p, uint32(kind))
		o.PutUint64(p[8:], uint64(off))
		o.PutUint64(p[16:], uint64(base+off))
		o.PutUint64(p[32:], uint64(size))
	}
	at, text := table, []byte{0}
	entry := func(tag elf.DynTag, value int) {
		o.PutUint64(b[at:], uint64(tag))
		o.PutUint64(b[at+8:], uint64(value))
		at += 16
	}
	name := func(s string) int {
		n := len(text)
		text = append(append(text, s...), 0)
		return n
	}
	for _, n := range needed {
		entry(elf.DT_NEEDED, name(n))
	}
	if where != "" {
		entry(elf.DT_RUNPATH, name(where))
	}
	entry(elf.DT_STRTAB, base+names)
	entry(elf.DT_STRSZ, len(text))
	entry(elf.DT_NULL, 0)
	segment(0, elf.PT_LOAD, 0, mapped)
	segment(1, elf.PT_DYNAMIC, table, at-table)
	copy(b[names:], text)
	return string(b)
}

// came tells how many bytes of a file came ahead.
func (m *memory) came(file string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at := 0; at < len(file); at += testChunk {
		chunk := file[at:min(at+testChunk, len(file))]
		if slices.Contains(m.ahead, digest.Of([]byte(chunk))) {
			n += len(chunk)
		}
	}
	return n
}

// What a program maps and needs comes while its head is looked at: libraries of any
// depth, found as a linker finds them. What is never mapped doesn't.
func TestProgramsHaveTheirLibraries(t *testing.T) {
	const tail = 3 << 20
	beside := shared(1, nil, "", 1<<20, tail)
	origin := shared(2, []string{"libbeside.so", "libc.so.6"}, "/nowhere:$ORIGIN/deep", 1<<20+5, tail)
	deep := shared(3, nil, "", 900_000, tail)
	unused := shared(4, nil, "", 1<<20, tail)
	app := shared(5, []string{"liborigin.so.1"}, "", 50_000, 0)
	d := dir{
		"bin": dir{"app": app},
		"lib": dir{
			"liborigin.so.1": link("liborigin.so.1.2.3"), "liborigin.so.1.2.3": origin, "libunused.so": unused,
			"libbeside.so": beside, "deep": dir{"libbeside.so": link("../deep/../deep/libdeep.so"), "libdeep.so": deep},
		},
	}
	m := newMemory()
	f, mnt := m.mount(t, d, nil)
	read := func() {
		m.change(func() { m.ahead = nil })
		m.lose(nil)
		file, err := os.Open(filepath.Join(mnt, "bin/app"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Read(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	f.SetGuess(false)
	read()
	f.SetGuess(true)
	if n := m.came(origin); n > 0 {
		t.Errorf("%d bytes of a library came where nothing is guessed", n)
	}
	read()
	eventually(t, "the libraries come", func() bool {
		return m.came(origin) >= 900_000 && m.came(deep) >= 700_000 // their heads may have been asked for
	})
	for name, file := range map[string]string{"deep": deep, "origin": origin} {
		if n := m.came(file); n > 1<<20+2*testChunk {
			t.Errorf("%d bytes of %s came, beyond what it maps", n, name)
		}
	}
	if n := m.came(unused) + m.came(beside); n > 0 {
		t.Errorf("%d bytes of other libraries came", n)
	}
}

// After a program has begun, its modules come from all directories with the first,
// and files of another kind don't.
func TestAProgramHasItsModules(t *testing.T) {
	m := newMemory()
	d, all := library(m, 40, 4_000)
	for i := range 10 {
		sub := dir{}
		for j := range 20 {
			sub[fmt.Sprintf("m%d.pyc", j)] = strings.Repeat(fmt.Sprint("x", i, j), 1000)
		}
		d[fmt.Sprintf("package%d", i)] = dir{"cache": sub}
	}
	d["app"] = shared(1, nil, "", 40_000, 0)
	_, mnt := m.mount(t, d, nil)
	m.lose(nil)
	for _, path := range []string{"app", "package3/cache/m7.pyc"} {
		if _, err := os.ReadFile(filepath.Join(mnt, path)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all modules come", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.ahead) >= len(all)+200-1
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.ahead); n > len(all)+200 {
		t.Errorf("%d files came, of %d modules", n, len(all)+200)
	}
}

// Whatever is read, what comes and is not read is bounded by what is: here one file out
// of each of very many directories.
func TestGuessesAreBounded(t *testing.T) {
	for name, started := range map[string]int64{"": 0, "after a program began": startCredit} {
		t.Run(name, func(t *testing.T) {
			const size = 20_000
			m := newMemory()
			d := dir{"app": shared(1, nil, "", 40_000, 0)}
			for i := range 200 {
				sub := dir{}
				for j := range 10 {
					sub[fmt.Sprintf("f%d.dat", j)] = strings.Repeat(fmt.Sprintf("%03d of %03d..", j, i), size/12+1)[:size]
				}
				d[fmt.Sprintf("d%03d", i)] = sub
			}
			_, mnt := m.mount(t, d, nil)
			read := int64(0)
			_, came, unread := m.fetched(t, mnt, func() (paths []string) {
				if started > 0 {
					m.lose(nil, d["app"].(string))
					paths = append(paths, "app")
					read += 40_000
				}
				for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(200)[:60] {
					paths = append(paths, fmt.Sprintf("d%03d/f%d.dat", i, i%10))
					read += size
				}
				return paths
			})
			t.Logf("%d bytes came, %d unread, %d read", came, unread, read)
			if most := creditTimes*read + max(quietCredit, started); unread > most {
				t.Errorf("%d bytes came that nobody read, more than %d", unread, most)
			}
		})
	}
}

// Guesses that were of no use are made less and less, and those that were as before.
func TestGuessesLearn(t *testing.T) {
	g := &guesses{}
	defer g.end()
	spell := func(used bool) int64 {
		g.program()
		n := g.remains()
		for id := uint64(2); g.remains() > 0; id++ {
			if !g.take(t.Context(), id, min(1<<20, g.remains()), 0, guess{}) {
				t.Fatal("no credit is left")
			}
		}
		if used {
			g.hit(2, 1<<20)
			g.hit(3, 1<<20)
			g.hit(4, 1<<20)
		}
		g.mu.Lock()
		g.left = 0
		g.mu.Unlock()
		g.rested()
		return n
	}
	want := int64(startCredit)
	for range 10 {
		if n := spell(false); n != want {
			t.Errorf("%d bytes may come, want %d", n, want)
		}
		want = max(want/2, leastCredit)
	}
	for range 10 {
		if n := spell(true); n != want {
			t.Errorf("%d bytes may come, want %d", n, want)
		}
		want = min(2*want, startCredit)
	}
}

// Who waits for credit is let go on by what is read, and let off where the mount
// ends.
func TestGuessesWait(t *testing.T) {
	g := &guesses{}
	defer g.end()
	if !g.take(t.Context(), 2, quietCredit, 0, guess{}) {
		t.Fatal("no credit at first")
	}
	took := make(chan bool, 1)
	go func() { took <- g.take(t.Context(), 3, 1000, 500, guess{}) }()
	select {
	case <-took:
		t.Error("more came than there was credit for")
	case <-time.After(50 * time.Millisecond):
	}
	g.hit(2, 1000)
	if !<-took {
		t.Error("nothing came although what came was read")
	}
}

// However many directories are read in, no more than some guesses wait for credit at a
// time.
func TestGuessesDoNotPileUp(t *testing.T) {
	m := newMemory()
	d := dir{}
	for i := range 600 {
		sub := dir{}
		for j := range 10 {
			sub[fmt.Sprintf("f%d.dat", j)] = strings.Repeat(fmt.Sprintf("%03d of %03d..", j, i), 2000)
		}
		d[fmt.Sprintf("d%03d", i)] = sub
	}
	_, mnt := m.mount(t, d, nil)
	before, most := runtime.NumGoroutine(), 0
	m.fetched(t, mnt, func() (paths []string) {
		m.change(func() { m.slow = 0 })
		for i := range 600 {
			if _, err := os.ReadFile(filepath.Join(mnt, fmt.Sprintf("d%03d/f%d.dat", i, i%10))); err != nil {
				t.Fatal(err)
			}
			most = max(most, runtime.NumGoroutine()-before)
		}
		return nil
	})
	t.Logf("%d goroutines at most", most)
	if most > mostCrowding+40 {
		t.Errorf("%d goroutines at a time", most)
	}
}

// narrow is an ELF file of 32 bits, the highest byte first, that needs a library.
func narrow() []byte {
	const table, names, base = 0x100, 0x200, 0x10000
	b, o := make([]byte, 0x300), binary.BigEndian
	copy(b, elf.ELFMAG)
	b[elf.EI_CLASS], b[elf.EI_DATA] = byte(elf.ELFCLASS32), byte(elf.ELFDATA2MSB)
	o.PutUint32(b[28:], 52)
	o.PutUint16(b[42:], 32)
	o.PutUint16(b[44:], 2)
	for i, v := range []uint32{uint32(elf.PT_LOAD), 0, base, 0, uint32(len(b)), 0, 0, 0, uint32(elf.PT_DYNAMIC), table, base + table, 0, 40} {
		o.PutUint32(b[52+4*i:], v)
	}
	for i, v := range []uint32{uint32(elf.DT_NEEDED), 1, uint32(elf.DT_RPATH), 9, uint32(elf.DT_STRTAB), base + names, uint32(elf.DT_STRSZ), 32, 0, 0} {
		o.PutUint32(b[table+4*i:], v)
	}
	copy(b[names:], "\x00libm.so\x00/lib:/usr\x00")
	return b
}

// Whatever a file says of itself, to look at it takes little and ends.
func FuzzELF(f *testing.F) {
	f.Add(narrow())
	f.Add([]byte(shared(1, []string{"liba.so", "libb.so"}, "/x:$ORIGIN/y", 0x1000, 0)))
	lots := []byte(shared(1, slices.Repeat([]string{"liba.so"}, 90), strings.Repeat("$ORIGIN:", 100), 0x1000, 0))
	f.Add(lots)
	p := &programs{fs: &FS{cfg: Config{Path: "/mnt"}}}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := readELF(bytes.NewReader(b))
		if err != nil {
			return
		}
		names, where, err := e.needs(bytes.NewReader(b), mostLibraries)
		if err != nil {
			return
		}
		if len(names) > mostLibraries || len(where) > maxWhere {
			t.Errorf("%d names, of %d bytes where", len(names), len(where))
		}
		for _, n := range names {
			if len(n) > object.MaxName || strings.Contains(n, "\x00") {
				t.Errorf("name %q", n)
			}
		}
		if dirs := p.directories("bin", where); len(dirs) > maxPlaces+3 {
			t.Errorf("%d directories", len(dirs))
		}
	})
}

// Programs of other machines are understood, too.
func TestNarrowPrograms(t *testing.T) {
	e, err := readELF(bytes.NewReader(narrow()))
	if err != nil {
		t.Fatal(err)
	}
	names, where, err := e.needs(bytes.NewReader(narrow()), mostLibraries)
	if err != nil || len(names) != 1 || names[0] != "libm.so" || where != "/lib:/usr" {
		t.Errorf("needs %q in %q: %v", names, where, err)
	}
}

// Nor does it take many requests where files are tiny, whether in many directories or in
// one that has very many.
func TestGuessesOfTinyFilesAreBounded(t *testing.T) {
	many := dir{}
	for i := range 100 {
		sub := dir{}
		for j := range 100 {
			sub[fmt.Sprintf("f%d.json", j)] = fmt.Sprintf("%d of %d", j, i)
		}
		many[fmt.Sprintf("d%02d", i)] = sub
	}
	one := dir{}
	for i := range 10_000 {
		one[fmt.Sprintf("f%d.json", i)] = fmt.Sprint("number ", i)
	}
	for name, d := range map[string]dir{"many directories": many, "one directory": {"d": one}} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			_, mnt := m.mount(t, d, nil)
			const read = 30
			waited, _, _ := m.fetched(t, mnt, func() (paths []string) {
				for i := range read {
					if name == "one directory" {
						paths = append(paths, fmt.Sprintf("d/f%d.json", i*331))
					} else {
						paths = append(paths, fmt.Sprintf("d%02d/f%d.json", i, i))
					}
				}
				return paths
			})
			m.mu.Lock()
			defer m.mu.Unlock()
			most := quietCredit/leastGuess + (1+creditTimes)*read
			t.Logf("%d files came, %d of %d were waited for; %d may come", len(m.ahead), waited, read, most)
			if len(m.ahead) > most {
				t.Errorf("%d files came, more than %d", len(m.ahead), most)
			}
		})
	}
}

// reloaded is a source whose chain is replaced while blobs are brought: what had not begun
// by then begins anew.
type reloaded struct{ *memory }

func (r *reloaded) Bring(ctx context.Context, p tier.Priority, refs iter.Seq[tier.Ref], each func(tier.Ref, error)) error {
	n := int64(0)
	for ref := range refs {
		if n += ref.Max(); n >= mostFlying {
			break // nobody is told of these
		}
	}
	return r.memory.Bring(ctx, p, refs, each)
}

// A guess that a reload of the config comes upon goes on.
func TestGuessesOutlastReloads(t *testing.T) {
	m := newMemory()
	g := &guesses{}
	defer g.end()
	g.begin()
	g.left = 64 << 20
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := &shown{blobs: &reloaded{m}, over: ctx}
	all := g.bring(s, 0, nil, func(yield func(wanted) bool) {
		for id := range uint64(8) {
			ref := tier.Ref{Domain: "d", Digest: digest.Of([]byte{byte(id)}), Limit: 1 << 20}
			m.change(func() { m.far[ref.Digest] = true })
			if !yield(wanted{id: id, ref: ref, part: true}) {
				return
			}
		}
	})
	if !all {
		t.Error("not all came")
	}
}

// Who reads all that comes never runs out of room for more.
func TestGuessesThatAreReadMakeRoom(t *testing.T) {
	g := &guesses{}
	defer g.end()
	for id := range uint64(3 * maxBrought) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if !g.take(ctx, id, leastGuess, 0, guess{}) {
			t.Fatalf("no room for file %d", id)
		}
		g.hit(id, leastGuess)
	}
}

// Of a herd that comes first of which all directories may be begun with, then what nothing
// will tell of, libraries, and what is behind entries.
func TestHerdsComeInOrder(t *testing.T) {
	var files []found
	var dirs []int
	of := func(name string, size int64, library bool) {
		ref := tier.Ref{Digest: digest.Of(fmt.Append(nil, name, len(files))), Limit: size}
		files = append(files, found{wanted{id: uint64(len(files)), ref: ref}, hashName([]byte(name)), library})
	}
	dirs = append(dirs, 0)
	of("large.pyc", 9_000, false)     // 0
	of("small.pyc", 8_000, false)     // 1
	of("large.so", 60_000, true)      // 2
	of("small.so", 10_000, true)      // 3
	for i := range int64(entryDirs) { // 4, 6, ... are entries
		dirs = append(dirs, len(files))
		of("init.pyc", 20_000-i, false)
		of(fmt.Sprintf("own%d.pyc", i), 100+i, false)
	}
	var ids []uint64
	for _, w := range inOrder(files, dirs) {
		if ids = append(ids, w.id); w.entry != (w.id >= 4 && w.id%2 == 0) {
			t.Errorf("file %d is an entry: %v", w.id, w.entry)
		}
	}
	if want := []uint64{18, 16, 14, 12, 10, 8, 6, 4, 1, 0, 3, 2, 5, 7, 9, 11, 13, 15, 17, 19}; !slices.Equal(ids, want) {
		t.Errorf("they come in order %v, want %v", ids, want)
	}
}

// What is in a directory comes when its entry is read, though that was here.
func TestAnEntryHasItsDirectoryCome(t *testing.T) {
	m := newMemory()
	d := dir{}
	for i := range entryDirs {
		sub := dir{"init.pyc": strings.Repeat(fmt.Sprint("entry", i), 100)}
		for j := range 3 {
			sub[fmt.Sprintf("own%d%d.pyc", i, j)] = strings.Repeat(fmt.Sprint("x", i, j), 1000)
		}
		d[fmt.Sprintf("package%d", i)] = sub
	}
	f, mnt := m.mount(t, d, nil)
	m.lose(nil)
	entry := filepath.Join(mnt, "package3/init.pyc")
	at, err := os.Stat(entry)
	if err != nil {
		t.Fatal(err)
	}
	id := at.Sys().(*syscall.Stat_t).Ino
	f.guesses.mu.Lock()
	f.guesses.begin()
	f.guesses.watch(id, at.Size(), guess{entry: true})
	f.guesses.mu.Unlock()
	if _, err := os.ReadFile(entry); err != nil {
		t.Fatal(err)
	}
	own := d["package3"].(dir)
	eventually(t, "what is in its directory comes", func() bool {
		return m.came(own["own30.pyc"].(string)) > 0 && m.came(own["own31.pyc"].(string)) > 0 && m.came(own["own32.pyc"].(string)) > 0
	})
	if m.came(d["package4"].(dir)["own40.pyc"].(string)) > 0 {
		t.Error("what is in another directory came, too")
	}
}
