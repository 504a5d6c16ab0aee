package object_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/aysfs/aysfs/src/object"
)

func TestChunkList(t *testing.T) {
	c := someChunkList()
	raw := object.EncodeChunkList(c)
	golden(t, "chunklist", raw)
	got, err := object.ParseChunkList(raw, c.Size)
	must(t, err)
	if got.Size != c.Size || got.SHA256 != c.SHA256 {
		t.Errorf("got %+v", got)
	}
	equal(t, got.Chunks, c.Chunks)
	for _, at := range []struct {
		off, start int64
		chunk      int
	}{
		{0, 0, 0},
		{object.MaxBlob - 1, 0, 0},
		{object.MaxBlob, object.MaxBlob, 1},
		{c.Size - 2, object.MaxBlob, 1},
		{c.Size - 1, c.Size - 1, 2},
	} {
		if i, start := got.At(at.off); i != at.chunk || start != at.start {
			t.Errorf("At(%d) gave %d, %d, want %d, %d", at.off, i, start, at.chunk, at.start)
		}
	}
}

func TestParseChunkListRefuses(t *testing.T) {
	encode := func(change func(*object.ChunkList)) []byte {
		c := someChunkList()
		change(c)
		return object.EncodeChunkList(c)
	}
	size := someChunkList().Size
	raw := encode(func(*object.ChunkList) {})
	for what, b := range map[string][]byte{
		"length of key":  {0x83, 0xdb, 0xff, 0xff, 0xff, 0xff, 's', 'i', 'z', 'e'},
		"nothing":        nil,
		"bytes behind":   append(bytes.Clone(raw), 0),
		"other size":     encode(func(c *object.ChunkList) { c.Size++ }),
		"not enough":     encode(func(c *object.ChunkList) { c.Chunks = c.Chunks[1:] }),
		"empty chunk":    encode(func(c *object.ChunkList) { c.Chunks[1].Size = 0; c.Chunks[2].Size = 70_000 }),
		"negative chunk": encode(func(c *object.ChunkList) { c.Chunks[1].Size = -1; c.Chunks[2].Size = 70_001 }),
		"large chunk":    encode(func(c *object.ChunkList) { c.Chunks[0].Size++; c.Chunks[1].Size-- }),
		"other key":      bytes.Replace(raw, []byte("sha256"), []byte("sha257"), 1),
		"false count":    append(raw[:bytes.Index(raw, []byte("chunks"))+6:bytes.Index(raw, []byte("chunks"))+6], 0xdd, 0xff, 0xff, 0xff, 0xff),
	} {
		if _, err := object.ParseChunkList(b, size); !errors.Is(err, object.ErrFormat) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	if _, err := object.ParseChunkList(raw, size-1); !errors.Is(err, object.ErrFormat) {
		t.Errorf("a list for another size: error %v", err)
	}
	for n := range raw {
		if _, err := object.ParseChunkList(raw[:n], size); err == nil {
			t.Errorf("took the first %d bytes of %d", n, len(raw))
		}
	}
}

// The longest list that a file can have must fit into what readers accept.
func TestMaxChunkList(t *testing.T) {
	for _, size := range []int64{object.MaxBlob + 1, 64<<20 + 1} {
		c := &object.ChunkList{Size: size}
		for left := size; left > 0; left -= object.MinChunk {
			c.Chunks = append(c.Chunks, object.Chunk{Size: min(left, object.MinChunk), Digest: sum("chunk")})
		}
		raw := object.EncodeChunkList(c)
		if most := object.MaxChunkList(size); int64(len(raw)) > most {
			t.Errorf("a file of %d bytes has a list of %d, the limit is %d", size, len(raw), most)
		}
		_, err := object.ParseChunkList(raw, size)
		must(t, err)
	}
}

func FuzzParseChunkList(f *testing.F) {
	c := someChunkList()
	f.Add(object.EncodeChunkList(c), c.Size)
	f.Fuzz(func(t *testing.T, raw []byte, size int64) {
		c, err := object.ParseChunkList(raw, size)
		if err != nil {
			if !errors.Is(err, object.ErrFormat) {
				t.Fatalf("error %v is not ErrFormat", err)
			}
			return
		}
		var off int64
		for i, chunk := range c.Chunks {
			for _, at := range []int64{off, off + chunk.Size - 1} {
				if got, start := c.At(at); got != i || start != off {
					t.Fatalf("At(%d) gave %d, %d, want %d, %d", at, got, start, i, off)
				}
			}
			off += chunk.Size
		}
		if off != size {
			t.Fatalf("chunks add up to %d of %d", off, size)
		}
		back, err := object.ParseChunkList(object.EncodeChunkList(c), size)
		must(t, err)
		equal(t, back, c)
	})
}
