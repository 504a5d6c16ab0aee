package logs

import (
	"io"
	"log/slog"
)

// New returns a log that writes to w, as JSON or, for any other format, as text.
// level may change at any time.
func New(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
