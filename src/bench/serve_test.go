package main

import (
	"bufio"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestReadAnswer(t *testing.T) {
	r := bufio.NewReader(strings.NewReader("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nX: y\r\n\r\nhello" +
		"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n" +
		"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
	for _, want := range []int64{5, 0} {
		if n, err := readAnswer(r); n != want || err != nil {
			t.Errorf("got %d, %v, want %d", n, err, want)
		}
	}
	if _, err := readAnswer(r); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("404: got %v", err)
	}
	for _, bad := range []string{"", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfour"} {
		if n, err := readAnswer(bufio.NewReader(strings.NewReader(bad))); err == nil {
			t.Errorf("%q: got %d", bad, n)
		}
	}
}

func TestServing(t *testing.T) {
	r := results{Served: []served{
		{Work: "serve4k", Server: "nginx", Clients: 8, Rate: 1000, Bytes: 4e6, P50: 0.001, P99: 0.002, Memory: 10 << 10},
		{Work: "serve4k", Server: "ays_cache", Clients: 8, Rate: 400, Bytes: 2e6, P50: 0.002, P99: 0.01, CPU: 17e-6, Memory: 20 << 10},
		{Work: "serve4k", Server: "ays_cache", Clients: 8, Rate: 600, Bytes: 2e6, P50: 0.002, P99: 0.01, CPU: 17e-6, Memory: 20 << 10},
	}}
	rows := r.serving()
	if len(rows) != 3 {
		t.Fatalf("%d rows, want a title and two: %q", len(rows), rows)
	}
	if got, want := strings.Join(rows[2], "|"), "serve4k|8|ays_cache|500|0.50×|2.0|2.00 ms|10.0 ms|17.0 µs|20"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Processor time is counted of the process and of its children.
func TestCPUTime(t *testing.T) {
	p, err := startProcess(t.TempDir(), exec.Command("sh", "-c", "(while :; do :; done) & wait"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		used, err := p.cpuTime()
		if err != nil {
			t.Fatal(err)
		}
		if used > 100*time.Millisecond {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%v used", used)
		}
	}
}

func TestNoise(t *testing.T) {
	for _, n := range []int{256, 1000, 256 << 10} {
		if b := noise("a", n); len(b) != n || string(b) != string(noise("a", n)) || string(b[:32]) == string(noise("b", n)[:32]) {
			t.Errorf("%d bytes", n)
		}
	}
}
