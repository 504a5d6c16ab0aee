package powercut

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

const (
	blockSize  = 4096
	sectorSize = 512
)

// An Image is what a disk has on it. It does not change.
type Image struct {
	size   int64
	blocks map[int64][]byte // by their number; others are zeros
}

// Format makes the image of an empty ext4 of size bytes, with a journal of 4 MiB.
// dir is for a temporary file.
func Format(ctx context.Context, dir string, size int64) (*Image, error) {
	f, err := os.Create(filepath.Join(dir, "ext4"))
	if err != nil {
		return nil, fmt.Errorf("make an ext4: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return nil, fmt.Errorf("make an ext4: %w", err)
	}
	// Nothing is left to be done behind the mount.
	cmd := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-J", "size=4", "-N", "8192", "-m", "0",
		"-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", f.Name())
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if cmd.Err != nil { // looked for without that
		cmd.Path, cmd.Err = "/usr/sbin/mke2fs", nil
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make an ext4: %w\n%s", err, out)
	}
	m := &Image{size: size, blocks: map[int64][]byte{}}
	zeros := make([]byte, blockSize)
	for n := range size / blockSize {
		b := make([]byte, blockSize)
		if _, err := f.ReadAt(b, n*blockSize); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("make an ext4: %w", err)
		}
		if !bytes.Equal(b, zeros) {
			m.blocks[n] = b
		}
	}
	return m, nil
}

func (m *Image) clone() *Image { return &Image{m.size, maps.Clone(m.blocks)} }

// write changes a clone: blocks are shared, so they are replaced.
func (m *Image) write(off int64, data []byte) {
	for len(data) > 0 {
		n, in := off/blockSize, off%blockSize
		l := min(int64(len(data)), blockSize-in)
		b := data[:l:l]
		if l < blockSize {
			b = make([]byte, blockSize)
			copy(b, m.blocks[n])
			copy(b[in:], data[:l])
		}
		m.blocks[n] = b
		off, data = off+l, data[l:]
	}
}

func (m *Image) read(off int64, to []byte) (n int) {
	for len(to) > 0 && off < m.size {
		in := off % blockSize
		part := to[:min(int64(len(to)), blockSize-in)]
		if b := m.blocks[off/blockSize]; b != nil {
			copy(part, b[in:])
		} else {
			clear(part)
		}
		off, to, n = off+int64(len(part)), to[len(part):], n+len(part)
	}
	return n
}

// change is a write that no flush has followed yet.
type change struct {
	off  int64
	data []byte // never changed
}

// A Moment is what surely is on a disk, and what may be.
type Moment struct {
	stable *Image
	loose  []change // in the order in which they were made
}

// Loose is the number of writes that a cut may lose.
func (m *Moment) Loose() int { return len(m.loose) }

// Cut is what is left when the power goes at that moment.
func (m *Moment) Cut(r *rand.Rand) *Image {
	left := m.stable.clone()
	kept := len(m.loose)
	if r.IntN(2) == 0 {
		kept = r.IntN(kept + 1)
	}
	whole, sector := 1.0, 1.0 // chances of a write, and of a sector of one that is torn
	switch r.IntN(5) {
	case 0:
		kept = 0
	case 1, 2:
		whole = r.Float64()
		sector = r.Float64()
	case 3:
		whole, sector = 0, r.Float64()
	}
	for i, c := range m.loose[:kept] {
		last := i == kept-1 && kept < len(m.loose)
		if !last && r.Float64() < whole {
			left.write(c.off, c.data)
			continue
		}
		p := sector
		if last {
			p = 0.5
		}
		if c.off < blockSize {
			if r.Float64() < p {
				left.write(c.off, c.data)
			}
			continue
		}
		for at := 0; at < len(c.data); at += sectorSize {
			if r.Float64() < p {
				left.write(c.off+int64(at), c.data[at:min(at+sectorSize, len(c.data))])
			}
		}
	}
	return left
}

// All is what there would be if the power stayed.
func (m *Moment) All() *Image {
	all := m.stable.clone()
	for _, c := range m.loose {
		all.write(c.off, c.data)
	}
	return all
}

func (m *Moment) clone() *Moment { return &Moment{m.stable.clone(), slices.Clone(m.loose)} }
