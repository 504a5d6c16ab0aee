package profile

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/tinylib/msgp/msgp"

	"github.com/aysfs/aysfs/src/object"
)

const (
	// MaxNeeds is how many needs a profile has at the most, and MaxBytes how many
	// bytes when it is encoded.
	MaxNeeds = 1 << 14
	MaxBytes = 256 << 10

	// maxPlain bounds what the frame unpacks to, in bytes, and maxPath a path.
	maxPlain = 4 << 20
	maxPath  = 4096

	// maxTime is the end of the year 9999, beyond which JSON has no times, and
	// maxRuns how many runs are counted.
	maxTime = 253402300799
	maxRuns = 1 << 30
)

// File is what a tree's profile is called beside its head in a store.
const File = "profile"

// What a need has for its block where it is none.
const (
	Listing int32 = -2 // of a directory
	Whole   int32 = -1 // file that is one blob
)

// BlockSize is the size of a block, in bytes.
const BlockSize = object.MinChunk

// Need is one thing that programs need of a tree.
type Need struct {
	Path  string // from the tree's root, which is empty
	Block int32  // Listing, Whole, or the number of a block in a file that is cut into chunks
	// Weight is in how many of the runs it was needed, of 255; the newest ones weigh
	// most.
	Weight uint8
}

// Profile is needs in their order. It does not change.
type Profile struct {
	Time  time.Time // when its last run ended, in whole seconds
	Runs  int       // that were merged into it
	Needs []Need    // no two of the same path and block
}

// ErrFormat says that bytes are not a profile; what is wrong with them is in the
// error that wraps it.
var ErrFormat = errors.New("not a profile")

func malformed(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, a...))
}

const magic = "aysprof\x01"

// Encode writes a profile down. Needs at the end are left out where it would have
// more than MaxBytes.
func (p *Profile) Encode() ([]byte, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, fmt.Errorf("make a zstd encoder: %w", err)
	}
	defer enc.Close()
	cut := *p
	for {
		if plain := cut.appendPlain(nil); len(plain) <= maxPlain {
			b := enc.EncodeAll(plain, []byte(magic))
			if len(b) <= MaxBytes {
				return b, nil
			}
		}
		cut.Needs = cut.Needs[:len(cut.Needs)*3/4]
	}
}

func (p *Profile) appendPlain(b []byte) []byte {
	b = msgp.AppendArrayHeader(b, 3)
	b = msgp.AppendInt64(b, p.Time.Unix())
	b = msgp.AppendInt(b, p.Runs)
	runs := 0
	for i := 0; i < len(p.Needs); i += p.run(i) {
		runs++
	}
	b = msgp.AppendArrayHeader(b, uint32(runs))
	for i := 0; i < len(p.Needs); {
		n, count := &p.Needs[i], p.run(i)
		b = msgp.AppendArrayHeader(b, 4)
		b = msgp.AppendBytes(b, []byte(n.Path))
		b = msgp.AppendInt32(b, n.Block)
		b = msgp.AppendInt(b, count)
		b = msgp.AppendUint8(b, n.Weight)
		i += count
	}
	return b
}

// run is how many needs from number i on are blocks that follow each other.
func (p *Profile) run(i int) int {
	n := 1
	for first := p.Needs[i]; first.Block >= 0 && i+n < len(p.Needs); n++ {
		if next := p.Needs[i+n]; next.Path != first.Path || next.Weight != first.Weight || next.Block != first.Block+int32(n) {
			break
		}
	}
	return n
}

// Parse reads what Encode wrote. The bytes may come from anyone.
func Parse(b []byte) (*Profile, error) {
	if len(b) > MaxBytes {
		return nil, malformed("%d bytes, at most %d", len(b), MaxBytes)
	}
	packed, ok := bytes.CutPrefix(b, []byte(magic))
	if !ok {
		return nil, malformed("it does not begin as one of version 1 does")
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxPlain), zstd.WithDecoderMaxWindow(maxPlain))
	if err != nil {
		return nil, fmt.Errorf("make a zstd decoder: %w", err)
	}
	defer dec.Close()
	plain, err := dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, malformed("zstd: %v", err)
	}
	p, err := parsePlain(plain)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(p.appendPlain(make([]byte, 0, len(plain))), plain) {
		return nil, malformed("it is not in its canonical spelling")
	}
	return p, nil
}

func parsePlain(b []byte) (*Profile, error) {
	if n, rest, err := msgp.ReadArrayHeaderBytes(b); err != nil || n != 3 {
		return nil, malformed("it is no array of 3")
	} else {
		b = rest
	}
	at, b, err := msgp.ReadInt64Bytes(b)
	if err != nil {
		return nil, malformed("time: %v", err)
	}
	if at < 0 || at > maxTime {
		return nil, malformed("time: %d seconds since 1970", at)
	}
	p := &Profile{Time: time.Unix(at, 0).UTC()}
	if p.Runs, b, err = msgp.ReadIntBytes(b); err != nil {
		return nil, malformed("number of runs: %v", err)
	}
	if p.Runs < 0 || p.Runs > maxRuns {
		return nil, malformed("%d runs, at most %d", p.Runs, maxRuns)
	}
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return nil, malformed("needs: %v", err)
	}
	if n > MaxNeeds {
		return nil, malformed("%d needs, at most %d", n, MaxNeeds)
	}
	seen := make(map[key]struct{})
	for range n {
		if b, err = p.read(b, seen); err != nil {
			return nil, err
		}
	}
	if len(b) > 0 {
		return nil, malformed("%d bytes too many", len(b))
	}
	return p, nil
}

// read adds one run of needs.
func (p *Profile) read(b []byte, seen map[key]struct{}) ([]byte, error) {
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil || n != 4 {
		return nil, malformed("a need that is no array of 4")
	}
	path, b, err := object.ReadBytes(b)
	if err != nil {
		return nil, malformed("path: %v", err)
	}
	first, b, err := msgp.ReadInt32Bytes(b)
	if err != nil {
		return nil, malformed("block: %v", err)
	}
	count, b, err := msgp.ReadIntBytes(b)
	if err != nil {
		return nil, malformed("count: %v", err)
	}
	weight, b, err := msgp.ReadUint8Bytes(b)
	if err != nil {
		return nil, malformed("weight: %v", err)
	}
	need := Need{Path: string(path), Block: first, Weight: weight}
	switch {
	case !validPath(need.Path) || need.Path == "" && first != Listing:
		return nil, malformed("path %.80q", need.Path)
	case weight == 0:
		return nil, malformed("%.80q: a weight of 0", need.Path)
	case first < Listing || count < 1 || first < 0 && count != 1 || int64(first)+int64(count) > maxBlocks:
		return nil, malformed("%.80q: %d blocks from %d on", need.Path, count, first)
	case count > MaxNeeds-len(p.Needs):
		return nil, malformed("more than %d needs", MaxNeeds)
	}
	for range count {
		if _, twice := seen[keyOf(&need)]; twice {
			return nil, malformed("%.80q: block %d twice", need.Path, need.Block)
		}
		seen[keyOf(&need)] = struct{}{}
		p.Needs = append(p.Needs, need)
		need.Block++
	}
	return b, nil
}

// maxBlocks is beyond the last block that a file can have.
const maxBlocks = 1<<31 - 1

// key tells needs apart.
type key struct {
	path  string
	block int32
}

func keyOf(n *Need) key { return key{n.Path, n.Block} }

// validPath tells whether a path can be that of a tree's file or directory.
func validPath(path string) bool {
	if path == "" {
		return true
	}
	if len(path) > maxPath || strings.IndexByte(path, 0) >= 0 {
		return false
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." || name == ".." || len(name) > object.MaxName {
			return false
		}
	}
	return true
}
