package server

import (
	"encoding/hex"
	"errors"
	"net/http"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// getBlob answers GET /<domain>/<digest>.
func (s *Server) getBlob(c *call) {
	if c.r.Method == http.MethodHead && c.fetch == fetchNever && c.hint == object.PublishedStore {
		s.headPublished(c)
		return
	}
	ctx := c.r.Context()
	h, err := s.find(ctx, c.asker, c.domain, c.digest)
	switch {
	case err == nil:
		s.hits.add(1)
		s.kept.getting.note(nil)
	case !errors.Is(err, tier.ErrAbsent):
		s.kept.getting.note(err, "domain", c.domain, "digest", c.digest)
		fallthrough
	default:
		s.misses.add(1)
		switch c.fetch {
		case fetchNever:
			c.nothing(tier.ErrAbsent)
			return
		case fetchBehind:
			c.started(s.fetchLater(c.asker, c.domain, c.digest))
			return
		}
		f := c.flow()
		defer f.stop()
		h, err = s.fetch(ctx, c.asker, c.domain, c.digest, c.fetch == fetchKeep, f)
		if f.stop() {
			defer h.Release()
			f.finish(h, err)
			return
		}
		if err != nil {
			c.nothing(err)
			return
		}
	}
	defer h.Release()
	s.sendBlob(c, h)
}

// Headers of every blob. They are shared: nobody changes them.
var (
	immutable        = []string{"public, max-age=31536000, immutable"}
	privateImmutable = []string{"private, max-age=31536000, immutable"}
	varyEncoding     = []string{"Accept-Encoding"}
	varyBoth         = []string{"Accept-Encoding, " + tokenHeader + ", Authorization"}
	octets           = []string{"application/octet-stream"}
	zstdEncoding     = []string{"zstd"}
	nosniff          = []string{"nosniff"}
)

// sendBlob sends a blob as it is kept where the asker can read that, and plain
// otherwise.
func (s *Server) sendBlob(c *call, h held) {
	header := c.w.Header()
	body := h.Data
	if h.zstd {
		if accepts(c.r.Header, "Accept-Encoding", "zstd") {
			header["Content-Encoding"] = zstdEncoding
		} else {
			plain, err := s.codec.Unpack(c.digest, h.Data, s.limit)
			if err != nil {
				c.nothing(err)
				return
			}
			body = plain
		}
	}
	blobHeader(header, h.public)
	c.send(body, blobTag(c.digest))
}

// blobHeader is what is said of a blob, whatever its form.
func blobHeader(header http.Header, public bool) {
	header["Content-Type"], header["X-Content-Type-Options"] = octets, nosniff
	header["Cache-Control"], header["Vary"] = privateImmutable, varyBoth
	if public {
		header["Cache-Control"], header["Vary"] = immutable, varyEncoding
	}
}

// blobTag is the etag of a blob, in either form: who has one of them has the
// content.
func blobTag(d digest.Digest) string {
	b := [2*digest.Size + 2]byte{0: '"', 2*digest.Size + 1: '"'}
	hex.Encode(b[1:], d[:])
	return string(b[:])
}

// listingTag is the etag of a listing: its digest, and which of its spellings.
func listingTag(l *object.Listing, asJSON bool) string {
	tag := digest.Of(l.Raw()).String()
	if asJSON {
		tag += "-json"
	}
	return `"` + tag + `"`
}
