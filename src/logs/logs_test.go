package logs

import (
	"bytes"
	"encoding/json"
	"log"
	"log/slog"
	"strings"
	"testing"
)

func TestLevelChangesLive(t *testing.T) {
	var b bytes.Buffer
	level := new(slog.LevelVar)
	log := New(&b, "text", level)
	log.Debug("unheard")
	level.Set(slog.LevelDebug)
	log.Debug("heard", "op", "test")
	if s := b.String(); strings.Contains(s, "unheard") || !strings.Contains(s, "msg=heard op=test") {
		t.Errorf("got %q", s)
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	New(&b, "json", slog.LevelInfo).Info("a message", "op", "test")
	var entry struct{ Msg, Op string }
	if err := json.Unmarshal(b.Bytes(), &entry); err != nil || entry.Msg != "a message" || entry.Op != "test" {
		t.Errorf("got %q, %v", b.String(), err)
	}
}

// What a server sends unasked is not for the log.
func TestAdopt(t *testing.T) {
	was := slog.Default()
	t.Cleanup(func() { slog.SetDefault(was) })
	var b bytes.Buffer
	Adopt(New(&b, "json", slog.LevelInfo))
	log.Printf("Unsolicited response received on idle HTTP channel starting with %q; err=%v", "a secret", nil)
	log.Print(strings.Repeat("long", 10_000))
	out := b.String()
	if !strings.Contains(out, "Unsolicited response") || strings.Contains(out, "secret") {
		t.Errorf("got %q", out)
	}
	for line := range strings.Lines(out) {
		if !json.Valid([]byte(line)) || len(line) > 500 {
			t.Errorf("line %.1000q", line)
		}
	}
}
