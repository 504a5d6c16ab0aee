package store_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"testing"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tier/tiertest"
)

// BenchmarkBring is what a blob of 4 KiB costs between the wire and who wants it, where
// nobody waits for it. The server is in it, but allocates nothing.
func BenchmarkBring(b *testing.B) {
	codec, err := object.NewCodec(2)
	if err != nil {
		b.Fatal(err)
	}
	answers := make(map[digest.Digest][]byte)
	var refs []tier.Ref
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var text []byte
		for len(text) < 4096 {
			text = fmt.Appendf(text, "	if x%d := f(%x); x%d != nil {\n", random.IntN(20), random.Uint32(), random.IntN(20))
		}
		ref := tiertest.RefOf(text[:4096])
		stored := codec.Pack(text[:4096], nil)
		refs = append(refs, ref)
		answers[ref.Digest] = append(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: application/octet-stream\r\n\r\n", len(stored)), stored...)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answerAll(conn, answers)
		}
	}()
	src, err := store.New(store.Config{URL: mustURL(b, "http://"+l.Addr().String()), Pipeline: true})
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	chain := tier.NewChain(tier.ChainConfig{Groups: []tier.Group{groupOf(src)}, Codec: codec})
	defer chain.Close()
	b.SetBytes(4096)
	b.ReportAllocs()
	b.ResetTimer()
	for n := b.N; n > 0; n -= len(refs) {
		err := chain.Bring(b.Context(), tier.Profile, slices.Values(refs[:min(n, len(refs))]), func(ref tier.Ref, err error) {
			if err != nil {
				b.Error(err)
			}
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// answerAll answers the requests of one connection.
func answerAll(conn net.Conn, answers map[digest.Digest][]byte) {
	defer conn.Close()
	in, out := bufio.NewReaderSize(conn, 64<<10), bufio.NewWriterSize(conn, 64<<10)
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		if path, ok := bytes.CutPrefix(line, []byte("GET /default/")); ok {
			var d digest.Digest
			if _, err := hex.Decode(d[:], path[:2*digest.Size]); err != nil {
				return
			}
			_, _ = out.Write(answers[d])
		}
		if in.Buffered() == 0 {
			if out.Flush() != nil {
				return
			}
		}
	}
}
