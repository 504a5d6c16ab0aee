package server

import (
	"fmt"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/aysfs/aysfs/src/digest"
)

// send answers with a body that is in memory: all of it, the part that Range asks
// for, or none if the asker has it. etag may be empty.
func (c *call) send(body []byte, etag string) {
	h := c.w.Header()
	if etag != "" {
		h["Etag"] = []string{etag}
		if matches(c.r.Header.Get("If-None-Match"), etag) {
			delete(h, "Content-Type")
			delete(h, "Content-Encoding")
			c.w.WriteHeader(http.StatusNotModified)
			return
		}
		h["Accept-Ranges"] = bytesUnit
	}
	status := http.StatusOK
	if v := c.r.Header.Get("Range"); v != "" && etag != "" && c.r.Method == http.MethodGet && c.unchanged(etag) {
		first, length, ok := parseRange(v, int64(len(body)))
		switch {
		case ok && length == 0:
			h.Set("Content-Range", fmt.Sprintf("bytes */%d", len(body)))
			delete(h, "Content-Encoding")
			c.empty(http.StatusRequestedRangeNotSatisfiable)
			return
		case ok:
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, first+length-1, len(body)))
			body, status = body[first:first+length], http.StatusPartialContent
		}
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		c.join(body)
		_, _ = c.w.Write(body) // who left has no use for an error
	}
}

// sendNewest is send for what may be another next time, and differ by who asks.
func (c *call) sendNewest(contentType string, body []byte) {
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "private, no-cache")
	h.Set("Vary", tokenHeader)
	c.send(body, blobTag(digest.Of(body)))
}

var bytesUnit = []string{"bytes"}

// unchanged tells whether a part of what has this etag is still wanted.
func (c *call) unchanged(etag string) bool {
	v := c.r.Header.Get("If-Range")
	return v == "" || v == etag
}

// matches tells whether a list of etags has one; weak ones count.
func matches(list, etag string) bool {
	if list == "" {
		return false
	}
	for v := range strings.SplitSeq(list, ",") {
		if v = strings.TrimSpace(v); v == "*" || strings.TrimPrefix(v, "W/") == etag {
			return true
		}
	}
	return false
}

// parseRange reads a Range of one part. ok is false where all is to be sent: it
// has several parts, or can't be read. length is 0 where nothing is in it.
func parseRange(v string, size int64) (first, length int64, ok bool) {
	spec, isBytes := strings.CutPrefix(v, "bytes=")
	from, to, isRange := strings.Cut(textproto.TrimString(spec), "-")
	if !isBytes || !isRange || strings.Contains(spec, ",") {
		return 0, 0, false
	}
	if from == "" { // the last so many
		n, err := strconv.ParseUint(to, 10, 62)
		if err != nil {
			return 0, 0, false
		}
		n = min(n, uint64(size))
		return size - int64(n), int64(n), true
	}
	start, err := strconv.ParseUint(from, 10, 62)
	if err != nil {
		return 0, 0, false
	}
	end := uint64(size) - 1
	if to != "" {
		last, err := strconv.ParseUint(to, 10, 62)
		if err != nil || last < start {
			return 0, 0, false
		}
		end = min(end, last)
	}
	if start >= uint64(size) {
		return 0, 0, true
	}
	return int64(start), int64(end - start + 1), true
}

// accepts tells whether a header such as Accept names a value, with a weight
// that isn't 0. Ranges such as */* don't count.
func accepts(h http.Header, key, value string) bool {
	for _, line := range h[key] {
		for part := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(part, ";")
			if !strings.EqualFold(strings.TrimSpace(name), value) {
				continue
			}
			for p := range strings.SplitSeq(params, ";") {
				k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
				if strings.EqualFold(k, "q") {
					q, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
					return err == nil && q > 0
				}
			}
			return true
		}
	}
	return false
}
