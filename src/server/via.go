package server

import (
	"net/http"
	"strings"

	"github.com/aysfs/aysfs/src/tier/store"
)

// cacheHeader is in every answer: the id of the cache, which it has until it
// ends.
const cacheHeader = "Aysfs-Cache"

// maxVia bounds what a request says of its way, in bytes: some 60 caches.
const maxVia = 1 << 10

// viaOf reads which caches a request came through. loop tells whether this one
// is among them, or there are too many for it to be none.
func (s *Server) viaOf(r *http.Request) (via string, loop bool) {
	lines := r.Header.Values(store.ViaHeader)
	if len(lines) == 0 {
		return "", false
	}
	via = strings.Join(lines, ", ")
	if len(via) > maxVia {
		return "", true
	}
	for id := range strings.SplitSeq(via, ",") {
		if strings.TrimSpace(id) == s.instance {
			return via, true
		}
	}
	return via, false
}

// viaWith is the way of a request that goes on from here.
func (s *Server) viaWith(via string) string {
	if via == "" {
		return s.instance
	}
	return via + ", " + s.instance
}
