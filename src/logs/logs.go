package logs

import (
	"io"
	"log"
	"log/slog"
	"strings"
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

// Adopt has to also get what libraries write to the standard logger.
func Adopt(to *slog.Logger) {
	slog.SetDefault(to) // which sets log's flags, too
	log.SetOutput(library{to})
}

// library is what the standard logger writes to.
type library struct{ to *slog.Logger }

// maxLibrary is how much of a line of a library's is logged, in bytes.
const maxLibrary = 300

// Write logs a line. net/http quotes what servers send that nobody asked for, which
// may be kilobytes of somebody's file: that is left out.
func (l library) Write(line []byte) (int, error) {
	s, _, _ := strings.Cut(strings.TrimSpace(string(line)), " starting with \"")
	if len(s) > maxLibrary {
		s = s[:maxLibrary] + "..."
	}
	l.to.Info(s, "op", "library")
	return len(line), nil
}
