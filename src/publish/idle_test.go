package publish

import (
	"log/slog"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
)

// What comes just as an intake's domain has been idle for long enough keeps it open:
// else gc could remove it before its head comes.
func TestUsedAsItIsIdle(t *testing.T) {
	in, err := OpenIntake(IntakeOptions{Dir: t.TempDir(), Limit: 1 << 20, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := in.Make(); err != nil {
		t.Fatal(err)
	}
	text := []byte("text")
	if _, err := in.Put(t.Context(), "default", digest.Of(text), text); err != nil {
		t.Fatal(err)
	}
	d := in.domains["default"]
	if err := d.closeIdle(); err != nil || d.store == nil {
		t.Errorf("closed just after something came: %v", err)
	}
	d.used.Store(time.Now().Add(-2 * intakeIdle).UnixNano())
	if err := d.closeIdle(); err != nil || d.store != nil {
		t.Errorf("open though nothing came for long: %v", err)
	}
}
