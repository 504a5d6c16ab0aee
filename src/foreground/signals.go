package foreground

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/aysfs/aysfs/src/logs"
)

// sameSignal is how long after a signal others are taken for the same one. That its
// supervisor was killed a process is told more than once, as the supervisor's threads
// end; and Ctrl-C reaches both of them, and then comes from the supervisor again.
const sameSignal = time.Second

// Signals returns a context that ends with the first SIGTERM or SIGINT, and gets
// SIGHUPs into reload. Some time later, or after stop, such signals end the process at
// once, as they do others.
func Signals() (ctx context.Context, stop context.CancelFunc, reload chan os.Signal) {
	ctx, stop = signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, func() { time.AfterFunc(sameSignal, stop) })
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
