package foreground

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/aysfs/aysfs/src/logs"
)

// Signals returns a context that ends with the first SIGTERM or SIGINT, and gets
// SIGHUPs into reload. After stop such signals end the process at once, as they do
// others.
func Signals() (ctx context.Context, stop context.CancelFunc, reload chan os.Signal) {
	ctx, stop = signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	reload = make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	return ctx, stop, reload
}

// Log returns the log on stderr, also of what libraries have to say, and its level,
// which may be changed at any time.
func Log(format string, at slog.Level) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(at)
	log := logs.New(os.Stderr, format, level)
	logs.Adopt(log) // net/http complains to the standard logger
	return log, level
}
