package fs

import "time"

// SetLimits replaces Config's IOTimeout and Window from the next request on.
func (f *FS) SetLimits(ioTimeout time.Duration, window int64) {
	f.ioTimeout.Store(int64(ioTimeout))
	f.window.Store(window)
}

func (f *FS) timeout() time.Duration { return time.Duration(f.ioTimeout.Load()) }
