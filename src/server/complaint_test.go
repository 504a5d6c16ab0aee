package server

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestComplaint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		c := complaint{log: slog.New(slog.NewTextHandler(&b, nil)), op: "put", bad: "full", good: "room again"}
		full := errors.New("no space")
		c.note(nil)
		for range 1000 {
			c.note(full, "domain", "d")
			c.note(nil) // of another domain
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(calm + time.Second)
		c.note(nil)
		c.note(nil)
		lines := strings.Split(strings.TrimSpace(b.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], `level=WARN msg=full op=put err="no space" domain=d`) ||
			!strings.Contains(lines[1], `level=INFO msg="room again" op=put failed=1000 seconds=9`) {
			t.Errorf("the log has %q", lines)
		}
		c.note(full)
		if n := strings.Count(b.String(), "msg=full"); n != 2 {
			t.Errorf("told %d times, when it began for the second time", n)
		}
	})
}
