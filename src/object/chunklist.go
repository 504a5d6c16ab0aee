package object

import (
	"github.com/tinylib/msgp/msgp"

	"github.com/aysfs/aysfs/src/digest"
)

// Sizes in bytes. A file of up to MaxBlob is one blob; a larger one is cut by
// FastCDC with the three that follow.
const (
	MaxBlob   = 1 << 20
	MinChunk  = 64 << 10
	MeanChunk = 256 << 10
	MaxChunk  = MaxBlob
)

// Chunk is one piece of a file.
type Chunk struct {
	Size   int64
	Digest digest.Digest
}

// ChunkList says what a file larger than MaxBlob consists of, in order.
type ChunkList struct {
	Size   int64
	SHA256 digest.Digest // of the whole file
	Chunks []Chunk
	// ends[i] is the offset behind chunk i, for lookups by offset.
	ends []int64
}

// chunkBytes is more than a chunk can take in a chunk list.
const chunkBytes = 48

// MaxChunkList bounds the encoded chunk list of a file of size bytes: a reader
// need not accept more.
func MaxChunkList(size int64) int64 {
	return max(MaxBlob, LikelyChunkList(size))
}

// LikelyChunkList is more than the encoded chunk list of a file of size bytes has where
// no chunk but the last is smaller than MinChunk.
func LikelyChunkList(size int64) int64 { return (size/MinChunk + 2) * chunkBytes }

// EncodeChunkList encodes a file's chunks as the map {size, sha256, chunks}.
func EncodeChunkList(c *ChunkList) []byte {
	b := msgp.AppendMapHeader(make([]byte, 0, 96+len(c.Chunks)*chunkBytes), 3)
	b = msgp.AppendString(b, "size")
	b = msgp.AppendInt64(b, c.Size)
	b = msgp.AppendString(b, "sha256")
	b = msgp.AppendBytes(b, c.SHA256[:])
	b = msgp.AppendString(b, "chunks")
	b = msgp.AppendArrayHeader(b, uint32(len(c.Chunks)))
	for i := range c.Chunks {
		b = msgp.AppendArrayHeader(b, 2)
		b = msgp.AppendInt64(b, c.Chunks[i].Size)
		b = msgp.AppendBytes(b, c.Chunks[i].Digest[:])
	}
	return b
}

// ParseChunkList reads what EncodeChunkList wrote. The chunks must add up to
// the size that the listing gave the file.
func ParseChunkList(raw []byte, size int64) (*ChunkList, error) {
	c := &ChunkList{}
	n, b, err := msgp.ReadMapHeaderBytes(raw)
	if err != nil || n != 3 {
		return nil, malformed("chunk list: want a map of 3, got %d (%v)", n, err)
	}
	if b, err = expectKey(b, "size"); err != nil {
		return nil, err
	}
	if c.Size, b, err = msgp.ReadInt64Bytes(b); err != nil {
		return nil, malformed("chunk list: size: %v", err)
	}
	if c.Size != size {
		return nil, malformed("chunk list of %d bytes for a file of %d", c.Size, size)
	}
	if b, err = expectKey(b, "sha256"); err != nil {
		return nil, err
	}
	if c.SHA256, b, err = readDigest(b); err != nil {
		return nil, err
	}
	if b, err = expectKey(b, "chunks"); err != nil {
		return nil, err
	}
	count, b, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return nil, malformed("chunk list: chunks: %v", err)
	}
	if uint64(count) > uint64(len(b))/digest.Size {
		return nil, malformed("chunk list says %d chunks in %d bytes", count, len(b))
	}
	c.Chunks, c.ends = make([]Chunk, count), make([]int64, count)
	var end int64
	for i := range c.Chunks {
		pair, r, err := msgp.ReadArrayHeaderBytes(b)
		if err != nil || pair != 2 {
			return nil, malformed("chunk %d: want a pair, got %d (%v)", i, pair, err)
		}
		s, r, err := msgp.ReadInt64Bytes(r)
		if err != nil || s <= 0 || s > MaxChunk {
			return nil, malformed("chunk %d: size %d (%v)", i, s, err)
		}
		d, r, err := readDigest(r)
		if err != nil {
			return nil, err
		}
		b, end = r, end+s
		c.Chunks[i], c.ends[i] = Chunk{Size: s, Digest: d}, end
	}
	if end != size || len(b) != 0 {
		return nil, malformed("chunks add up to %d of %d bytes, %d bytes follow", end, size, len(b))
	}
	return c, nil
}

func expectKey(b []byte, key string) ([]byte, error) {
	k, b, err := readString(b)
	if err != nil || string(k) != key {
		return nil, malformed("want key %q, got %.20q (%v)", key, k, err)
	}
	return b, nil
}

func readDigest(b []byte) (digest.Digest, []byte, error) {
	raw, b, err := ReadBytes(b)
	if err != nil {
		return digest.Digest{}, nil, malformed("digest: %v", err)
	}
	d, err := digest.FromBytes(raw)
	if err != nil {
		return d, nil, malformed("%v", err)
	}
	return d, b, nil
}

// At tells which chunk holds the byte at off, and where in the file that chunk
// starts. off must be in [0, Size).
func (c *ChunkList) At(off int64) (i int, start int64) {
	lo, hi := 0, len(c.ends)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if c.ends[mid] <= off {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, c.ends[lo] - c.Chunks[lo].Size
}

// Footprint is the memory in bytes that c holds.
func (c *ChunkList) Footprint() int64 { return int64(len(c.Chunks))*(40+8) + 96 }
