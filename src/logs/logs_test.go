package logs

import (
	"bytes"
	"encoding/json"
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
