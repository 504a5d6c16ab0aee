package daemon

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
)

// smuggled is a request that must not be seen inside of another one. The client in
// it has another name in each test, as long as this one.
const smuggled = "POST /ays/client/smuggled HTTP/1.1\r\nHost: cache\r\nContent-Length: 0\r\n\r\n"

// raw sends bytes to the cache and returns what comes until it closes the
// connection, or says nothing more for a while.
func (r *running) raw(t *testing.T, b string) string {
	t.Helper()
	conn, err := net.Dial("tcp", r.Addr().String())
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	if _, err := io.WriteString(conn, b); err != nil {
		return "" // it has hung up already
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	got, _ := io.ReadAll(conn)
	return string(got)
}

var heardOf atomic.Int64

// unheard is the name of a client that nobody has told of.
func unheard() string { return fmt.Sprintf("c%07d", heardOf.Add(1)) }

// heard tells whether a request for that path has come: what it told is known.
func (r *running) heard(t *testing.T, client string) bool {
	t.Helper()
	_, page := get(t, http.DefaultClient, r.url+"/")
	return bytes.Contains(page, []byte(client))
}

// What one reads as a body and the other as a request: of every request whose end
// could be seen in two places nothing is left to be read as the next one.
func TestSmuggling(t *testing.T) {
	r := run(t, configText(t, ""))
	if r.raw(t, strings.ReplaceAll(smuggled, "smuggled", "honest")); !r.heard(t, "honest") {
		t.Fatal("a plain request is not heard")
	}
	chunks := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(smuggled), smuggled)
	post := "POST /ays/client/outer HTTP/1.1\r\nHost: cache\r\n"
	for name, text := range map[string]string{
		// The length covers all, the chunks end early.
		"length and chunks":        fmt.Sprintf("%sContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s", post, len(smuggled)+5, smuggled),
		"chunks and length":        fmt.Sprintf("%sTransfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n%s", post, len(smuggled)+5, smuggled),
		"GET, chunks and length":   fmt.Sprintf("GET /healthz HTTP/1.1\r\nHost: cache\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s", len(smuggled)+5, smuggled),
		"PUT, chunks and length":   fmt.Sprintf("PUT /default/%v HTTP/1.1\r\nHost: cache\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s", digest.Of(nil), len(smuggled)+5, smuggled),
		"chunks of HTTP/1.0":       fmt.Sprintf("POST /ays/client/outer HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s", len(smuggled)+5, smuggled),
		"chunks, folded":           fmt.Sprintf("%sContent-Length: %d\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n%s", post, len(smuggled)+5, smuggled),
		"chunks, spelled oddly":    fmt.Sprintf("%sContent-Length: %d\r\nTransfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n%s", post, len(smuggled)+5, smuggled),
		"chunks, spelled twice":    fmt.Sprintf("%sContent-Length: %d\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n%s", post, len(smuggled)+5, smuggled),
		"chunks among others":      fmt.Sprintf("%sContent-Length: %d\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n%s", post, len(smuggled)+5, smuggled),
		"a space before the colon": fmt.Sprintf("%sContent-Length: %d\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n%s", post, len(smuggled)+5, smuggled),
		"two lengths, long first":  fmt.Sprintf("%sContent-Length: %d\r\nContent-Length: 0\r\n\r\n%s", post, len(smuggled), smuggled),
		"two lengths, short first": fmt.Sprintf("%sContent-Length: 0\r\nContent-Length: %d\r\n\r\n%s", post, len(smuggled), smuggled),
		"lengths in a list":        fmt.Sprintf("%sContent-Length: 0, %d\r\n\r\n%s", post, len(smuggled), smuggled),
		"a length with a sign":     fmt.Sprintf("%sContent-Length: +0\r\n\r\n%s", post, smuggled),
		"a length in hex":          fmt.Sprintf("%sContent-Length: 0x0\r\n\r\n%s", post, smuggled),
		"a chunk's length too long": post + "Transfer-Encoding: chunked\r\n\r\n" +
			"00000000000000000\r\n\r\n" + smuggled,
		"a chunk's line feed":        post + "Transfer-Encoding: chunked\r\n\r\n0;x=\n\r\n" + smuggled + "\r\n0\r\n\r\n",
		"a body of a GET":            fmt.Sprintf("GET /healthz HTTP/1.1\r\nHost: cache\r\nContent-Length: %d\r\n\r\n%s", len(smuggled), smuggled),
		"a chunked body of a GET":    "GET /healthz HTTP/1.1\r\nHost: cache\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks,
		"a body that is not read":    fmt.Sprintf("POST /none/none HTTP/1.1\r\nHost: cache\r\nContent-Length: %d\r\n\r\n%s", len(smuggled), smuggled),
		"a body of a HEAD":           fmt.Sprintf("HEAD /default/%v HTTP/1.1\r\nHost: cache\r\nContent-Length: %d\r\n\r\n%s", digest.Of(nil), len(smuggled), smuggled),
		"a body that is too large":   fmt.Sprintf("POST /ays/client/outer HTTP/1.1\r\nHost: cache\r\nContent-Length: %d\r\n\r\n%s%s", 2<<20, smuggled, smuggled),
		"a client that expects":      fmt.Sprintf("POST /none/none HTTP/1.1\r\nHost: cache\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n%s", len(smuggled), smuggled),
		"an upgrade":                 fmt.Sprintf("GET /healthz HTTP/1.1\r\nHost: cache\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: %d\r\n\r\n%s", len(smuggled), smuggled),
		"a line feed in the path":    "GET /healthz\nHost: x\n\n" + smuggled,
		"an escaped one in the path": "GET /md/client%0d%0a%0d%0aPOST%20/ays/client/smuggled%20HTTP/1.1/m/ HTTP/1.1\r\nHost: cache\r\n\r\n",
		"no version":                 "GET /healthz\r\n" + smuggled,
		"two hosts":                  "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + smuggled,
		"a NUL in a header":          "GET /healthz HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n" + smuggled,
		"a bare CR in a header":      "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\rContent-Length: 300\r\n\r\n" + smuggled,
	} {
		t.Run(name, func(t *testing.T) {
			client := unheard()
			answer := r.raw(t, strings.ReplaceAll(text, "smuggled", client))
			if r.heard(t, client) {
				t.Fatalf("it is heard; the answers:\n%s", answer)
			}
			in := bufio.NewReader(strings.NewReader(answer))
			for n := 0; ; n++ {
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					break
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				if n > 0 && resp.StatusCode != 400 { // what is left is no request
					t.Errorf("a second answer: %s", answer)
				}
			}
		})
	}
}

// h2 makes frames of HTTP/2 by hand, as no honest client would.
type h2 struct{ bytes.Buffer }

func (h *h2) frame(kind, flags byte, stream uint32, payload []byte) {
	h.Write([]byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags})
	_ = binary.Write(h, binary.BigEndian, stream)
	h.Write(payload)
}

// headers are pairs of name and value, as literals of HPACK without an index.
func (h *h2) headers(stream uint32, ends bool, pairs ...string) {
	var b []byte
	for i := 0; i < len(pairs); i += 2 {
		b = append(b, 0)
		for _, s := range pairs[i : i+2] {
			b = append(append(b, byte(len(s))), s...) // at most 126 bytes
		}
	}
	flags := byte(0x4) // END_HEADERS
	if ends {
		flags |= 0x1
	}
	h.frame(1, flags, stream, b)
}

// The same over HTTP/2, where a length is but a claim, and a header's value may
// have anything in it.
func TestSmugglingOverHTTP2(t *testing.T) {
	r := run(t, configText(t, ""))
	post := []string{":method", "POST", ":scheme", "http", ":authority", "cache", ":path", "/ays/client/smuggled"}
	get := []string{":method", "GET", ":scheme", "http", ":authority", "cache", ":path", "/healthz"}
	send := func(t *testing.T, client string, make func(h *h2)) {
		t.Helper()
		h := &h2{}
		h.WriteString("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
		h.frame(4, 0, 0, nil)
		make(h)
		h.headers(101, true, get...) // answered after all of it
		conn, err := net.Dial("tcp", r.Addr().String())
		must(t, err)
		defer conn.Close()
		must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
		if _, err := conn.Write(bytes.ReplaceAll(h.Bytes(), []byte("smuggled"), []byte(client))); err != nil {
			return
		}
		in := bufio.NewReader(conn)
		for {
			head := [9]byte{}
			if _, err := io.ReadFull(in, head[:]); err != nil {
				return // it was hung up on
			}
			n := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
			if _, err := in.Discard(n); err != nil {
				return
			}
			if stream := binary.BigEndian.Uint32(head[5:]); stream == 101 && (head[3] == 3 || head[4]&1 != 0) || head[3] == 7 {
				return // the last one's end, or GOAWAY
			}
		}
	}
	with := func(more ...string) []string { return append(append([]string(nil), post...), more...) }
	send(t, "honestly", func(h *h2) {
		h.headers(1, true, post...)
	})
	if !r.heard(t, "honestly") {
		t.Fatal("a plain request is not heard")
	}
	for name, make := range map[string]func(h *h2){
		"more than its length": func(h *h2) {
			h.headers(1, false, with("content-length", "2")...)
			h.frame(0, 1, 1, []byte("{}"+smuggled))
		},
		"less than its length": func(h *h2) {
			h.headers(1, false, with("content-length", "20")...)
			h.frame(0, 1, 1, []byte("{}"))
		},
		"chunks":             func(h *h2) { h.headers(1, true, with("transfer-encoding", "chunked")...) },
		"a connection":       func(h *h2) { h.headers(1, true, with("connection", "keep-alive")...) },
		"lines in a value":   func(h *h2) { h.headers(1, true, with("x", "a\r\nContent-Length: 5\r\n\r\n"+smuggled[:60])...) },
		"lines in a name":    func(h *h2) { h.headers(1, true, with("x\r\ny", "z")...) },
		"a name in capitals": func(h *h2) { h.headers(1, true, with("Content-Length", "0")...) },
		"a colon in a name":  func(h *h2) { h.headers(1, true, with("x: y", "z")...) },
		"no path":            func(h *h2) { h.headers(1, true, post[:6]...) },
		"a path twice":       func(h *h2) { h.headers(1, true, with(":path", "/ays/client/smuggled")...) },
		"a path at the end": func(h *h2) {
			h.headers(1, true, append(post[:6:6], "x", "y", post[6], post[7])...)
		},
		"lines in the path": func(h *h2) { h.headers(1, true, with()[:7:7]...) },
		"a request in the method": func(h *h2) {
			h.headers(1, true, append([]string{":method", "GET /x HTTP/1.1\r\n\r\nPOST"}, post[2:]...)...)
		},
	} {
		if name == "lines in the path" {
			make = func(h *h2) {
				h.headers(1, true, append(append([]string{}, post[:7]...), "/ays/client/smuggled\r\nx: y")...)
			}
		}
		t.Run(name, func(t *testing.T) {
			client := unheard()
			send(t, client, make)
			if r.heard(t, client) {
				t.Error("it is heard")
			}
		})
	}
}

// What a request has in its names comes back in no header, and in the log in no line
// of its own.
func TestHeaderInjection(t *testing.T) {
	st := store(t, map[string]string{"f": "content"})
	r := run(t, configText(t, ""))
	evil := "%0d%0aX-Evil:%20yes%0d%0a%0d%0a"
	d := digest.Of([]byte("content"))
	for _, path := range []string{
		"/ays/client/" + evil, "/ays/stor/a" + evil, "/ays/mount/a/" + evil, "/ays/profile/a" + evil + "/b", "/md/a" + evil + "/b/c", "/md/a/b/" + evil,
		"/md/a%7Cb(1)" + evil + "/any/head", "/md/" + evil + "/a%7Cb(1)/any/head", "/md/a%7Cb(1)/x" + evil + "/head", "/md/a%7Cb(1)/any/profile" + evil,
		"/default" + evil + "/" + d.String(), "/default/" + d.String() + evil, "/default/" + d.String() + "?stor=" + evil, "/default/" + d.String() + "?fetch=" + evil,
		"/%0d%0aX-Evil: yes", "/" + evil,
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT"} {
			body := `{"url":"` + st.URL + `","platform":"x\r\nX-Evil: yes","version":"1\r\nX-Evil: yes","ays.id":"` + testID + `","stor.name":"s","path":"/x\r\nX-Evil: yes"}`
			text := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: cache\r\nConnection: close\r\nAysfs-Stor: x\tX-Evil: yes\r\nAysfs-Via: a, b\tX-Evil: yes\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
				method, path, len(body), body)
			answer := r.raw(t, text)
			head, _, _ := strings.Cut(answer, "\r\n\r\n")
			if strings.Contains(answer, "\nX-Evil") || strings.Contains(head, "X-Evil") && !strings.HasPrefix(head, "HTTP/1.1 400 Bad Request") {
				t.Errorf("%s %s:\n%s", method, path, answer)
			}
		}
	}
	r.stop()
	for line := range strings.Lines(r.log.String()) {
		if strings.HasPrefix(line, "X-Evil") || !strings.HasPrefix(line, "time=") {
			t.Errorf("a line in the log: %q", line)
		}
	}
}

// What is too large is told so, or hung up on, before it is taken in.
func TestOversized(t *testing.T) {
	r := run(t, configText(t, ""))
	long := strings.Repeat("x", 2<<20)
	deep := strings.Repeat(`{"a":`, 200_000) + "1" + strings.Repeat("}", 200_000)
	digests := strings.Repeat(digest.Of(nil).String()+"\n", 200_000)
	post := func(path, kind, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: cache\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", path, kind, len(body), body)
	}
	for name, k := range map[string]struct{ text, want string }{
		"a path":               {"GET /" + long + " HTTP/1.1\r\nHost: cache\r\n\r\n", "431"},
		"a header":             {"GET / HTTP/1.1\r\nHost: cache\r\nX: " + long + "\r\n\r\n", "431"},
		"many headers":         {"GET / HTTP/1.1\r\nHost: cache\r\n" + strings.Repeat("X: y\r\n", 400_000) + "\r\n", "431"},
		"tokens":               {"GET /md/trees HTTP/1.1\r\nHost: cache\r\nAysfs-Token: " + strings.Repeat("x,", 4000) + "\r\n\r\n", "401"},
		"a way through caches": {"GET /md/trees HTTP/1.1\r\nHost: cache\r\nAysfs-Via: " + strings.Repeat("x,", 4000) + "\r\n\r\n", "508"},
		"a name":               {post("/ays/client/"+strings.Repeat("x", 5000), "application/json", "{}"), "400"},
		"a body":               {post("/ays/client/x", "application/json", `{"platform":"`+long+`"}`), "413"},
		"a body's depth":       {post("/ays/client/x", "application/json", deep[:900_000]), "400"},
		"a body's keys":        {post("/ays/client/x", "application/json", `{"a":1`+manyKeys(100_000)+"}"), "4"},
		"a form's keys":        {post("/ays/client/x", "application/x-www-form-urlencoded", strings.Repeat("a=b&", 200_000)), "4"},
		"a list of digests":    {post("/default", "text/plain", digests), "413"},
		"a body without end":   {"POST /ays/client/x HTTP/1.1\r\nHost: cache\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("10000\r\n"+long[:0x10000]+"\r\n", 32) + "0\r\n\r\n", "413"},
		"a length":             {"POST /ays/client/x HTTP/1.1\r\nHost: cache\r\nContent-Length: 9223372036854775807\r\n\r\n{}", "413"},
		"a length past all":    {"POST /ays/client/x HTTP/1.1\r\nHost: cache\r\nContent-Length: 92233720368547758070\r\n\r\n{}", "400"},
		"a range":              {"GET /default/" + digest.Of(nil).String() + " HTTP/1.1\r\nHost: cache\r\nConnection: close\r\nRange: bytes=" + strings.Repeat("0-1,", 4000) + "\r\n\r\n", "404"},
	} {
		t.Run(name, func(t *testing.T) {
			answer := r.raw(t, k.text)
			// Who sends on and on may be cut off before the answer has reached it.
			if answer != "" && !strings.HasPrefix(answer, "HTTP/1.1 "+k.want) {
				t.Errorf("%.200q, want %s", answer, k.want)
			}
			if answer == "" && len(k.text) < 1<<20 {
				t.Error("no answer")
			}
		})
	}
	if status, _ := get(t, http.DefaultClient, r.url+"/healthz"); status != 200 {
		t.Errorf("healthz: %d", status)
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"k%d":1`, i)
	}
	return b.String()[:900_000]
}
