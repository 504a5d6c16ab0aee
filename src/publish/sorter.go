package publish

import (
	"bufio"
	"bytes"
	"container/heap"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/aysfs/aysfs/src/digest"
)

// A sorter keeps runBytes of digests in memory, and merges its files when it has
// maxRuns of them.
const (
	runBytes = 16 << 20
	maxRuns  = 64
)

// sorter sorts any number of digests in bounded memory, by way of sorted files.
// What is added more than once comes out once.
type sorter struct {
	dir  string // for the files, which have no names
	mem  []digest.Digest
	max  int // digests in mem
	runs []*os.File
}

func newSorter(dir string) *sorter { return &sorter{dir: dir, max: runBytes / digest.Size} }

func (s *sorter) add(d digest.Digest) error {
	s.mem = append(s.mem, d)
	if len(s.mem) < s.max {
		return nil
	}
	s.sortMem()
	// Many may have been the same: then there is room again.
	if len(s.mem) < s.max/2 {
		return nil
	}
	if err := s.spill(s.memory()); err != nil {
		return err
	}
	s.mem = s.mem[:0]
	if len(s.runs) < maxRuns {
		return nil
	}
	old := s.runs
	s.runs = nil
	err := s.spill(merge(old))
	for _, f := range old {
		f.Close()
	}
	return err
}

func compareDigests(a, b digest.Digest) int { return bytes.Compare(a[:], b[:]) }

func (s *sorter) sortMem() {
	slices.SortFunc(s.mem, compareDigests)
	s.mem = slices.Compact(s.mem)
}

// spill writes digests that come sorted to a file of their own.
func (s *sorter) spill(from *sorted) error {
	f, err := os.CreateTemp(s.dir, "run-")
	if err != nil {
		return fmt.Errorf("sort digests: %w", err)
	}
	os.Remove(f.Name()) // lives as long as it is open
	w := bufio.NewWriterSize(f, 1<<20)
	for {
		d, ok, err := from.next()
		if err != nil {
			f.Close()
			return err
		}
		if !ok {
			break
		}
		if _, err := w.Write(d[:]); err != nil {
			f.Close()
			return fmt.Errorf("sort digests: %w", err)
		}
	}
	if err := w.Flush(); err != nil {
		f.Close()
		return fmt.Errorf("sort digests: %w", err)
	}
	s.runs = append(s.runs, f)
	return nil
}

// sorted returns all digests in order. Nothing may be added any more.
func (s *sorter) sorted() *sorted {
	s.sortMem()
	all := merge(s.runs)
	all.push(s.memory().sources[0])
	return all
}

// memory is what is in memory, which must be sorted.
func (s *sorter) memory() *sorted {
	rest := s.mem
	m := &sorted{}
	m.push(&source{read: func() (d digest.Digest, err error) {
		if len(rest) == 0 {
			return d, io.EOF
		}
		d, rest = rest[0], rest[1:]
		return d, nil
	}})
	return m
}

func (s *sorter) close() {
	for _, f := range s.runs {
		f.Close()
	}
	s.runs, s.mem = nil, nil
}

// merge reads sorted files side by side.
func merge(files []*os.File) *sorted {
	m := &sorted{}
	for _, f := range files {
		r := bufio.NewReaderSize(io.NewSectionReader(f, 0, 1<<62), 64<<10)
		m.push(&source{read: func() (d digest.Digest, err error) {
			_, err = io.ReadFull(r, d[:])
			return d, err
		}})
	}
	return m
}

// source is one of the files, or what is in memory.
type source struct {
	read func() (digest.Digest, error) // io.EOF behind the last
	head digest.Digest
}

// sorted gives digests in order, each once.
type sorted struct {
	sources sourceHeap
	started bool
	last    digest.Digest
	err     error
}

func (m *sorted) push(s *source) {
	m.sources = append(m.sources, s)
}

// start gets the first digest of every source.
func (m *sorted) start() {
	all := m.sources
	m.sources = nil
	for _, s := range all {
		if m.advance(s) {
			m.sources = append(m.sources, s)
		}
	}
	heap.Init(&m.sources)
	m.started = true
}

// advance gets a source's next digest, and tells whether there is one.
func (m *sorted) advance(s *source) bool {
	var err error
	if s.head, err = s.read(); err == nil {
		return true
	}
	if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		m.err = fmt.Errorf("sort digests: %w", err)
	}
	return false
}

// next returns the next digest; ok is false behind the last.
func (m *sorted) next() (d digest.Digest, ok bool, err error) {
	first := !m.started
	if first {
		m.start()
	}
	for m.err == nil && len(m.sources) > 0 {
		d := m.sources[0].head
		if m.advance(m.sources[0]) {
			heap.Fix(&m.sources, 0)
		} else {
			heap.Pop(&m.sources)
		}
		if !first && d == m.last {
			continue
		}
		m.last = d
		return d, true, nil
	}
	return d, false, m.err
}

type sourceHeap []*source

func (h sourceHeap) Len() int           { return len(h) }
func (h sourceHeap) Less(i, j int) bool { return compareDigests(h[i].head, h[j].head) < 0 }
func (h sourceHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *sourceHeap) Push(x any)        { *h = append(*h, x.(*source)) }
func (h *sourceHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
