package server

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// flow passes a blob on to one client while it arrives from a store. What was
// sent is nothing but a beginning: the end is sent by finish, when the blob was
// verified, or never.
type flow struct {
	call   *call
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	stopped bool          // GUARDED_BY(mu); nothing may begin any more
	done    chan struct{} // GUARDED_BY(mu); closed when copying has ended; nil: it never began

	// Of whoever copies, and for others once that has ended.
	sent   []byte // the blob's beginning, as far as it was sent
	size   int    // of the stored form; 0: no answer was begun
	zstd   bool   // it was said to be compressed
	public bool   // everybody may keep it, it was said
}

// heldBack is how many bytes of a blob are not sent before it is verified.
const heldBack = 4 << 10

// flow returns what passes on the blob that the call is for; nil if that must
// wait for the whole of it.
func (c *call) flow() *flow {
	if c.r.Method != http.MethodGet || c.r.Header.Get("Range") != "" || c.r.Header.Get("If-None-Match") != "" {
		return nil
	}
	f := &flow{call: c}
	f.ctx, f.cancel = context.WithCancel(c.r.Context())
	return f
}

// from returns what is to be called when the blob begins to arrive from a store;
// nil if f is. The store that is first is followed. Should another one have the
// whole of the blob before, that is the same blob.
func (f *flow) from(st *stor) func(*tier.Arrival) {
	if f == nil {
		return nil
	}
	return func(a *tier.Arrival) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.stopped || f.done != nil {
			return
		}
		done := make(chan struct{})
		f.done = done
		// The one who calls waits for the blob, however slowly it is read here.
		go func() {
			defer close(done)
			f.copy(a, !st.private.Load())
		}()
	}
}

// copy sends what arrives, but for the end of it.
func (f *flow) copy(a *tier.Arrival, public bool) {
	data, size, ok := a.Next(f.ctx, 0)
	if !ok || int64(len(data)) == size {
		return // all at once is as quick
	}
	packed, sure := formOf(data, size)
	header := f.call.r.Header
	if !sure || packed && (f.call.w.server.mistakes.has(f.call.digest) || !accepts(header, "Accept-Encoding", "zstd")) {
		return
	}
	f.begin(int(size), packed, public)
	control := http.NewResponseController(f.call.w)
	for {
		for len(f.sent) < min(len(data), f.size-heldBack) {
			end := min(len(f.sent)+piece, len(data), f.size-heldBack)
			if f.ctx.Err() != nil {
				return
			}
			if _, err := f.call.w.Write(data[len(f.sent):end]); err != nil || control.Flush() != nil {
				return // finish finds out as well
			}
			f.sent = data[:end]
		}
		if len(f.sent) >= f.size-heldBack {
			return
		}
		if data, size, ok = a.Next(f.ctx, len(f.sent)); !ok || int(size) != f.size {
			return
		}
		if !startsWith(data, f.sent) {
			return // it was begun again, with other bytes: one of the two is wrong
		}
	}
}

// startsWith tells whether data begins with those bytes. Nearly always both are
// of the same memory.
func startsWith(data, with []byte) bool {
	return len(with) == 0 || len(data) >= len(with) && (&data[0] == &with[0] || bytes.Equal(data[:len(with)], with))
}

// begin sends the header.
func (f *flow) begin(size int, packed, public bool) {
	f.size, f.zstd, f.public = size, packed, public
	h := f.call.w.Header()
	blobHeader(h, public)
	if packed {
		h["Content-Encoding"] = zstdEncoding
	}
	h["Etag"], h["Accept-Ranges"] = []string{blobTag(f.call.digest)}, bytesUnit
	h["Content-Length"] = []string{strconv.Itoa(size)}
	f.call.w.WriteHeader(http.StatusOK)
}

// formOf tells by the beginning of a stored form of size bytes whether it is
// compressed. It is not sure where only the whole could tell.
func formOf(beginning []byte, size int64) (packed, sure bool) {
	if !object.Compressed(beginning) {
		return false, true
	}
	var z zstd.Header
	if err := z.Decode(beginning); err != nil || !z.HasFCS || z.FrameContentSize > object.MaxBlob || z.HasCheckSum {
		return false, false // not as stores have blobs: content that is of zstd itself, most likely
	}
	return z.FrameContentSize > uint64(size), true
}

// stop ends the copying, and tells whether an answer was begun: then finish has
// to end it.
func (f *flow) stop() (begun bool) {
	if f == nil {
		return false
	}
	f.cancel()
	f.mu.Lock()
	f.stopped = true
	done := f.done
	f.mu.Unlock()
	if done == nil {
		return false
	}
	<-done
	return f.size > 0
}

// finish sends the rest of a blob that was fetched and verified, or cuts the
// connection if that failed, or if it is not what was begun. Whoever is there for
// it must not take what came for the whole.
func (f *flow) finish(h held, err error) {
	c := f.call
	if err == nil && h.zstd != f.zstd {
		c.w.server.mistakes.add(c.digest)
	}
	if err != nil || len(h.Data) != f.size || h.zstd != f.zstd || f.public && !h.public || !startsWith(h.Data, f.sent) {
		c.w.server.log.Debug("cut an answer", "op", "get", "domain", c.domain, "digest", c.digest, "sent", len(f.sent), "err", err)
		panic(http.ErrAbortHandler)
	}
	_, _ = c.w.Write(h.Data[len(f.sent):]) // who left has no use for an error
}

// mistakes are digests of content that was taken for compressed by its beginning,
// as many as were last seen. The cache may not have room for what would tell.
type mistakes struct {
	mu    sync.Mutex
	known map[digest.Digest]bool // GUARDED_BY(mu)
	order []digest.Digest        // GUARDED_BY(mu); oldest first
}

const maxMistakes = 4096

func (m *mistakes) has(d digest.Digest) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known[d]
}

func (m *mistakes) add(d digest.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known[d] {
		return
	}
	if m.known == nil {
		m.known = make(map[digest.Digest]bool)
	}
	if len(m.order) == maxMistakes {
		delete(m.known, m.order[0])
		m.order = m.order[1:]
	}
	m.known[d] = true
	m.order = append(m.order, d)
}
